"""The training loop: `fit` is a generator, one record an epoch; what to do with it is yours."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from lenet.model.lenet5 import LeNet5
from lenet.native import equip
from lenet.native.step import whole_step
from lenet.optim.sdlm import SDLM
from lenet.training.evaluate import Criterion, evaluate
from lenet.training.progress import (
    Diverged,
    Epoch,
    Progress,
    Schedule,
    State,
    Tally,
    restore,
    state_of,
)
from lenet.training.rng import random_state, set_random_state

__all__ = ["Diverged", "Epoch", "Loader", "Saver", "epoch_line", "fit", "train_model"]


class Loader(Iterable[tuple[Tensor, Tensor]], Sized, Protocol):
    """Batches of (inputs, labels): this package's or a torch DataLoader."""


class Saver(Protocol):
    """Keeps states of a training. `due` is asked after each step, and with its number after each
    epoch; the last state is saved whether or not it is due.
    """

    def due(self, epoch: int | None = None) -> bool: ...

    def save(self, state: State) -> None: ...


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
    saver: Saver | None = None,
    state: Mapping[str, Any] | None = None,
) -> Iterator[Epoch]:
    """Trains and yields a record after each epoch. Leaving the loop early is allowed.

    `criterion` returns a batch's mean. Where `batches` has `set_epoch`, it is told the epoch (from
    1). `patience` ends the training after that many epochs without a lower validation loss, and
    puts back the weights of the best. Once `stop()` is true the epoch ends at that step, its
    record says so, and it is the last. `saver` is given states; with one of them as `state`, and
    the other arguments made anew, the training goes on as if it had never been interrupted: the
    epoch under way is gone through again up to its next batch, so `batches` must give the same.
    An SDLM measures the first of each epoch's examples before it begins.

    Raises: Diverged at the log interval after a loss that is not finite; ValueError for patience
    without `val`, or no batch at all; StateError for a state of another training.
    """
    if patience is not None and val is None:
        raise ValueError("patience: early stopping needs a validation set (data.val_size)")
    if len(batches) == 0:
        raise ValueError("batches: expected at least one, got none")
    length = (epochs, len(batches))
    at = Progress()
    if state is not None:
        at = restore(state, model, optimizer, schedule, *length)
    whole = whole_step(model, criterion, optimizer) if clip_norm is None else None
    while at.epochs < epochs and not at.exhausted(patience):
        epoch, tally = at.epochs + 1, at.tally
        if hasattr(batches, "set_epoch"):
            batches.set_epoch(epoch)
        first_step = at.epochs * len(batches) + 1
        last_step = epoch * len(batches)
        start = time.perf_counter() - tally.seconds
        step = before = first_step + at.batches - 1
        stopped = False
        model.train()
        if isinstance(optimizer, SDLM) and not at.batches:
            optimizer.measure(model, criterion, *_first(batches, optimizer.samples, device))
        with _bar(batches, f"Epoch {epoch}/{epochs}", progress, tally) as bar:
            for step, (inputs, labels) in enumerate(_rest(batches, at), before + 1):
                inputs, labels = inputs.to(device), labels.to(device)
                tally.learning_rate = optimizer.param_groups[0]["lr"]
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
                stopped = stop()
                if saver is not None and step < last_step and (stopped or saver.due()):
                    at.pause(step - first_step + 1, step, time.perf_counter() - start)
                    saver.save(state_of(at, model, optimizer, *length))
                if stopped:
                    break
            tally.settle(step)
        complete = not stopped or step == last_step
        seconds = time.perf_counter() - start
        record = Epoch(
            epoch=epoch,
            loss_sum=tally.loss_sum,
            correct=tally.correct,
            count=tally.count,
            steps=tally.steps,
            learning_rate=tally.learning_rate,
            seconds=seconds,
            val=evaluate(model, val, criterion, device) if val is not None and complete else None,
            complete=complete,
        )
        yield record
        if not complete:
            return
        at.ended(record, model, patience)
        stopped = stop()
        if saver is not None:
            ends = stopped or epoch == epochs or at.exhausted(patience)
            if ends or saver.due(epoch):
                saver.save(state_of(at, model, optimizer, *length))
        if stopped:
            return
    if at.best_model is not None:
        model.load_state_dict(at.best_model)


def _first(batches: Loader, count: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """The first examples of an epoch, or all; whatever a loader draws for them is drawn again."""
    before, seen = random_state(), 0
    parts: list[tuple[Tensor, Tensor]] = []
    for inputs, labels in batches:
        parts.append((inputs.to(device), labels.to(device)))
        seen += len(labels)
        if seen >= count:
            break
    set_random_state(before)
    inputs, labels = (torch.cat(part)[:count] for part in zip(*parts, strict=True))
    return inputs, labels


def _rest(batches: Loader, at: Progress) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of this epoch that are still to come. Those before are drawn as they were then:
    a loader may shuffle and distort by torch's generator.
    """
    if not at.batches:
        at.began = random_state()
        return iter(batches)
    now = random_state()
    set_random_state(at.began or now)
    rest = iter(batches)
    deque(islice(rest, at.batches), maxlen=0)
    set_random_state(now)
    return rest


def _bar(batches: Loader, title: str, progress: bool, tally: Tally) -> "tqdm[Any]":
    """In images, with their number where the batches tell it: a list of batches does not."""
    dataset = getattr(batches, "dataset", None)
    count = getattr(batches, "count", None) if dataset is None else len(dataset)
    return tqdm(
        total=count if isinstance(count, int) else None,
        initial=tally.count + sum(tally.counts),
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
