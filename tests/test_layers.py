"""The paper's facts about its squashing function."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lenet.layers import ScaledTanh

ACTIVATIONS = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=20)


def test_one_is_mapped_to_one():
    """Appendix A: f(1) = 1 and f(-1) = -1, to the digits that 1.7159 has."""
    squash = ScaledTanh()
    assert squash(torch.tensor([1.0, -1.0, 0.0])).tolist() == pytest.approx([1, -1, 0], abs=2e-5)


def test_the_second_derivative_is_largest_at_one():
    """Appendix A: the sharpest bends of f are at +1 and -1."""
    x = torch.linspace(0, 4, 4001, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(ScaledTanh()(x).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), x)
    assert float(x.detach()[bend.abs().argmax()]) == pytest.approx(1.0, abs=0.02)


@settings(deadline=None)
@given(values=ACTIVATIONS)
def test_value_and_gradient_agree_with_the_formula(values):
    x = torch.tensor(values, requires_grad=True)
    y = ScaledTanh()(x)
    y.sum().backward()
    exact = [1.7159 * math.tanh(2 * value / 3) for value in values]
    slopes = [1.7159 * 2 / 3 / math.cosh(2 * value / 3) ** 2 for value in values]
    assert y.tolist() == pytest.approx(exact, rel=1e-6, abs=1e-6)
    assert x.grad.tolist() == pytest.approx(slopes, rel=1e-5, abs=1e-6)


def test_amplitude_and_slope_are_what_was_asked_for():
    squash = ScaledTanh(amplitude=2.0, slope=0.5)
    assert float(squash(torch.tensor(3.0))) == pytest.approx(2 * math.tanh(1.5))
    assert float(squash(torch.tensor(1e9))) == 2.0
    assert repr(squash) == "ScaledTanh(amplitude=2.0, slope=0.5)"
