"""LeNet-5's relatives are as the paper describes them, and they train."""

import pytest
import torch
from torch import nn

from lenet.config.build import build
from lenet.config.check import check
from lenet.model.family import LENET1_TABLE, LENET4_TABLE, MLP, LeNet1, LeNet4
from lenet.model.layers import ConnectedConv2d, Subsample
from lenet.model.lenet5 import count_parameters
from lenet.model.losses import MSE
from lenet.optim.curvature import second_backward
from tests.model.test_lenet5 import connections_of

LAYERS = (nn.Conv2d, nn.Linear, ConnectedConv2d, Subsample)


def build_model(composed, name):
    config = check(composed(f"model={name}", "data=digits"))
    return build(config, "model", num_classes=10, in_channels=1, image_size=32)


def connections(model):
    counts = []
    handles = [
        layer.register_forward_hook(
            lambda layer, given, output: counts.append(connections_of(layer, output))
        )
        for layer in model.modules()
        if isinstance(layer, LAYERS)
    ]
    model(torch.zeros(1, 1, 32, 32))
    for handle in handles:
        handle.remove()
    return sum(counts)


@pytest.mark.parametrize(
    ("name", "parameters", "expected"),
    [
        ("lenet1", 2_578, 98_442),  # "about 2,600 free parameters", "100,000 multiply/add steps"
        ("lenet4", 50_698, 262_306),  # "about 260,000 multiply/add steps"
        ("mlp", 784 * 300 + 300 + 300 * 10 + 10, 238_510),
        ("lenet_300_100", 266_610, 266_610),
        ("linear", 7_850, 7_850),
    ],
)
def test_each_has_the_parameters_and_connections_of_its_description(
    composed, name, parameters, expected
):
    model = build_model(composed, name)
    assert (count_parameters(model), connections(model)) == (parameters, expected)


def test_maps_have_the_papers_sizes():
    shapes = {name: tuple(x.shape[1:]) for name, x in LeNet1().stages(images()).items()}
    assert shapes == {
        "H1": (4, 24, 24),
        "H2": (4, 12, 12),
        "H3": (12, 8, 8),
        "H4": (12, 4, 4),
        "output": (10,),
    }
    shapes = {name: tuple(x.shape[1:]) for name, x in LeNet4().stages(images()).items()}
    assert shapes == {
        "C1": (4, 28, 28),
        "S2": (8, 14, 14),
        "C3": (16, 10, 10),
        "S4": (16, 5, 5),
        "F5": (120,),
        "output": (10,),
    }


def images(count=2):
    torch.manual_seed(0)
    return torch.rand(count, 1, 32, 32)


def test_lenet1s_halves_share_no_map_and_lenet4s_maps_are_used_equally():
    assert {k for maps in LENET1_TABLE[:6] for k in maps} == {0, 1}
    assert {k for maps in LENET1_TABLE[6:] for k in maps} == {2, 3}
    assert sum(map(len, LENET1_TABLE)) == 20
    assert len(set(LENET4_TABLE)) == 16
    uses = [sum(k in maps for maps in LENET4_TABLE) for k in range(8)]
    assert uses == [6] * 8


def test_lenet1_reduces_a_digit_from_20_to_16_pixels():
    model, seen = LeNet1(), []
    model.conv1.register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    x = torch.full((1, 1, 32, 32), -0.1)
    x[..., 6:26, 6:26] = 1.175
    model(x)
    (small,) = seen
    assert small.shape == (1, 1, 28, 28)
    ink = small[0, 0] > 0.5
    assert (int(ink.any(dim=0).sum()), int(ink.any(dim=1).sum())) == (16, 16)
    rows = ink.any(dim=1).nonzero()
    assert (int(rows.min()), int(rows.max())) == (6, 21)  # centred
    assert torch.allclose(small[..., 0, :], torch.tensor(-0.1))


def test_an_mlp_reads_the_784_pixels_inside_the_border():
    model, x = MLP(), images()
    border = x.clone()
    border[..., :2, :] = border[..., -2:, :] = border[..., :2] = border[..., -2:] = 9.0
    assert torch.equal(model(x), model(border))
    inside = x.clone()
    inside[..., 2, 2] = 9.0
    assert not torch.equal(model(x), model(inside))


def test_a_crop_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="crop: expected less than half of 4 pixels"):
        MLP(image_size=4, crop=2)


@pytest.mark.parametrize("kind", [LeNet1, LeNet4, MLP])
def test_each_parameter_has_a_second_derivative(kind):
    inputs = images(4)
    model = kind(initialisation="released")
    found = second_backward(model, MSE(), inputs, torch.arange(4))
    assert found.keys() == dict(model.named_parameters()).keys()
    assert all((value > 0).all() for value in found.values())
