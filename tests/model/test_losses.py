"""The paper's losses are its equations 8 and 9."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet.model.layers import RBF, bitmaps
from lenet.model.losses import MAP, MSE

PENALTIES = st.lists(st.floats(0, 300, width=32), min_size=10, max_size=10)


@given(penalties=PENALTIES, right=st.integers(0, 9), j=st.floats(0.1, 50))
def test_map_is_equation_9_for_one_pattern(penalties, right, j):
    scores = -torch.tensor([penalties], dtype=torch.float64)
    least = min(*penalties, j)  # subtracted, because the sum underflows far from all bitmaps
    total = math.exp(least - j) + sum(math.exp(least - y) for y in penalties)
    expected = penalties[right] + math.log(total) - least
    loss = float(MAP(j)(scores, torch.tensor([right])))
    assert loss == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_penalty_far_beyond_j_is_not_pushed_up():
    scores = torch.tensor([[-1.0, -60.0, -4.0]], requires_grad=True)
    MAP(5.0)(scores, torch.tensor([0])).backward()
    far, near = scores.grad[0, 1], scores.grad[0, 2]
    assert 0 <= far < 1e-20 < 0.01 < near


def test_both_are_means_over_the_batch():
    scores, labels = torch.randn(6, 10), torch.arange(6)
    for criterion in (MAP(2.0), MSE(), MSE("rbf")):
        each = [criterion(scores[i : i + 1], labels[i : i + 1]) for i in range(6)]
        assert torch.allclose(criterion(scores, labels), torch.stack(each).mean())


def test_squared_error_is_the_distance_to_plus_and_minus_one():
    scores = torch.tensor([[0.5, -1.0, 2.0]])
    assert float(MSE()(scores, torch.tensor([0]))) == pytest.approx(0.25 + 0 + 9)


def test_squared_error_of_an_rbf_output_is_the_distance_to_the_right_bitmap():
    states = torch.randn(4, 84)
    labels = torch.tensor([3, 0, 9, 3])
    expected = (states - bitmaps().flatten(1)[labels]).square().sum(dim=1).mean()
    assert torch.allclose(MSE("rbf")(RBF()(states), labels), expected)
