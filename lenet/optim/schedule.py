"""Learning rate schedules: functions of the optimizer step, for a known number of steps.

`optimizer.lr` is always the highest rate of the schedule. The caller steps the schedule after each
optimizer step.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR


def constant(optimizer: Optimizer, epochs: int, steps_per_epoch: int) -> LambdaLR:
    """The learning rate does not change."""
    return LambdaLR(optimizer, lambda step: 1.0)


def step(
    optimizer: Optimizer,
    epochs: int,
    steps_per_epoch: int,
    step_size: int = 3,
    gamma: float = 0.1,
) -> LambdaLR:
    """The learning rate is multiplied by `gamma` every `step_size` epochs."""
    return LambdaLR(optimizer, lambda step: gamma ** (step // (step_size * steps_per_epoch)))


def table(
    optimizer: Optimizer,
    epochs: int,
    steps_per_epoch: int,
    lengths: Sequence[int] = (2, 3, 3, 4),
    factors: Sequence[float] = (1.0, 0.4, 0.2, 0.1, 0.02),
) -> LambdaLR:
    """The learning rate is multiplied by factors[0] for lengths[0] epochs, and so on. The last
    factor is for all epochs that remain.

    Raises: ValueError unless there is one factor more than lengths.
    """
    if len(factors) != len(lengths) + 1:
        raise ValueError(
            f"factors: expected one more than the {len(lengths)} lengths, got {len(factors)}"
        )
    ends = [end * steps_per_epoch for end in accumulate(lengths)]
    return LambdaLR(optimizer, lambda step: factors[bisect_right(ends, step)])


def cosine(
    optimizer: Optimizer,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: float = 1.0,
    final_factor: float = 0.0,
) -> LambdaLR:
    """The learning rate rises linearly over `warmup_epochs`, then falls along half a cosine to
    `final_factor` times the peak at the last step.

    Source: Loshchilov and Hutter 2017, SGDR (one period, no restarts).
    """
    total = epochs * steps_per_epoch
    warmup = min(round(warmup_epochs * steps_per_epoch), total)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(total - warmup - 1, 1)
        return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * min(progress, 1))) / 2

    return LambdaLR(optimizer, factor)


def one_cycle(
    optimizer: Optimizer,
    epochs: int,
    steps_per_epoch: int,
    pct_start: float = 0.3,
    cycle_momentum: bool = True,
    base_momentum: float = 0.85,
    max_momentum: float = 0.95,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> OneCycleLR:
    """torch's OneCycleLR with its peak at the optimizer's learning rate.

    Source: Smith and Topin 2018, super-convergence.
    """
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        total_steps=epochs * steps_per_epoch,
        pct_start=pct_start,
        cycle_momentum=cycle_momentum,
        base_momentum=base_momentum,
        max_momentum=max_momentum,
        div_factor=div_factor,
        final_div_factor=final_div_factor,
    )
