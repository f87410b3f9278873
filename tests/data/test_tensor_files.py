"""Files of tensors are whole or refused in one line, and no pickled code is run."""

import io
import os
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lenet.data.tensor_files import MAX_BYTES, CheckpointError, load, save

STATE = {
    "model": {"weight": torch.tensor([1.0, 2.0, 3.0])},
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
    "special": [float("inf"), None, True, "text", 3, (1, 2)],
    "float64": torch.tensor([1 / 3], dtype=torch.float64),
}
OTHERS = {
    "empty": b"",
    "text": b"hello\n",
    "start of an archive": b"PK\x03\x04",
    "start of a pickle": b"\x80\x02.",
    "new pickle": pickle.dumps([print], 5),
}


def packed(content, old_format=False):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not old_format)
    return buffer.getvalue()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


def refusal(path):
    """The one line in which a file is refused."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable()
    return message.removeprefix(f"{path}: ")


# ---- What is written ---------------------------------------------------------------------------


@pytest.mark.parametrize("read", [load, lambda path: torch.load(path, weights_only=True)])
def test_nested_states_come_back_with_their_types(path, read):
    save(STATE, path)
    found = read(path)
    assert torch.equal(found["model"]["weight"], STATE["model"]["weight"])
    assert torch.equal(found["float64"], STATE["float64"])
    assert found["float64"].dtype is torch.float64
    assert found["optimizer"] == STATE["optimizer"]
    assert found["special"] == STATE["special"]
    assert [type(value) for value in found["special"]] == [type(v) for v in STATE["special"]]


def test_tensors_are_put_on_the_device_asked_for(path):
    save(STATE["model"], path)
    assert load(path, "meta")["weight"].device.type == "meta"


def test_a_files_bytes_depend_on_the_state_alone(path, tmp_path):
    save(STATE, path)
    save(STATE, tmp_path / "runs" / "another.pt")
    assert path.read_bytes() == (tmp_path / "runs" / "another.pt").read_bytes()


@pytest.mark.parametrize(
    "value", [torch.save, nn.Linear(1, 1), lambda: 0], ids=["function", "network", "lambda"]
)
def test_a_state_that_could_not_be_read_again_is_not_written(path, value):
    save({"epoch": 1}, path)
    with pytest.raises(CheckpointError, match="cannot be written") as caught:
        save({"epoch": 2, "extra": value}, path)
    assert "\n" not in str(caught.value)
    assert load(path) == {"epoch": 1}


def test_a_save_that_fails_leaves_no_temporary_file(path):
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        save(STATE, path)
    assert os.listdir(path.parent) == [path.name]


# ---- What is damaged ---------------------------------------------------------------------------


def test_a_flipped_bit_of_a_weight_is_noticed(path):
    content = bytearray(packed(STATE))
    start = content.index(STATE["model"]["weight"].numpy().tobytes())
    for bit in range(96):
        content[start + bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        assert "wrong checksum" in refusal(path)
        content[start + bit // 8] ^= 1 << bit % 8


@pytest.mark.parametrize("old_format", [False, True])
def test_a_file_cut_at_any_length_is_refused(path, old_format):
    content = packed(STATE["model"], old_format)
    for length in range(0, len(content), 131):
        path.write_bytes(content[:length])
        assert refusal(path).startswith("expected ")


@given(
    old_format=st.booleans(),
    edits=st.lists(st.tuples(st.integers(0, 10**4), st.binary(max_size=9)), max_size=4),
)
def test_a_file_with_other_bytes_in_it_is_read_or_refused_in_one_line(path, old_format, edits):
    content = packed({"weight": torch.ones(2, 3), "epoch": [3, "x"]}, old_format)
    for place, new in edits:
        place %= len(content)
        content = content[:place] + new + content[place + len(new) // 2 :]
    path.write_bytes(content)
    try:
        load(path)
    except CheckpointError as error:
        assert str(error).startswith(f"{path}: ")
        assert str(error).isprintable()


@pytest.mark.parametrize("content", OTHERS.values(), ids=list(OTHERS))
def test_a_file_of_something_else_is_refused_without_a_warning(path, content):
    path.write_bytes(content)
    assert refusal(path).startswith("expected tensors, found a damaged or different file")


# ---- What is not for us ------------------------------------------------------------------------


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("kind", ["archive", "old format", "beside weights", 0, 2])
def test_code_in_a_pickle_is_named_and_not_run(path, tmp_path, kind):
    bomb = Bomb(tmp_path / "executed")
    if isinstance(kind, int):
        path.write_bytes(pickle.dumps(bomb, kind))
    elif kind == "beside weights":
        path.write_bytes(packed({**STATE["model"], "extra": bomb}))
    else:
        path.write_bytes(packed(bomb, kind == "old format"))
    assert "found a pickle that needs posix.system; nothing of it was run" in refusal(path)
    assert not (tmp_path / "executed").exists()


def test_a_whole_pickled_model_is_refused_by_its_class(path):
    torch.save(nn.Sequential(nn.Linear(2, 2)), path)
    assert "needs torch.nn.modules.container.Sequential; nothing" in refusal(path)


def test_anything_but_a_file_of_moderate_size_is_refused(path, tmp_path):
    assert refusal(path) == "no such file"
    assert refusal(tmp_path) == "expected a file, found a folder"
    with path.open("wb") as file:
        file.truncate(MAX_BYTES + 1)  # takes no space on the disk
    assert refusal(path) == "expected at most 1,073,741,824 bytes of tensors, found more"
    path.unlink()
    os.mkfifo(path)  # reading it would wait for ever
    assert refusal(path) == "expected a file, found a device or pipe"
