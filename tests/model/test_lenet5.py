"""The default network is the tutorial's, number for number, and the options change it."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lenet.model.layers import RBF, ConnectedConv2d, ScaledTanh, Subsample
from lenet.model.lenet5 import LeNet5, average_pooling, count_parameters
from tests.conftest import lenet5_1998

SHAPES = {
    "conv1.weight": (6, 1, 5, 5),
    "conv1.bias": (6,),
    "conv2.weight": (16, 6, 5, 5),
    "conv2.bias": (16,),
    "fc1.weight": (120, 400),
    "fc1.bias": (120,),
    "fc2.weight": (84, 120),
    "fc2.bias": (84,),
    "fc3.weight": (10, 84),
    "fc3.bias": (10,),
}


AVERAGE = (average_pooling, lambda x: F.avg_pool2d(x, 2))


def images(count=3, channels=1, size=32):
    random = torch.Generator().manual_seed(count)
    return torch.randn(count, channels, size, size, generator=random)


def by_hand(weights, x, squash=torch.tanh, pool=lambda x: F.avg_pool2d(x, 2)):
    """LeNet-5 in functions: weights of a state_dict, an image batch -> logits."""
    w = weights
    x = pool(squash(F.conv2d(x, w["conv1.weight"], w["conv1.bias"])))
    x = pool(squash(F.conv2d(x, w["conv2.weight"], w["conv2.bias"])))
    x = x.reshape(len(x), -1)
    x = squash(F.linear(x, w["fc1.weight"], w["fc1.bias"]))
    x = squash(F.linear(x, w["fc2.weight"], w["fc2.bias"]))
    return F.linear(x, w["fc3.weight"], w["fc3.bias"])


def connections_of(layer, output):
    """Each unit's inputs, its bias among them."""
    units = output[0].numel()
    if isinstance(layer, Subsample):
        return units * (4 + 1)
    if isinstance(layer, RBF):
        return layer.centres.numel()
    if isinstance(layer, ConnectedConv2d):
        return output[0, 0].numel() * (layer.weight.numel() + layer.bias.numel())
    return units * (layer.weight[0].numel() + 1)


def test_the_papers_network_has_its_parameters_and_connections_layer_by_layer():
    """Section II.B, layer by layer; it says 60,000 and 340,908 in all."""
    model = lenet5_1998()
    maps = model.stages(images(1))
    layers = [model.conv1, model.pool1, model.conv2, model.pool2, model.fc1, model.fc2, model.fc3]
    found = {
        name: (count_parameters(layer), connections_of(layer, output))
        for layer, (name, output) in zip(layers, maps.items(), strict=True)
    }
    assert found == {
        "C1": (156, 122_304),
        "S2": (12, 5_880),
        "C3": (1_516, 151_600),
        "S4": (32, 2_000),
        "C5": (48_120, 48_120),
        "F6": (10_164, 10_164),
        "output": (0, 840),
    }
    assert sum(parameters for parameters, _ in found.values()) == 60_000
    assert sum(connections for _, connections in found.values()) == 340_908
    assert count_parameters(model) == 60_000


def test_weights_have_the_tutorials_names_and_shapes_in_its_order():
    state = LeNet5().state_dict()
    assert count_parameters(LeNet5()) == 61_706
    assert list(state) == list(SHAPES)
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == SHAPES
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_the_default_is_the_tutorials_forward_bit_for_bit():
    model, x = LeNet5(kernels="eager"), images()
    assert torch.equal(model(x), by_hand(model.state_dict(), x))


def test_a_seed_gives_the_tutorials_weights():
    """The five layers draw their weights in this order, and nothing else draws."""
    torch.manual_seed(5)
    layers = [
        nn.Conv2d(1, 6, 5),
        nn.Conv2d(6, 16, 5),
        nn.Linear(400, 120),
        nn.Linear(120, 84),
        nn.Linear(84, 10),
    ]
    expected = [p for layer in layers for p in layer.parameters()]
    torch.manual_seed(5)
    for ours, theirs in zip(LeNet5().parameters(), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_channels_last_images_work():
    """Where the tutorial's `view` raises: NHWC strides make no flat view."""
    model, x = LeNet5(in_channels=3).to(memory_format=torch.channels_last), images(channels=3)
    plain = model(x)
    last = model(x.to(memory_format=torch.channels_last))
    last.sum().backward()
    assert torch.allclose(last, plain, atol=1e-5)
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    ("activation", "squash", "pooling", "pool"),
    [
        (nn.ReLU, torch.relu, partial(nn.MaxPool2d, 2), lambda x: F.max_pool2d(x, 2)),
        (partial(nn.LeakyReLU, 0.2), partial(F.leaky_relu, negative_slope=0.2), *AVERAGE),
        (ScaledTanh, lambda x: 1.7159 * torch.tanh(x * (2 / 3)), *AVERAGE),
    ],
)
def test_activation_and_pooling_are_used_in_all_places(activation, squash, pooling, pool):
    model, x = LeNet5(activation=activation, pooling=pooling, kernels="eager"), images()
    with torch.no_grad():
        assert torch.equal(model(x), by_hand(model.state_dict(), x, squash, pool))
    model(x).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(
    ("num_classes", "in_channels", "image_size", "side"),
    [(10, 1, 16, 1), (2, 3, 28, 4), (62, 4, 33, 5)],
)
def test_classes_channels_and_size_follow_the_data(num_classes, in_channels, image_size, side):
    model = LeNet5(num_classes, in_channels, image_size)
    stages = model.stages(images(2, in_channels, image_size))
    assert stages["S4"].shape == (2, 16, side, side)
    assert stages["output"].shape == (2, num_classes)


def test_an_image_too_small_for_s4_is_refused():
    with pytest.raises(ValueError, match="image_size: expected 16 or more, got 15"):
        LeNet5(image_size=15)


def test_stages_have_the_papers_names_and_shapes():
    model, x = LeNet5(kernels="eager"), images()
    stages = model.stages(x)
    assert {name: tuple(value.shape[1:]) for name, value in stages.items()} == {
        "C1": (6, 28, 28),
        "S2": (6, 14, 14),
        "C3": (16, 10, 10),
        "S4": (16, 5, 5),
        "C5": (120,),
        "F6": (84,),
        "output": (10,),
    }
    assert torch.equal(stages["output"], model(x))
    assert torch.equal(stages["C1"], torch.tanh(model.conv1(x)))
    assert torch.equal(stages["F6"], torch.tanh(model.fc2(stages["C5"])))
