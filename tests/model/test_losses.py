"""The paper's losses are its equations 8 and 9; cross entropy weighs classes as asked."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet.model.layers import RBF, bitmaps
from lenet.model.losses import MAP, MSE, cross_entropy

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


LABELS = torch.tensor([0] * 12 + [1] * 3 + [3] * 5)


def test_balanced_weights_are_scikit_learns():
    from sklearn.utils.class_weight import compute_class_weight

    counts = LABELS.bincount()
    weight = cross_entropy("balanced", class_counts=counts).weight
    here = counts > 0
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=LABELS.numpy())
    # scikit-learn takes the mean over the classes that occur, here it is over all of them.
    torch.testing.assert_close(weight[here] * 4 / 3, torch.from_numpy(expected).float())


def test_a_list_weighs_each_class_and_must_name_all():
    counts, scores = LABELS.bincount(), torch.randn(20, 4)
    weight = torch.tensor([1.0, 2.0, 0.5, 4.0])
    found = cross_entropy(weight.tolist(), 0.1, class_counts=counts)(scores, LABELS)
    expected = torch.nn.functional.cross_entropy(scores, LABELS, weight, label_smoothing=0.1)
    assert found == expected
    with pytest.raises(
        ValueError, match=r"^loss\.weight: expected 4 numbers, one a class, found 2$"
    ):
        cross_entropy([1.0, 2.0], class_counts=counts)


def test_weights_without_counts_are_not_dropped_in_silence():
    with pytest.raises(ValueError, match="expected class_counts"):
        cross_entropy([1.0, 2.0])
