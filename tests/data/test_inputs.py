"""What a network reads goes into a checkpoint and comes back, or is refused in one line."""

import json

import pytest

from lenet.data.inputs import Inputs
from lenet.model.lenet5 import LeNet5

INPUTS = Inputs(("cat", "dog"), mean=0.25, std=0.5, image_size=40, in_channels=3)


def test_inputs_come_back_from_json_as_they_were():
    assert Inputs.from_values(json.loads(json.dumps(INPUTS.to_values()))) == INPUTS


def test_colours_have_a_mean_and_a_deviation_for_each_channel():
    inputs = Inputs(("cat", "dog"), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), in_channels=3)
    assert Inputs.from_values(json.loads(json.dumps(inputs.to_values()))) == inputs
    with pytest.raises(
        ValueError, match=r"^inputs: mean: expected one number, or 3, one a channel"
    ):
        Inputs.from_values(inputs.to_values() | {"mean": [0.1, 0.2]})


def test_a_network_is_made_from_them():
    model = LeNet5(**INPUTS.model_arguments)
    assert (model.conv1.in_channels, model.fc3.out_features) == (3, 2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("classes", []),
        ("classes", ["x"] * 1001),
        ("mean", -1.0),
        ("std", 0.0),
        ("std", float("inf")),
        ("image_size", 15),
        ("image_size", 257),
        ("in_channels", 65),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_its_name(key, value):
    with pytest.raises(ValueError, match=rf"^inputs\.{key}.*: .*$") as caught:
        Inputs.from_values(INPUTS.to_values() | {key: value})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("values", [None, 3, [], {"classes": ["a"], "mean": 0.1}], ids=repr)
def test_anything_but_all_values_is_refused(values):
    with pytest.raises(ValueError, match=r"^inputs.*: .*$"):
        Inputs.from_values(values)
