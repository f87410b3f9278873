"""Files of tensors are whole or refused in one line, and no pickled code is run."""

import io
import os
import pickle
import stat
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lenet.data import tensor_files
from lenet.data.tensor_files import CheckpointError, load, save


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


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


def test_nested_states_come_back_with_their_types(path):
    state = {
        "model": weights(small()),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
        "special": [float("inf"), None, True, "text", 3, (1, 2)],
        "float64": torch.tensor([1 / 3], dtype=torch.float64),
    }
    save(state, path)
    found = load(path)
    assert same(found["model"], state["model"])
    assert torch.equal(found["float64"], state["float64"])
    assert found["float64"].dtype is torch.float64
    assert found["optimizer"] == state["optimizer"]
    assert found["special"] == state["special"]
    assert [type(value) for value in found["special"]] == [type(v) for v in state["special"]]


def test_tensors_are_put_on_the_device_asked_for(path):
    save(small().state_dict(), path)
    assert {tensor.device.type for tensor in load(path, "meta").values()} == {"meta"}
    assert {tensor.device.type for tensor in load(path).values()} == {"cpu"}


def test_torch_reads_a_saved_file_too(path):
    save(small().state_dict(), path)
    assert same(torch.load(path, weights_only=True), weights(small()))


def test_a_files_bytes_depend_on_the_state_alone(path, tmp_path):
    save(small().state_dict(), path)
    save(small().state_dict(), tmp_path / "runs" / "another.pt")
    assert path.read_bytes() == (tmp_path / "runs" / "another.pt").read_bytes()


def test_a_saved_file_has_the_mode_of_any_new_file(path):
    path.with_name("plain").touch()
    save({}, path)
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (path, path.with_name("plain"))]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_old_file_alone(path, monkeypatch, function, error):
    save({"epoch": 1}, path)

    def crash(*_):
        raise error

    monkeypatch.setattr(os, function, crash)
    with pytest.raises(type(error)):
        save({"epoch": 2}, path)
    monkeypatch.undo()
    assert os.listdir(path.parent) == [path.name]
    assert load(path) == {"epoch": 1}


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_the_name_after(path, monkeypatch):
    """A power cut may come between any two of these."""
    done = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("fsync"), real_fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *a: (done.append("replace"), real_replace(*a)))
    save({"a": torch.ones(3)}, path)
    assert done == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize(
    "value", [torch.save, nn.Linear(1, 1), lambda: 0], ids=["function", "network", "lambda"]
)
def test_a_state_that_could_not_be_read_again_is_not_written(path, value):
    save({"epoch": 1}, path)
    with pytest.raises(CheckpointError, match="cannot be written") as caught:
        save({"epoch": 2, "extra": value}, path)
    assert "\n" not in str(caught.value)
    assert load(path) == {"epoch": 1}


# ---- What is damaged ---------------------------------------------------------------------------


def test_a_flipped_bit_is_noticed_or_changes_nothing(path):
    """Some bits of a ZIP archive mean nothing, such as the padding between its parts."""
    state = {"weight": torch.tensor([1.0, 2.0, 3.0]), "epoch": 3}
    content = bytearray(packed(state))
    raw = content.index(state["weight"].numpy().tobytes())
    unnoticed = []
    for place in {*range(raw * 8, raw * 8 + 96), *range(0, 8 * len(content), 101)}:
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            found = load(path)
            assert same({"weight": found["weight"]}, {"weight": state["weight"]})
            assert found["epoch"] == 3
            unnoticed.append(place)
        except CheckpointError as error:
            assert "\n" not in str(error)
        content[place // 8] ^= 1 << place % 8
    assert not set(unnoticed) & set(range(raw * 8, raw * 8 + 96))


def test_a_part_that_torch_would_take_for_a_folder_is_noticed(path):
    """torch 2.14 gives such a tensor whatever was in memory."""
    save({"weight": torch.ones(3)}, path)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        names = [part.filename for part in archive.infolist()]
    entry = -1
    for _ in range(1 + names.index("archive/data/0")):
        entry = content.index(b"PK\1\2", entry + 1)
    content[entry + 38] |= 0x10
    path.write_bytes(content)
    assert "checksum" in refusal(path)


@pytest.mark.parametrize("old_format", [False, True])
def test_a_file_cut_at_any_length_is_refused(path, old_format):
    content = packed(weights(small()), old_format)
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


@pytest.mark.parametrize(
    "content",
    [b"", b"hello\n", b"\x00" * 100, b"PK\x03\x04", b"\x80\x02.", pickle.dumps(1, 5)],
    ids=["empty", "text", "zeros", "start of an archive", "start of a pickle", "new pickle"],
)
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
    marker = tmp_path / "executed"
    bomb = Bomb(marker)
    if isinstance(kind, int):
        path.write_bytes(pickle.dumps(bomb, kind))
    elif kind == "beside weights":
        path.write_bytes(packed({**small().state_dict(), "extra": bomb}))
    else:
        path.write_bytes(packed(bomb, kind == "old format"))
    assert "found a pickle that needs posix.system; nothing of it was run" in refusal(path)
    assert not marker.exists()


def test_code_in_a_new_pickle_is_not_run(path, tmp_path):
    for protocol in (4, 5):
        path.write_bytes(pickle.dumps(Bomb(tmp_path / "executed"), protocol))
        refusal(path)
    assert not (tmp_path / "executed").exists()


def test_a_whole_pickled_model_is_refused_by_its_class(path):
    torch.save(small(), path)
    assert "needs torch.nn.modules.container.Sequential; nothing" in refusal(path)


def test_anything_but_a_file_is_refused(path, tmp_path):
    assert refusal(path) == "no such file"
    assert refusal(tmp_path) == "expected a file, found a folder"
    assert refusal(tmp_path / "weights.pth" / "below") == "no such file"
    os.mkfifo(path)  # reading it would wait for ever
    assert refusal(path) == "expected a file, found a device, pipe or socket"
    with pytest.raises(CheckpointError, match="found a device, pipe or socket"):
        save({}, path)
    assert not path.is_file()


def test_a_large_file_is_refused_whether_packed_or_not(path, monkeypatch):
    monkeypatch.setattr(tensor_files, "MAX_BYTES", 10_000)
    path.write_bytes(packed(torch.zeros(10_000, dtype=torch.uint8)))
    assert refusal(path) == "expected at most 10,000 bytes of tensors, found more"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
        archive.writestr("archive/data/0", bytes(10_000))
    assert path.stat().st_size < 1000
    assert refusal(path) == "expected at most 10,000 bytes of tensors, found more"
