"""Learning rates are their closed forms at each step, also of very short trainings."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD

from lenet.optim.schedule import constant, cosine, one_cycle, step, table

PEAK = 0.4


def optimizer_of(**options):
    return SGD([nn.Parameter(torch.zeros(1))], lr=PEAK, **options)


def rates(make, epochs, steps_per_epoch, optimizer=None, **options):
    """The learning rate of each optimizer step, where the schedule steps after it, as in `fit`."""
    optimizer = optimizer or optimizer_of()
    schedule = make(optimizer, epochs=epochs, steps_per_epoch=steps_per_epoch, **options)
    found = []
    for _ in range(epochs * steps_per_epoch):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


LENGTHS = st.tuples(st.integers(1, 6), st.integers(1, 12))


@given(length=LENGTHS)
def test_constant_does_not_change(length):
    assert rates(constant, *length) == [PEAK] * math.prod(length)


@given(length=LENGTHS, step_size=st.integers(1, 4), gamma=st.sampled_from([0.1, 0.5, 1.0]))
def test_step_falls_only_between_epochs(length, step_size, gamma):
    epochs, steps_per_epoch = length
    expected = [
        PEAK * gamma ** (epoch // step_size)
        for epoch in range(epochs)
        for _ in range(steps_per_epoch)
    ]
    found = rates(step, epochs, steps_per_epoch, step_size=step_size, gamma=gamma)
    assert found == pytest.approx(expected)


@given(
    length=LENGTHS,
    warmup_epochs=st.sampled_from([0.0, 0.3, 0.5, 1.0, 2.0, 50.0]),
    final_factor=st.sampled_from([0.0, 0.1, 1.0]),
)
def test_cosine_rises_to_the_peak_and_falls_to_the_final_factor(
    length, warmup_epochs, final_factor
):
    total = math.prod(length)
    warmup = min(round(warmup_epochs * length[1]), total)
    found = rates(cosine, *length, warmup_epochs=warmup_epochs, final_factor=final_factor)
    up = [PEAK * (i + 1) / (warmup + 1) for i in range(warmup)]
    assert found[:warmup] == pytest.approx(up)
    for i, rate in enumerate(found[warmup:]):
        part = i / (total - warmup - 1) if i else 0
        cos = math.cos(math.pi * part)
        assert rate == pytest.approx(PEAK * (final_factor + (1 - final_factor) * (1 + cos) / 2))
    if total - warmup >= 2:
        assert found[warmup] == PEAK
        assert found[-1] == pytest.approx(PEAK * final_factor, abs=1e-12)


def test_one_cycle_has_its_peak_at_the_optimizers_rate_and_ends_with_the_training():
    found = rates(one_cycle, 4, 25, optimizer_of(momentum=0.9))
    assert max(found) == found[29] == pytest.approx(PEAK)
    assert found[0] == pytest.approx(PEAK / 25)
    assert found[-1] == pytest.approx(PEAK / 25 / 1e4)


def test_the_default_table_is_the_papers():
    """2 passes at 5e-4, 3 at 2e-4, 3 at 1e-4, 4 at 5e-5, then 1e-5."""
    found = rates(table, 20, 3)
    factors = [1.0] * 2 + [0.4] * 3 + [0.2] * 3 + [0.1] * 4 + [0.02] * 8
    assert found == pytest.approx([PEAK * factor for factor in factors for _ in range(3)])


def test_a_table_needs_one_factor_more_than_lengths():
    with pytest.raises(ValueError, match="factors: expected one more than the 2 lengths, got 2"):
        table(optimizer_of(), 2, 5, lengths=[1, 1], factors=[1.0, 0.1])
