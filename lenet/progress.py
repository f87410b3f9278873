"""How far a training is: its epochs' records, and the state that it can go on from, bit for bit."""

import copy
import functools
import math
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lenet.evaluate import Score, Totals

if TYPE_CHECKING:
    from pydantic import TypeAdapter

State = dict[str, Any]


class Diverged(ArithmeticError):
    """The loss is no longer a finite number; the weights are of no use."""


class StateError(ValueError):
    """A state that is not one of this training: one line that says what was expected and found."""


class Schedule(Protocol):
    """Sets the optimizer's learning rate; `step` follows each of the optimizer's own."""

    def step(self) -> None: ...

    def state_dict(self) -> State: ...

    def load_state_dict(self, state_dict: State) -> None: ...


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
        self.epochs, self.batches, self.tally = record.epoch, 0, Tally()
        self.history.append(record)
        if patience is not None and record.val is not None and record.val.loss < self.best_loss:
            self.best_loss, self.best_epoch = record.val.loss, record.epoch
            self.best_model = copy.deepcopy(model.state_dict())

    def exhausted(self, patience: int | None) -> bool:
        return patience is not None and self.epochs - self.best_epoch >= patience


def state_of(
    progress: Progress,
    model: nn.Module,
    optimizer: Optimizer,
    schedule: Schedule | None,
    epochs: int,
    steps_per_epoch: int,
) -> State:
    """All that `restore` needs, as plain values and tensors: those of the model and the optimizer
    themselves, not copies. A validation is kept as its sums.
    """
    tally = {key: value for key, value in vars(progress.tally).items() if key != "waiting"}
    for name, kind in TALLIED.items():
        tally[name] = torch.tensor(tally[name], dtype=kind)
    history = _columns(progress.history)
    return {
        "progress": vars(progress) | {"tally": tally, "history": history},
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict() if schedule else None,
        "random": _random_state(),
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

    Raises: StateError where the state is none of this training's; the objects may be half changed.
    """
    try:
        before, length = state["length"]
        if length != steps_per_epoch:
            raise StateError(f"state: expected {steps_per_epoch} steps an epoch, found {length}")
        progress = restored_progress(state)
        _check_tensors(state, model, optimizer)
        model.load_state_dict(state["model"])
        if before == epochs:
            optimizer.load_state_dict(dict(state["optimizer"]))
            if schedule is not None:
                schedule.load_state_dict(dict(state["schedule"]))
        else:
            steps = progress.epochs * steps_per_epoch + progress.batches
            _load_into_longer(state["optimizer"], optimizer, schedule, steps)
        _set_random_state(state["random"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:
        if isinstance(error, StateError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise StateError(f"state: expected one of this training ({reason})") from None
    return progress


def restored_progress(state: Mapping[str, Any]) -> Progress:
    """The part of a state that tells how far it is.

    Raises: ValueError, TypeError, KeyError or AttributeError where it holds anything but what
    belongs there.
    """
    plain = dict(state["progress"])
    lists = {name: plain["tally"][name].tolist() for name in TALLIED}
    plain["tally"] = plain["tally"] | lists
    plain["history"] = _rows(plain["history"])
    progress = _progress_type().validate_python(plain)
    if progress.epochs != len(progress.history) or progress.batches < 0:
        raise ValueError(f"{len(progress.history)} records of {progress.epochs} epochs")
    return progress


# Lists of numbers are kept as tensors: a long training has a hundred thousand points.
TALLIED = {"steps": torch.float64, "losses": torch.float64, "counts": torch.int64}
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
    return rows


@functools.cache
def _progress_type() -> "TypeAdapter[Progress]":
    from pydantic import ConfigDict, TypeAdapter

    # Tensors, and a Score, which no state holds.
    for kind in (Epoch, Tally, Score, Progress):
        setattr(kind, "__pydantic_config__", ConfigDict(arbitrary_types_allowed=True))  # noqa: B010
    return TypeAdapter(Progress)


def _check_tensors(state: Mapping[str, Any], model: nn.Module, optimizer: Optimizer) -> None:
    """The shapes alone: kernels trust them."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    models = {"model": state["model"], "best model": state["progress"]["best_model"]}
    for which, weights in models.items():
        if weights is None:
            continue
        found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
        for name in expected | found:
            if expected.get(name) != found.get(name):
                raise StateError(
                    f"state: expected the {which}'s {name} {expected.get(name, 'not to be there')},"
                    f" found {found.get(name, 'nothing')}"
                )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, values in state["optimizer"]["state"].items():
        for name, value in values.items():
            if not isinstance(value, Tensor) or value.numel() == 1:
                continue
            if value.shape != parameters[index].shape:
                raise StateError(
                    f"state: expected the optimizer's {name} {list(parameters[index].shape)}, "
                    f"found {list(value.shape)}"
                )


def _load_into_longer(
    state: Mapping[str, Any], optimizer: Optimizer, schedule: Schedule | None, steps: int
) -> None:
    """The optimizer's tensors are the state's, its rates those of the schedule at that step."""
    if schedule is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the optimizer takes no steps in between
            for _ in range(steps):
                schedule.step()
    rates = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, own in zip(optimizer.param_groups, rates, strict=True):
        group.update(own)


def _random_state() -> State:
    """Of every generator that a model, a loss or a transform may draw from."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    name, keys, *rest = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
