"""How far a training has come: records of its epochs, and sums of the current one."""

import copy
import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lenet.training.evaluate import Totals

State = dict[str, Any]


class Diverged(ArithmeticError):
    """The loss is no longer a finite number, and the weights are of no use."""


@dataclass(frozen=True)
class Epoch(Totals):
    """The results of one pass over the training set.

    `steps` holds pairs of (optimizer step, mean loss since the pair before): one at each log
    interval and one at the end. `learning_rate` is the one of the last step. `complete` is False
    where the pass was stopped; there is no validation then. After a resume, `val` of earlier
    epochs is a Totals: only sums are checkpointed.
    """

    epoch: int
    steps: list[tuple[int, float]]
    learning_rate: float
    seconds: float
    val: Totals | None
    complete: bool

    @property
    def images_per_second(self) -> float:
        return self.count / self.seconds


@dataclass
class Tally:
    """Running sums of one epoch. Tensors wait in a list, so that the loop seldom waits for a GPU.

    `since_point` holds (mean loss, examples) of each batch since the last point of `steps`.
    `seconds` is the time until the waiting tensors were last read.
    """

    loss_sum: float = 0.0
    correct: int = 0
    count: int = 0
    seconds: float = 0.0
    learning_rate: float = math.nan
    steps: list[tuple[int, float]] = field(default_factory=list)
    since_point: list[tuple[float, int]] = field(default_factory=list)
    waiting: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    started: float = 0.0

    def start_clock(self) -> None:
        self.started = time.perf_counter() - self.seconds

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.waiting.append((loss.detach(), logits.detach(), labels))

    def read(self, step: int) -> None:
        """Turns the waiting tensors into numbers. `step` is the optimizer step of the last one.

        Raises: Diverged where a loss is not finite.
        """
        if not self.waiting:
            return
        losses = torch.stack([loss for loss, _, _ in self.waiting]).tolist()
        logits, labels = (torch.cat([entry[i] for entry in self.waiting]) for i in (1, 2))
        for number, loss in enumerate(losses, step - len(losses) + 1):
            if not math.isfinite(loss):
                raise Diverged(f"the training loss is {loss} at optimizer step {number}")
        counts = [len(labels) for _, _, labels in self.waiting]
        self.since_point += zip(losses, counts, strict=True)
        self.correct += int((logits.argmax(dim=1) == labels).sum())
        self.waiting.clear()
        self.seconds = time.perf_counter() - self.started

    def add_point(self, step: int) -> None:
        """Adds the batches since the last point to the sums, and their mean loss to `steps`."""
        self.read(step)
        if not self.since_point:
            return
        loss_sum = sum(loss * count for loss, count in self.since_point)
        count = sum(count for _, count in self.since_point)
        self.loss_sum += loss_sum
        self.count += count
        self.steps.append((step, loss_sum / count))
        self.since_point = []


@dataclass
class Progress:
    """Where a training is: all that is not in the model, the optimizer or the schedule."""

    steps_per_epoch: int
    epochs: int = 0  # complete ones
    batches: int = 0  # of the epoch after them
    began: State | None = None  # the random generators, as that epoch began
    tally: Tally = field(default_factory=Tally)
    history: list[Epoch] = field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = 0
    best_model: State | None = None

    @property
    def step(self) -> int:
        """The number of optimizer steps so far."""
        return self.epochs * self.steps_per_epoch + self.batches

    def record(self, val: Totals | None, complete: bool) -> Epoch:
        """The record of the current epoch."""
        tally = self.tally
        return Epoch(
            loss_sum=tally.loss_sum,
            correct=tally.correct,
            count=tally.count,
            epoch=self.epochs + 1,
            steps=tally.steps,
            learning_rate=tally.learning_rate,
            seconds=tally.seconds,
            val=val,
            complete=complete,
        )

    def end_epoch(self, record: Epoch, model: nn.Module, patience: int | None) -> None:
        """Counts a complete epoch. Early stopping needs a copy of the best epoch's weights."""
        self.epochs, self.batches, self.began, self.tally = record.epoch, 0, None, Tally()
        self.history.append(record)
        if patience is not None and record.val is not None and record.val.loss < self.best_loss:
            self.best_loss, self.best_epoch = record.val.loss, record.epoch
            self.best_model = copy.deepcopy(model.state_dict())

    def is_exhausted(self, patience: int | None) -> bool:
        """Whether the last `patience` epochs brought no lower validation loss."""
        return patience is not None and self.epochs - self.best_epoch >= patience
