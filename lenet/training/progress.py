"""How far a training is: its epochs' records, and the state that it can go on from, bit for bit."""

import copy
import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lenet.training.evaluate import Score, Totals
from lenet.training.rng import random_state, set_random_state

if TYPE_CHECKING:
    from pydantic import TypeAdapter

State = dict[str, Any]


class Diverged(ArithmeticError):
    """The loss is no longer a finite number; the weights are of no use."""


class StateError(ValueError):
    """A state that is not one of this training: one line that says what was expected and found."""


class Schedule(Protocol):
    """Sets the optimizer's learning rate, by the number of its steps alone: `step` follows each
    of the optimizer's own.
    """

    def step(self) -> None: ...


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training set came to. Sums are over its examples.

    `steps` holds (optimizer step, mean loss since the last one) at the log interval and at the
    end; `learning_rate` is that of the last step; `complete` is False where the pass was stopped,
    which has no validation then. That of an epoch before a resume is known by its sums alone.
    """

    epoch: int
    loss_sum: float
    correct: int
    count: int
    steps: list[tuple[int, float]]
    learning_rate: float
    seconds: float
    val: Score | Totals | None
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
class Tally:
    """Running sums of one epoch. Tensors wait in lists, so a GPU is asked only now and then;
    `losses` and `counts` are those of the batches since the last point.
    """

    loss_sum: float = 0.0
    correct: int = 0
    count: int = 0
    seconds: float = 0.0
    learning_rate: float = math.nan
    steps: list[tuple[int, float]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    waiting: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)

    def add(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.waiting.append((loss.detach(), logits.detach(), labels))

    def take_in(self, step: int) -> None:
        """Turns what waits into numbers; `step` is the last optimizer step among it.

        Raises: Diverged where a loss is not finite.
        """
        if not self.waiting:
            return
        losses = torch.stack([loss for loss, _, _ in self.waiting]).tolist()
        logits, labels = (torch.cat([entry[i] for entry in self.waiting]) for i in (1, 2))
        for number, loss in enumerate(losses, step - len(losses) + 1):
            if not math.isfinite(loss):
                raise Diverged(f"the training loss is {loss} at optimizer step {number}")
        self.losses += losses
        self.counts += [len(labels) for _, _, labels in self.waiting]
        self.correct += int((logits.argmax(dim=1) == labels).sum())
        self.waiting.clear()

    def settle(self, step: int) -> None:
        """Makes a point of the batches since the last one, if there were any."""
        self.take_in(step)
        if not self.counts:
            return
        loss_sum = sum(loss * n for loss, n in zip(self.losses, self.counts, strict=True))
        self.loss_sum += loss_sum
        self.count += sum(self.counts)
        self.steps.append((step, loss_sum / sum(self.counts)))
        self.losses, self.counts = [], []


@dataclass
class Progress:
    """Where a training is: what is in neither the model nor the optimizer nor the schedule."""

    epochs: int = 0  # complete ones
    batches: int = 0  # of the one after them
    began: State | None = None  # the generators, as that one began
    tally: Tally = field(default_factory=Tally)
    history: list[Epoch] = field(default_factory=list)
    best_loss: float = math.inf
    best_epoch: int = 0
    best_model: State | None = None

    def pause(self, batches: int, step: int, seconds: float) -> None:
        """Makes the sums of the epoch under way ready to be kept."""
        self.batches = batches
        self.tally.take_in(step)
        self.tally.seconds = seconds

    def ended(self, record: Epoch, model: nn.Module, patience: int | None) -> None:
        """Takes in a whole epoch."""
        self.epochs, self.batches, self.began, self.tally = record.epoch, 0, None, Tally()
        self.history.append(record)
        if patience is not None and record.val is not None and record.val.loss < self.best_loss:
            self.best_loss, self.best_epoch = record.val.loss, record.epoch
            self.best_model = copy.deepcopy(model.state_dict())

    def exhausted(self, patience: int | None) -> bool:
        return patience is not None and self.epochs - self.best_epoch >= patience


def state_of(
    progress: Progress, model: nn.Module, optimizer: Optimizer, epochs: int, steps_per_epoch: int
) -> State:
    """All that `restore` needs, as plain values and tensors: those of the model and the optimizer
    themselves, not copies. A validation is kept as its sums.
    """
    tally = {name: getattr(progress.tally, name) for name in KEPT}
    for name, kind in TALLIED.items():
        tally[name] = torch.tensor(tally[name], dtype=kind)
    history = _columns(progress.history)
    return {
        "progress": vars(progress) | {"tally": tally, "history": history},
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "random": random_state(),
        "length": [epochs, steps_per_epoch],
    }


def restore(
    state: Mapping[str, Any],
    model: nn.Module,
    optimizer: Optimizer,
    schedule: Schedule | None,
    epochs: int,
    steps_per_epoch: int,
) -> Progress:
    """Puts the objects of a training, made anew, where they were. A state of fewer epochs goes on
    in the middle of the longer training, whose schedule then says the learning rate.

    A state may come from anybody: of it are taken tensors of the expected shapes, types and
    layout, which kernels trust, and numbers that make sense; rates must be what they are here.

    Raises: StateError where the state is none of this training's; the objects may be half changed.
    """
    try:
        before, length = state["length"]
        if length != steps_per_epoch:
            raise StateError(f"state: expected {steps_per_epoch} steps an epoch, found {length}")
        progress = restored_progress(state)
        steps = progress.epochs * steps_per_epoch + progress.batches
        if progress.batches >= steps_per_epoch or steps > epochs * steps_per_epoch:
            raise StateError(f"state: expected {epochs} epochs, found {steps} steps")
        own = model.state_dict()
        if progress.best_model is not None:
            progress.best_model = _alike("best model", own, progress.best_model)
        model.load_state_dict(_alike("model", own, state["model"]))
        _step_silently(schedule, steps)
        _check_rates(state["optimizer"]["param_groups"], optimizer, same=before == epochs)
        _load_moments(state["optimizer"]["state"], optimizer, steps)
        if progress.batches:
            set_random_state(progress.began or {})
        set_random_state(state["random"])
    except StateError:
        raise
    except Exception as error:  # a file may hold anything at any place
        reason = " ".join(str(error).split())[:200]
        raise StateError(f"state: expected one of this training ({reason})") from None
    return progress


def restored_progress(state: Mapping[str, Any]) -> Progress:
    """The part of a state that tells how far it is.

    Raises: ValueError, TypeError, KeyError or another where it holds anything but what belongs
    there.
    """
    plain = dict(state["progress"])
    tally = {name: plain["tally"][name] for name in KEPT}
    plain["tally"] = tally | {name: tally[name].tolist() for name in TALLIED}
    plain["history"] = _rows(plain["history"])
    progress = _progress_type().validate_python(plain)
    _check_numbers(progress)
    return progress


# Lists of numbers are kept as tensors: a long training has a hundred thousand points.
TALLIED = {"steps": torch.float64, "losses": torch.float64, "counts": torch.int64}
KEPT = [entry.name for entry in fields(Tally) if entry.name != "waiting"]
NUMBERS = ("epoch", "loss_sum", "correct", "count", "learning_rate", "seconds")


def _columns(history: Sequence[Epoch]) -> dict[str, Tensor]:
    """Shapes: numbers (epochs, 6), val (epochs, 3), points (epochs), steps (all points, 2)."""
    none = [math.nan] * 3
    numbers = [[getattr(e, name) for name in NUMBERS] for e in history]
    val = [[e.val.loss_sum, e.val.correct, e.val.count] if e.val else none for e in history]
    steps = [point for e in history for point in e.steps]
    return {
        "numbers": torch.tensor(numbers, dtype=torch.float64).reshape(-1, len(NUMBERS)),
        "val": torch.tensor(val, dtype=torch.float64).reshape(-1, 3),
        "points": torch.tensor([len(e.steps) for e in history], dtype=torch.int64),
        "steps": torch.tensor(steps, dtype=torch.float64).reshape(-1, 2),
    }


def _rows(columns: Mapping[str, Tensor]) -> list[dict[str, Any]]:
    numbers, val, points, steps = (
        columns[name].tolist() for name in ("numbers", "val", "points", "steps")
    )
    rows, first = [], 0
    for values, totals, count in zip(numbers, val, points, strict=True):
        row = dict(zip(NUMBERS, values, strict=True)) | {"complete": True, "val": None}
        if not math.isnan(totals[2]):
            row["val"] = dict(zip(("loss_sum", "correct", "count"), totals, strict=True))
        rows.append(row | {"steps": steps[first : first + count]})
        first += count
    if first != len(steps):
        raise ValueError(f"{len(steps)} points, {first} of epochs")
    return rows


@functools.cache
def _progress_type() -> "TypeAdapter[Progress]":
    from pydantic import ConfigDict, TypeAdapter

    # Tensors, and a Score, which no state holds.
    for kind in (Epoch, Tally, Score, Progress):
        setattr(kind, "__pydantic_config__", ConfigDict(arbitrary_types_allowed=True))  # noqa: B010
    return TypeAdapter(Progress)


def _check_numbers(at: Progress) -> None:
    """Raises: ValueError where what is derived from them later could not be."""
    tally = at.tally
    seen = tally.count + sum(tally.counts)
    sound = [
        [record.epoch for record in at.history] == list(range(1, at.epochs + 1)),
        all(0 <= r.correct <= r.count > 0 and 0 < r.seconds < math.inf for r in at.history),
        all(r.val is None or 0 <= r.val.correct <= r.val.count > 0 for r in at.history),
        all(math.isfinite(number) for number in [tally.loss_sum, *tally.losses]),
        len(tally.losses) == len(tally.counts) and all(count > 0 for count in tally.counts),
        0 <= tally.correct <= seen and tally.count >= 0 and 0 <= tally.seconds < math.inf,
        at.batches >= 0 and (seen > 0) == (at.batches > 0),
        0 <= at.best_epoch <= at.epochs,
    ]
    if not all(sound):
        raise ValueError(f"its sums are none of {at.epochs} epochs and {at.batches} batches")


def _alike(which: str, expected: Mapping[str, Any], found: Mapping[str, Any]) -> State:
    """Copies of the tensors that are found, each laid out as the one that is expected."""
    if not isinstance(found, Mapping):
        raise StateError(f"state: expected the {which}'s tensors, found {type(found).__name__}")
    copies = {}
    for name in dict.fromkeys([*expected, *found]):
        wants, has = _form(expected.get(name)), _form(found.get(name))
        if wants != has or (name in expected) != (name in found):
            shown = ascii(name)[1:-1][:60]
            raise StateError(f"state: expected the {which}'s {shown} {wants}, found {has}")
        one = expected[name]
        copies[name] = one if one is None else torch.empty_like(one).copy_(found[name])
    return copies


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    return "nothing" if value is None else type(value).__name__


def _step_silently(schedule: Schedule | None, steps: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the optimizer takes no steps in between
        for _ in range(steps if schedule is not None else 0):
            schedule.step()  # type: ignore[union-attr]


def _check_rates(groups: Sequence[State], optimizer: Optimizer, same: bool) -> None:
    """Held against the optimizer's own: all, or without `same` those that no schedule changes."""
    for number, own in enumerate(optimizer.state_dict()["param_groups"]):
        group = groups[number] if number < len(groups) else {}
        for key in dict.fromkeys([*own, *group]):
            if not same and key in own and key in ("lr", "momentum", "betas"):
                continue
            wants, has = own.get(key, "nothing"), group.get(key, "nothing")
            if type(wants) is not type(has) or wants != has:
                named = ascii(key)[1:-1][:60]
                found = " ".join(ascii(has).split())[:60]  # a tensor's has lines
                raise StateError(f"state: expected the optimizer's {named} {wants}, found {found}")
    if len(groups) != len(optimizer.param_groups):
        raise StateError(f"state: expected the optimizer of this training, found {len(groups)}")


def _load_moments(state: Mapping[int, State], optimizer: Optimizer, steps: int) -> None:
    """What the optimizer keeps for each parameter has the form that a step of it makes."""
    probe = copy.deepcopy(optimizer)
    for group in probe.param_groups:
        for p in group["params"]:
            p.grad = torch.zeros_like(p)
    probe.step()
    like = probe.state_dict()
    moments = {}
    for index, values in state.items():
        moments[index] = _alike("optimizer", like["state"][index], values)
        taken = moments[index].get("step")
        if taken is not None and not 0 < float(taken) <= steps:
            raise StateError(f"state: expected at most {steps} steps, found {float(taken)}")
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
