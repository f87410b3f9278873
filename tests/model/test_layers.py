"""The layers are as the paper describes them."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lenet.model.layers import (
    RBF,
    TABLE_I,
    ConnectedConv2d,
    ScaledTanh,
    Subsample,
    bitmaps,
    initialise,
)


def test_scaled_tanh_maps_one_to_one():
    """Appendix A: f(1) = 1 and f(-1) = -1, to the digits that 1.7159 has."""
    squash = ScaledTanh()
    assert squash(torch.tensor([1.0, -1.0, 0.0])).tolist() == pytest.approx([1, -1, 0], abs=2e-5)


def test_scaled_tanhs_second_derivative_is_largest_at_one():
    """Appendix A: the sharpest bends of f are at +1 and -1."""
    x = torch.linspace(0, 4, 4001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(ScaledTanh()(x).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    assert float(x.detach()[bend.abs().argmax()]) == pytest.approx(1.0, abs=0.02)


def test_subsampling_is_f_of_the_scaled_sum_plus_bias():
    """Section II.B: four inputs are added, multiplied by a coefficient, added to a bias."""
    layer = Subsample(2, nn.Tanh())
    with torch.no_grad():
        layer.coefficient.copy_(torch.tensor([0.5, -1.0]))
        layer.bias.copy_(torch.tensor([0.1, 0.2]))
    x = torch.randn(3, 2, 4, 6)
    expected = torch.empty(3, 2, 2, 3)
    for n, c, i, j in itertools.product(range(3), range(2), range(2), range(3)):
        total = x[n, c, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].sum()
        expected[n, c, i, j] = torch.tanh(layer.coefficient[c] * total + layer.bias[c])
    torch.testing.assert_close(layer(x), expected)


def test_table_i_is_the_papers():
    """Table I: six maps of three neighbours, six of four, three of four apart, one of all."""
    assert [len(maps) for maps in TABLE_I] == [3] * 6 + [4] * 9 + [6]
    assert sum(map(len, TABLE_I)) == 60
    assert all(len(set(maps)) == len(maps) for maps in TABLE_I)
    uses = [sum(into in maps for maps in TABLE_I) for into in range(6)]
    assert uses == [10] * 6


def test_a_connected_convolution_sums_over_its_own_maps():
    torch.manual_seed(0)
    layer = ConnectedConv2d(4, ((0, 2), (1,), (3, 0, 1)), 3)
    x = torch.randn(2, 4, 5, 5)
    output, first = layer(x), 0
    for out, maps in enumerate(((0, 2), (1,), (3, 0, 1))):
        weight = layer.weight[first : first + len(maps)]
        first += len(maps)
        expected = F.conv2d(x[:, list(maps)], weight[None]) + layer.bias[out]
        torch.testing.assert_close(output[:, [out]], expected)


@pytest.mark.parametrize("table", [((0, 4),), ((0, 0),), ((-1,),)])
def test_a_table_with_wrong_maps_is_refused(table):
    with pytest.raises(ValueError, match="expected different maps from 0 to 3"):
        ConnectedConv2d(4, table, 5)


def test_the_bitmaps_are_ten_different_drawings_of_7_by_12():
    codes = bitmaps()
    assert codes.shape == (10, 12, 7)
    assert set(codes.flatten().tolist()) == {-1.0, 1.0}
    assert len(codes.flatten(1).unique(dim=0)) == 10
    seven = ["".join("#" if cell > 0 else "." for cell in row) for row in codes[7].tolist()]
    assert seven[:3] == ["#######", ".....##", ".....##"]
    # Letters that look alike have similar codes (section II.B): 3 and 8 are nearer than 1 and 0.
    apart = torch.cdist(codes.flatten(1), codes.flatten(1))
    assert apart[9, 3] < apart[1, 0]


def test_rbf_scores_are_minus_squared_distances():
    states = torch.randn(5, 84)
    expected = [
        [-sum((x - w) ** 2 for x, w in zip(state, code, strict=True)) for code in codes]
        for state in states.tolist()
        for codes in [bitmaps().flatten(1).tolist()]
    ]
    assert RBF()(states).tolist() == [pytest.approx(row, rel=1e-4) for row in expected]
    torch.testing.assert_close(RBF(scale=0.5)(states), RBF()(states) / 2)
    assert not list(RBF().parameters())
    assert not RBF().state_dict()


@pytest.mark.parametrize(("units", "classes"), [(84, 9), (80, 10)])
def test_rbf_refuses_sizes_without_bitmaps(units, classes):
    with pytest.raises(ValueError, match="output=rbf: expected 84 units and the 10 digits"):
        RBF(units, classes)


def layers_of_all_kinds():
    return nn.Sequential(
        nn.Conv2d(2, 50, 5),
        ConnectedConv2d(50, tuple(tuple(range(k, k + 2 + k % 2)) for k in range(40)), 5),
        Subsample(40, ScaledTanh()),
        nn.Linear(400, 60),
    )


def test_the_printed_initialisation_fills_its_bounds():
    network = layers_of_all_kinds()
    initialise(network, "lecun1998")
    conv, connected, subsample, linear = network
    for parameter, fan_in in [
        *((conv.weight, 50), (conv.bias, 50), (linear.weight, 400), (linear.bias, 400)),
        *((subsample.coefficient, 4), (subsample.bias, 4)),
    ]:
        bound = 2.4 / fan_in
        assert 0.9 * bound < parameter.abs().max() <= bound
    for k in range(40):  # each map by its own inputs
        own = connected.weight[connected.pairs[0] == k]
        bound = 2.4 / (25 * len(own))
        assert 0.8 * bound < own.abs().max() <= bound
        assert connected.bias[k].abs() <= bound


def test_the_released_initialisation_is_the_authors():
    network = layers_of_all_kinds()
    initialise(network, "released")
    conv, connected, subsample, linear = network
    for layer in network:
        assert not layer.bias.any()
    assert 0.9 / 400**0.5 < linear.weight.abs().max() <= 1 / 400**0.5
    assert 0.9 / 50**0.5 < conv.weight.abs().max() <= 1 / 50**0.5
    own = connected.weight[connected.pairs[0] == 1]
    assert 0.8 / 75**0.5 < own.abs().max() <= 1 / 75**0.5
    assert (subsample.coefficient == 0.5).all()
