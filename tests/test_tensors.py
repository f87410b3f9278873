"""Files that lie: cut, flipped, foreign, executable. And files that were never finished."""

import hashlib
import os
import pickle
import stat
import zipfile

import pytest
import torch
from torch import nn

from lenet.tensors import CheckpointError, load, save


def small(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


def test_nested_states_come_back_with_their_types(path):
    state = {
        "model": weights(small()),
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 3,
        "special": [float("inf"), None, True, "text", (1, 2)],
        "float64": torch.tensor([1 / 3], dtype=torch.float64),
    }
    save(state, path)
    found = load(path)
    assert same(found["model"], state["model"])
    assert torch.equal(found["float64"], state["float64"])
    assert found["float64"].dtype is torch.float64
    for key in ("epoch", "special"):
        assert found[key] == state[key]
        assert type(found[key]) is type(state[key])
    assert found["optimizer"]["param_groups"] == [{"lr": 0.1}]


def test_the_device_is_where_the_weights_end_up(path):
    save(small().state_dict(), path)
    assert {tensor.device.type for tensor in load(path, "meta").values()} == {"meta"}
    assert {tensor.device.type for tensor in load(path).values()} == {"cpu"}


def test_missing_folders_are_made(tmp_path):
    save({"a": 1}, tmp_path / "runs" / "one" / "state.pt")
    assert load(tmp_path / "runs" / "one" / "state.pt") == {"a": 1}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_file_has_the_mode_of_any_new_file(path, mask):
    before = os.umask(mask)
    try:
        save({}, path)
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", [(torch, "save"), (os, "fsync"), (os, "replace")])
def test_a_crash_in_the_middle_leaves_the_old_file_and_nothing_else(
    path, monkeypatch, place, error
):
    save({"epoch": 1}, path)

    def crash(*_):
        raise error

    monkeypatch.setattr(*place, crash)
    with pytest.raises(type(error)):
        save({"epoch": 2}, path)
    monkeypatch.undo()
    assert os.listdir(path.parent) == [path.name]
    assert load(path) == {"epoch": 1}


def test_a_crash_of_the_first_save_leaves_nothing(path, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):  # noqa: PT011
        save({}, path)
    assert os.listdir(path.parent) == []


def test_the_file_is_whole_before_it_has_its_name(path, monkeypatch):
    """And the name is, once its folder is: a power cut may leave neither name nor contents."""
    done = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("fsync"), real_fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *a: (done.append("replace"), real_replace(*a)))
    save({"a": torch.ones(3)}, path)
    assert done == ["fsync", "replace", "fsync"]


def test_every_flipped_bit_is_noticed(path):
    save({"weight": torch.tensor([1.0, 2.0, 3.0]), "epoch": 3}, path)
    content = bytearray(path.read_bytes())
    for place in range(8 * len(content)):
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="expected ") as caught:
            load(path)
        assert "\n" not in str(caught.value)
        content[place // 8] ^= 1 << place % 8


def test_a_flipped_bit_in_anothers_weights_is_noticed(path):
    """Their ZIP has a CRC of each part, though none of its headers."""
    torch.save(small().state_dict(), path)
    content = bytearray(path.read_bytes())
    raw = small()[0].weight.detach().numpy().tobytes()
    start = content.index(raw)
    for offset in range(0, len(raw), 7):
        content[start + offset] ^= 0x40
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match="checksum") as caught:
            load(path)
        assert "\n" not in str(caught.value)
        content[start + offset] ^= 0x40


def test_a_saved_file_is_an_archive_like_any_other(path):
    save(small().state_dict(), path)
    assert same(torch.load(path, weights_only=True), weights(small()))
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        content = path.read_bytes()
        digest = hashlib.sha256(content[: -len(archive.comment)]).hexdigest()
        assert archive.comment.decode() == f"sha256:{digest}"


def test_a_files_bytes_depend_on_the_state_alone(path, tmp_path):
    save(small().state_dict(), path)
    save(small().state_dict(), tmp_path / "another.pt")
    assert path.read_bytes() == (tmp_path / "another.pt").read_bytes()


def test_a_file_cut_at_any_length_is_noticed(path):
    save(small().state_dict(), path)
    content = path.read_bytes()
    for length in [*range(0, len(content), 29), *range(len(content) - 100, len(content))]:
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError) as caught:
            load(path)
        assert str(caught.value).startswith(f"{path}: expected ")
        assert "\n" not in str(caught.value)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain pickle", "beside weights"])
def test_a_pickle_with_code_is_refused_and_not_run(path, tmp_path, kind):
    marker = tmp_path / "executed"
    bomb = Bomb(marker)
    if kind == "zip":
        torch.save(bomb, path)
    elif kind == "legacy":
        torch.save(bomb, path, _use_new_zipfile_serialization=False)
    elif kind == "plain pickle":
        path.write_bytes(pickle.dumps(bomb))
    else:
        torch.save({**small().state_dict(), "extra": bomb}, path)
    with pytest.raises(CheckpointError, match="nothing of it was executed"):
        load(path)
    assert not marker.exists()


def test_a_whole_pickled_model_is_refused(path):
    torch.save(small(), path)
    with pytest.raises(
        CheckpointError, match=r"wants to run torch\.nn\.modules\.container\.Sequential; nothing"
    ):
        load(path)


def test_a_missing_file_and_a_folder_are_named(path):
    with pytest.raises(CheckpointError, match=r"found nothing there$") as caught:
        load(path)
    assert str(path) in str(caught.value)
    with pytest.raises(CheckpointError, match=r"expected a file of tensors, found a folder$"):
        load(path.parent)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x00" * 100, b"PK\x03\x04", b"\x80\x02."])
def test_a_file_of_something_else_is_one_line(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: expected ")
    assert "\n" not in str(caught.value)
