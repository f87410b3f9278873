"""Files that lie: cut, flipped, foreign, executable. And files that were never finished."""

import os
import pickle
import stat

import pytest
import torch
from torch import nn

from lenet import checkpoint
from lenet.checkpoint import CheckpointError, load, load_model, save, save_model
from lenet.model import LeNet5


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


def test_a_round_trip_gives_the_same_bits(path):
    model, other = LeNet5(), LeNet5()
    assert not same(weights(model), weights(other))
    save_model(model, path)
    assert load_model(other, path) is other
    assert same(weights(model), weights(other))


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


def test_the_tutorials_lines_are_printed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(small())
    load_model(small(), "lenet5.pth")
    assert capsys.readouterr().out == "Model saved to lenet5.pth\nModel loaded from lenet5.pth\n"
    assert os.listdir() == ["lenet5.pth"]


@pytest.mark.parametrize("device", ["cpu", torch.device("cpu")])
def test_the_device_is_a_name_or_an_object(path, device):
    save_model(small(), path)
    model = load_model(small(1), path, device)
    assert same(weights(model), weights(small()))
    assert load(str(path), device).keys() == weights(model).keys()


def test_the_device_is_where_the_weights_end_up(path):
    save_model(small(), path)
    assert {tensor.device.type for tensor in load(path, "meta").values()} == {"meta"}
    assert {tensor.device.type for tensor in load(path).values()} == {"cpu"}


def test_what_the_tutorial_saved_is_read(path):
    torch.save(small().state_dict(), path)
    assert same(weights(load_model(small(1), path)), weights(small()))


def test_the_old_format_of_torch_is_read(path):
    torch.save(small().state_dict(), path, _use_new_zipfile_serialization=False)
    assert same(weights(load_model(small(1), path)), weights(small()))


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
def test_a_crash_in_the_middle_leaves_the_old_file_and_nothing_else(path, monkeypatch, error):
    save({"epoch": 1}, path)

    def crash(state, file):
        file.write(b"half of it")
        file.flush()
        raise error

    monkeypatch.setattr(checkpoint.torch, "save", crash)
    with pytest.raises(type(error)):
        save({"epoch": 2}, path)
    monkeypatch.undo()
    assert os.listdir(path.parent) == [path.name]
    assert load(path) == {"epoch": 1}


def test_a_crash_of_the_first_save_leaves_nothing(path, monkeypatch):
    monkeypatch.setattr(checkpoint.os, "replace", lambda *_: (_ for _ in ()).throw(OSError))
    with pytest.raises(OSError):  # noqa: PT011
        save({}, path)
    assert os.listdir(path.parent) == []


def test_the_file_is_whole_before_it_has_its_name(path, monkeypatch):
    """Renamed only after fsync: else a power cut may leave a name without contents."""
    done = []
    real_fsync, real_replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("fsync"), real_fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *a: (done.append("replace"), real_replace(*a)))
    save({"a": torch.ones(3)}, path)
    assert done == ["fsync", "replace"]


def test_a_flipped_bit_in_the_weights_is_noticed(path):
    save_model(small(), path)
    content = bytearray(path.read_bytes())
    raw = small()[0].weight.detach().numpy().tobytes()
    start = content.index(raw)
    for offset in range(0, len(raw), 7):
        flipped = bytearray(content)
        flipped[start + offset] ^= 0x40
        path.write_bytes(flipped)
        model = small(1)
        with pytest.raises(CheckpointError, match="checksum") as caught:
            load_model(model, path)
        assert "\n" not in str(caught.value)
        assert same(weights(model), weights(small(1)))


def test_a_flipped_bit_anywhere_is_noticed_or_harmless(path):
    """Headers hold padding and dates too; what must never happen is another value."""
    save(small().state_dict(), path)
    content = path.read_bytes()
    noticed = []
    for offset in range(0, len(content), 5):
        flipped = bytearray(content)
        flipped[offset] ^= 1 << offset % 8
        path.write_bytes(flipped)
        try:
            assert same(load(path), weights(small())), offset
        except CheckpointError as error:
            noticed.append(str(error))
    assert len(noticed) > 20
    assert not [line for line in noticed if "\n" in line]


def test_a_file_cut_at_any_length_is_noticed(path):
    save(small().state_dict(), path)
    content = path.read_bytes()
    for length in [*range(0, len(content), 29), len(content) - 1]:
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
        load_model(small(), path)
    assert not marker.exists()


def test_a_whole_pickled_model_is_refused(path):
    torch.save(small(), path)
    with pytest.raises(CheckpointError, match="wants to run code"):
        load_model(small(), path)


def test_another_architecture_is_named_by_its_first_difference(path):
    save_model(LeNet5(num_classes=47), path)
    model = LeNet5()
    before = weights(model)
    with pytest.raises(CheckpointError) as caught:
        load_model(model, path)
    expected = f"{path}: expected fc3.weight (10, 84), found (47, 84)"
    assert str(caught.value) == expected
    assert same(weights(model), before)


def test_a_missing_and_an_unknown_weight_are_named(path):
    state = small().state_dict()
    removed = {name: tensor for name, tensor in state.items() if name != "2.bias"}
    for content, expected in (
        (removed, r"expected 2\.bias \(3,\), found nothing$"),
        ({**state, "3.weight": torch.ones(2)}, r"expected 3\.weight not to be there, found \(2,\)"),
    ):
        save(content, path)
        model = small(1)
        with pytest.raises(CheckpointError, match=expected):
            load_model(model, path)
        assert same(weights(model), weights(small(1)))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([1, 2], "found list"),
        (torch.ones(2), "found Tensor"),
        ({"model": {}, "epoch": 3}, "found 'model', a dict"),
    ],
)
def test_what_is_no_state_dict_is_named(path, content, found):
    save(content, path)
    with pytest.raises(CheckpointError, match=rf"expected a state_dict, {found}$"):
        load_model(small(), path)


def test_a_missing_file_and_a_folder_are_named(path):
    with pytest.raises(CheckpointError, match=r"found nothing there$") as caught:
        load(path)
    assert str(path) in str(caught.value)
    with pytest.raises(CheckpointError, match=r"expected a file of weights, found a folder$"):
        load(path.parent)


@pytest.mark.parametrize("content", [b"", b"hello\n", b"\x00" * 100, b"PK\x03\x04", b"\x80\x02."])
def test_a_file_of_something_else_is_one_line(path, content):
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: expected ")
    assert "\n" not in str(caught.value)
