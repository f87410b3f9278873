"""The training loop: `fit` is a generator, one record an epoch; what to do with it is yours."""

import copy
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from lenet.evaluate import Criterion, Score, evaluate
from lenet.model import LeNet5
from lenet.native import equip
from lenet.native.step import whole_step


class Schedule(Protocol):
    """Sets the optimizer's learning rate; `step` follows each of the optimizer's own."""

    def step(self) -> None: ...


class Loader(Iterable[tuple[Tensor, Tensor]], Sized, Protocol):
    """Batches of (inputs, labels): this package's or a torch DataLoader."""


class Diverged(ArithmeticError):
    """The loss is no longer a finite number; the weights are of no use."""


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training set came to. Sums are over its examples.

    `steps` holds (optimizer step, mean loss since the last one) at the log interval and at the
    end; `learning_rate` is that of the last step; `complete` is False where the pass was stopped.
    """

    epoch: int
    loss_sum: float
    correct: int
    count: int
    steps: list[tuple[int, float]]
    learning_rate: float
    seconds: float
    val: Score | None
    complete: bool

    @property
    def loss(self) -> float:
        return self.loss_sum / self.count

    @property
    def accuracy(self) -> float:
        return self.correct / self.count

    @property
    def images_per_second(self) -> float:
        return self.count / self.seconds


@dataclass
class _Tally:
    """Running sums of one epoch. Tensors wait in lists, so a GPU is asked only now and then."""

    loss_sum: float = 0.0
    correct: int = 0
    count: int = 0
    steps: list[tuple[int, float]] = field(default_factory=list)
    waiting: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.waiting.append((loss.detach(), logits.detach(), labels))

    def settle(self, step: int) -> None:
        """Takes in what waits; `step` is the number of the last optimizer step among it."""
        if not self.waiting:
            return
        losses = torch.stack([loss for loss, _, _ in self.waiting]).tolist()
        logits, labels = (torch.cat([entry[i] for entry in self.waiting]) for i in (1, 2))
        counts = [len(labels) for _, _, labels in self.waiting]
        for number, loss in enumerate(losses, step - len(losses) + 1):
            if not math.isfinite(loss):
                raise Diverged(f"the training loss is {loss} at optimizer step {number}")
        loss_sum = sum(loss * count for loss, count in zip(losses, counts, strict=True))
        self.loss_sum += loss_sum
        self.correct += int((logits.argmax(dim=1) == labels).sum())
        self.count += sum(counts)
        self.steps.append((step, loss_sum / sum(counts)))
        self.waiting.clear()


def fit(
    model: nn.Module,
    batches: Loader,
    criterion: Criterion,
    optimizer: Optimizer,
    *,
    epochs: int,
    device: torch.device | str = "cpu",
    schedule: Schedule | None = None,
    val: Iterable[tuple[Tensor, Tensor]] | None = None,
    clip_norm: float | None = None,
    patience: int | None = None,
    log_interval: int = 100,
    progress: bool = False,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Epoch]:
    """Trains and yields a record after each epoch. Leaving the loop early is allowed.

    `criterion` returns a batch's mean. Where `batches` has `set_epoch`, it is told the epoch (from
    1). `patience` ends the training after that many epochs without a lower validation loss, and
    puts back the weights of the best. Once `stop()` is true the epoch ends at that step, its
    record says so, and it is the last.

    Raises: Diverged at the log interval after a loss that is not finite; ValueError for patience
    without `val`, or no batch at all.
    """
    if patience is not None and val is None:
        raise ValueError("patience: early stopping needs a validation set (data.val_size)")
    if len(batches) == 0:
        raise ValueError("batches: expected at least one, got none")
    best_loss, best_epoch, best_state = math.inf, 0, None
    whole = whole_step(model, criterion, optimizer) if clip_norm is None else None
    for epoch in range(1, epochs + 1):
        if hasattr(batches, "set_epoch"):
            batches.set_epoch(epoch)
        first_step = (epoch - 1) * len(batches) + 1
        start = time.perf_counter()
        tally, learning_rate, complete = _Tally(), math.nan, True
        model.train()
        with _bar(batches, f"Epoch {epoch}/{epochs}", progress) as bar:
            for step, (inputs, labels) in enumerate(batches, first_step):
                inputs, labels = inputs.to(device), labels.to(device)
                learning_rate = optimizer.param_groups[0]["lr"]
                taken = whole(inputs, labels) if whole else None
                if taken:
                    loss, logits = taken
                else:
                    optimizer.zero_grad(set_to_none=True)
                    logits = model(inputs)
                    loss = criterion(logits, labels)
                    loss.backward()
                    if clip_norm is not None:
                        nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
                    optimizer.step()
                if schedule is not None:
                    schedule.step()
                tally.add(loss, logits, labels)
                bar.update(len(labels))
                if step % log_interval == 0:
                    tally.settle(step)
                    bar.set_postfix(loss=f"{tally.steps[-1][1]:.4f}")
                if stop():
                    complete = step == first_step + len(batches) - 1
                    break
            tally.settle(step)
        seconds = time.perf_counter() - start
        score = evaluate(model, val, criterion, device) if val is not None else None
        yield Epoch(
            epoch=epoch,
            loss_sum=tally.loss_sum,
            correct=tally.correct,
            count=tally.count,
            steps=tally.steps,
            learning_rate=learning_rate,
            seconds=seconds,
            val=score,
            complete=complete,
        )
        if stop():
            return
        if patience is not None and score is not None:
            if score.loss < best_loss:
                best_loss, best_epoch = score.loss, epoch
                best_state = copy.deepcopy(model.state_dict())
            elif epoch - best_epoch >= patience:
                break
    if best_state is not None:
        model.load_state_dict(best_state)


def _bar(batches: Loader, title: str, progress: bool) -> "tqdm[Any]":
    """In images, with their number where the batches tell it: a list of batches does not."""
    dataset = getattr(batches, "dataset", None)
    count = getattr(batches, "count", None) if dataset is None else len(dataset)
    return tqdm(
        total=count if isinstance(count, int) else None,
        desc=title,
        unit=" images",
        unit_scale=True,
        leave=False,
        disable=not progress,
        ncols=90,
    )


def train_model(
    model: nn.Module,
    train_loader: Loader,
    criterion: Criterion,
    optimizer: Optimizer,
    device: torch.device | str,
    num_epochs: int = 10,
    log_interval: int = 100,
) -> tuple[nn.Module, list[float]]:
    """The tutorial's training: the trained model, and the mean loss of each epoch's examples.

    Prints a line an epoch, and on a terminal a progress bar until then. A LeNet5 on the CPU gets
    the native kernels.
    """
    if isinstance(model, LeNet5):
        equip(model, device)
    loss_history = []
    progress = sys.stderr.isatty()
    records = fit(
        model,
        train_loader,
        criterion,
        optimizer,
        epochs=num_epochs,
        device=device,
        log_interval=log_interval,
        progress=progress,
    )
    for record in records:
        loss_history.append(record.loss)
        print(epoch_line(record, num_epochs))
    print("Finished Training")
    return model, loss_history


def epoch_line(record: Epoch, epochs: int) -> str:
    """An epoch in one line, percent for people."""
    width = len(str(epochs))
    line = (
        f"Epoch {record.epoch:>{width}}/{epochs}  loss {record.loss:.4f}"
        f"  accuracy {record.accuracy:7.2%}"
    )
    if record.val is not None:
        line += f"  val loss {record.val.loss:.4f}  val accuracy {record.val.accuracy:7.2%}"
    line += f"  {record.seconds:.1f} s, {record.images_per_second:,.0f} images/s"
    return line if record.complete else line + "  (stopped before its end)"
