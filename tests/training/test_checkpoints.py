"""Weights load into the network they belong to only; a folder keeps the two newest states."""

import time

import pytest
import torch
from torch import nn

from lenet.data.tensor_files import CheckpointError, save
from lenet.training.checkpoints import Checkpoints, load_newest, load_weights, newest_first


def network(outputs=3):
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, outputs))


def same(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("zipped", [True, False], ids=["new format", "format before torch 1.6"])
def test_weights_saved_by_torch_are_loaded(tmp_path, zipped):
    model, other = network(), network()
    torch.save(model.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    load_weights(other, tmp_path / "w.pth")
    assert same(model, other)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "model_state_dict"])
def test_weights_are_read_as_other_programs_save_them(tmp_path, prefix, key):
    """torch's DataParallel and torch.compile put a prefix before each name."""
    model, other = network(), network()
    state = {prefix + name: tensor for name, tensor in model.state_dict().items()}
    torch.save({"epoch": 3, key: state} if key else state, tmp_path / "w.pth")
    load_weights(other, tmp_path / "w.pth")
    assert same(model, other)


def test_a_compiled_networks_weights_are_read(tmp_path):
    model, other = network(), network()
    torch.save(torch.compile(model).state_dict(), tmp_path / "w.pth")
    load_weights(other, tmp_path / "w.pth")
    assert same(model, other)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (network(outputs=7).state_dict(), "size mismatch for 2.weight"),
        (nn.Sequential(nn.Linear(4, 5)).state_dict(), 'Missing key(s) in state_dict: "2.weight"'),
        (
            network().state_dict() | {"3.bias": torch.ones(2)},
            'Unexpected key(s) in state_dict: "3.',
        ),
    ],
    ids=["shape", "missing", "unknown"],
)
def test_weights_of_another_network_are_refused_in_one_line(tmp_path, content, line):
    path, model = tmp_path / "w.pth", network()
    before = network()
    before.load_state_dict(model.state_dict())
    save(content, path)
    with pytest.raises(CheckpointError) as caught:
        load_weights(model, path)
    assert str(caught.value).startswith(f"{path}: expected the weights of this network (")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert same(model, before)


def test_a_file_of_anything_but_weights_is_refused(tmp_path):
    save([1, 2], tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="expected weights by name, found list"):
        load_weights(network(), tmp_path / "w.pth")


def state(epochs, batches=0):
    return {"progress": {"epochs": epochs, "batches": batches}}


def test_the_two_newest_states_are_kept_with_their_facts(tmp_path):
    names = []
    checkpoints = Checkpoints(tmp_path, {"of": "a run"}, names.append)
    for epochs, batches in ((0, 7), (0, 12), (1, 0)):
        checkpoints.save(state(epochs, batches))
    assert names == ["000000-000000007.pt", "000000-000000012.pt", "000001-000000000.pt"]
    assert [path.name for path in newest_first(tmp_path)] == names[:0:-1]
    assert load_newest(newest_first(tmp_path)) == {"of": "a run", **state(1)}


def test_a_checkpoint_is_due_by_epoch_and_by_time(tmp_path):
    checkpoints = Checkpoints(tmp_path, {}, epochs=2, seconds=30.0)
    assert [checkpoints.is_due(epoch) for epoch in (1, 2, 3, None)] == [False, True, False, False]
    soon = Checkpoints(tmp_path, {}, epochs=None, seconds=0.01)
    never = Checkpoints(tmp_path, {}, epochs=None, seconds=None)
    time.sleep(0.02)
    assert soon.is_due()
    assert not never.is_due()
    assert not never.is_due(2)


def test_checkpoints_take_at_most_a_hundredth_of_the_time(tmp_path):
    checkpoints = Checkpoints(tmp_path, {}, lambda name: time.sleep(0.005), epochs=1)
    checkpoints.save(state(1))
    saved = time.monotonic()
    while not checkpoints.is_due(2):
        time.sleep(0.01)
    assert time.monotonic() - saved > 99 * checkpoints.cost > 0.4


def test_a_checkpoint_that_cannot_be_written_gives_a_warning(tmp_path, capsys):
    (tmp_path / "file").touch()
    Checkpoints(tmp_path / "file", {}).save(state(1))
    assert capsys.readouterr().err.startswith("Warning: no checkpoint could be written (")


def test_a_damaged_or_refused_state_is_skipped_and_deleted(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(state(1))
    checkpoints.save(state(2))
    second, first = newest_first(tmp_path)
    second.write_bytes(second.read_bytes()[:-50])
    assert load_newest([second, first]) == state(1)
    assert newest_first(tmp_path) == [first]
    warning = capsys.readouterr().err
    assert warning.startswith(f"Warning: {second}: ")
    assert warning.endswith("; the checkpoint before it is used\n")

    def refuse(state):
        raise ValueError("state: expected another")

    assert load_newest([first], refuse) is None
    assert newest_first(tmp_path) == []
