"""Weights of the network that is asked for, or one line that says how they differ."""

import os

import pytest
import torch

from lenet.data.tensor_files import CheckpointError, load, save
from lenet.model.lenet5 import LeNet5
from lenet.tutorial import load_model, save_model
from tests.data.test_tensor_files import same, small, weights


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


def test_a_round_trip_gives_the_same_bits(path):
    model, other = LeNet5(), LeNet5()
    assert not same(weights(model), weights(other))
    save_model(model, path)
    assert load_model(other, path) is other
    assert same(weights(model), weights(other))


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


def test_what_the_tutorial_saved_is_read(path):
    torch.save(small().state_dict(), path)
    assert same(weights(load_model(small(1), path)), weights(small()))


def test_the_old_format_of_torch_is_read(path):
    torch.save(small().state_dict(), path, _use_new_zipfile_serialization=False)
    assert same(weights(load_model(small(1), path)), weights(small()))


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
        ({**state, "3.weight": torch.ones(2)}, r"expected no 3\.weight, found \(2,\)$"),
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
    ],
)
def test_what_is_no_state_dict_is_named(path, content, found):
    save(content, path)
    with pytest.raises(CheckpointError, match=rf"expected a state_dict, {found}$"):
        load_model(small(), path)
