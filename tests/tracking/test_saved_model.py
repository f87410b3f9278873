"""A model that is saved from an earlier one's copy is the network that was trained."""

import mlflow.pytorch
import pytest
import torch
import yaml
from torch import nn

from lenet.data.sets import load
from lenet.model.lenet5 import LeNet5
from lenet.tracking import saved_model
from lenet.tracking.saved_model import save_model
from tests.conftest import lenet5_1998

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint:UserWarning")  # MLflow's import


class Own(LeNet5):
    """A network of a user's own."""


@pytest.fixture
def exports(tmp_path, monkeypatch):
    """The networks that were exported, as their types."""
    monkeypatch.setenv("LENET_CACHE", str(tmp_path / "cache"))
    exported, original = [], saved_model.save_mlflow_model

    def save(model, data, folder):
        exported.append(type(model))
        original(model, data, folder)

    monkeypatch.setattr(saved_model, "save_mlflow_model", save)
    return exported


@pytest.mark.parametrize("make", [LeNet5, lenet5_1998])
def test_a_second_model_of_a_kind_is_not_exported_and_has_its_own_weights(tmp_path, exports, make):
    data = load("digits", "unused")
    save_model(make(), data, tmp_path / "first")
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    save_model(model, data, tmp_path / "second")
    assert len(exports) == 1
    loaded = mlflow.pytorch.load_model(str(tmp_path / "second"))
    for count in (1, 2, 7):
        images = data.test.inputs[:count]
        with torch.no_grad():
            assert torch.allclose(loaded(images), model(images), atol=1e-5)
    about = yaml.safe_load((tmp_path / "second" / "MLmodel").read_text())
    assert about["metadata"] == data.inputs.to_values()


def test_another_network_or_other_data_are_exported_again(tmp_path, exports):
    digits, other = load("digits", "unused"), load("digits", "unused", mean=0.5)
    for number, (model, data) in enumerate(
        [
            (LeNet5(), digits),
            (LeNet5(activation=nn.ReLU), digits),
            (LeNet5(), other),
        ]
    ):
        save_model(model, data, tmp_path / str(number))
    assert len(exports) == 3


def test_a_network_of_a_users_own_is_always_exported(tmp_path, exports):
    for number in range(2):
        save_model(Own(), load("digits", "unused"), tmp_path / str(number))
    assert exports == [Own, Own]


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(tmp_path, exports):
    (tmp_path / "cache").write_text("a file")
    for number in range(2):
        save_model(LeNet5(), load("digits", "unused"), tmp_path / str(number))
        assert (tmp_path / str(number) / "MLmodel").is_file()
    assert len(exports) == 2
