"""One epoch: an optimizer step for each batch, and the sums of their results."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lenet.cli import screen
from lenet.optim.eager import skip_compiler
from lenet.optim.sdlm import SDLM
from lenet.training.device import device_of
from lenet.training.evaluate import Criterion
from lenet.training.fused_step import Step as FusedStep
from lenet.training.fused_step import whole_step
from lenet.training.progress import Progress
from lenet.training.rng import random_state, set_random_state

skip_compiler()


class Loader(Iterable[tuple[Tensor, Tensor]], Sized, Protocol):
    """Batches of (inputs, labels): this package's or a torch DataLoader."""


class Schedule(Protocol):
    """Sets the optimizer's learning rate. `step` is called once after each optimizer step, and the
    rate depends on the number of these calls alone.
    """

    def step(self) -> None: ...


@dataclass
class Step:
    """One optimizer step: a batch -> its mean loss and its outputs; the weights change."""

    model: nn.Module
    criterion: Criterion
    optimizer: Optimizer
    schedule: Schedule | None = None
    clip_norm: float | None = None
    fused: FusedStep | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.clip_norm is None:
            self.fused = whole_step(self.model, self.criterion, self.optimizer)

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        taken = self.fused(inputs, labels) if self.fused else None
        loss, logits = taken or self._take_in_pytorch(inputs, labels)
        if self.schedule is not None:
            self.schedule.step()
        return loss, logits

    def _take_in_pytorch(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        logits = self.model(inputs)
        loss = self.criterion(logits, labels)
        loss.backward()
        if self.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        return loss, logits


def take_steps(step: Step, batches: Loader, at: Progress, log_interval: int) -> Iterator[None]:
    """Takes the steps that the epoch under way still needs, and yields after each one.

    An SDLM measures the curvature on the epoch's first examples before it begins.
    """
    device, tally = device_of(step.model), at.tally
    if hasattr(batches, "set_epoch"):
        batches.set_epoch(at.epochs + 1)
    tally.start_clock()
    step.model.train()
    if isinstance(step.optimizer, SDLM) and at.batches == 0:
        examples = _first_examples(batches, step.optimizer.samples)
        examples = [part.to(device) for part in examples]
        step.optimizer.measure(step.model, step.criterion, *examples)
    for inputs, labels in _remaining(batches, at):
        inputs, labels = inputs.to(device), labels.to(device)
        tally.learning_rate = step.optimizer.param_groups[0]["lr"]
        tally.add(*step(inputs, labels), labels)
        at.batches += 1
        if at.step % log_interval == 0:
            tally.add_point(at.step)
        yield


def _first_examples(batches: Loader, count: int) -> list[Tensor]:
    """The first `count` examples of an epoch.

    The random generators are put back, so that the epoch itself starts with the same examples.
    """
    before, seen = random_state(), 0
    parts: list[tuple[Tensor, Tensor]] = []
    for inputs, labels in batches:
        parts.append((inputs, labels))
        seen += len(labels)
        if seen >= count:
            break
    set_random_state(before)
    return [torch.cat(part)[:count] for part in zip(*parts, strict=True)]


def _remaining(batches: Loader, at: Progress) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of this epoch that are still to come.

    In the middle of an epoch, the batches before are drawn again, with the random generators as
    they were at its start: a loader may shuffle and distort with them.
    """
    if at.batches == 0:
        at.began = random_state()
        return iter(batches)
    now = random_state()
    set_random_state(at.began or now)
    remaining = iter(batches)
    deque(islice(remaining, at.batches), maxlen=0)
    set_random_state(now)
    return remaining


@contextmanager
def progress_bar(at: Progress, epochs: int, is_shown: bool) -> Iterator[Callable[[], None]]:
    """A bar for the epoch under way on a terminal; what it gives is called after each step."""
    if not is_shown:
        yield lambda: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn

    columns = BarColumn(None), MofNCompleteColumn(), "{task.fields[loss]}", TimeRemainingColumn()
    with screen.progress_bar("{task.description}", *columns) as bar:
        name = f"Epoch {at.epochs + 1}/{epochs}"
        task = bar.add_task(name, total=at.steps_per_epoch, completed=at.batches, loss="")

        def update() -> None:
            steps = at.tally.steps
            loss = f"loss {steps[-1][1]:.4f}" if steps else ""
            bar.update(task, completed=at.batches, loss=loss)

        yield update
