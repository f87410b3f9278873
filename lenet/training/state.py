"""The state of a training that a checkpoint holds, and how to continue from it bit for bit."""

import copy
import math
import warnings
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lenet.cli import first_error_line
from lenet.training.epoch import Schedule, Step
from lenet.training.evaluate import Totals
from lenet.training.progress import Epoch, Progress, State, Tally
from lenet.training.rng import random_state, set_random_state


class StateError(ValueError):
    """A state of another training: one line with what was expected and what was found."""


def state_of(at: Progress, step: Step, epochs: int) -> State:
    """All that `restore` needs, as plain values and tensors.

    The tensors are the model's and the optimizer's own, not copies.
    """
    at.tally.read(at.step)
    tally = {k: v for k, v in vars(at.tally).items() if k not in ("waiting", "started")}
    history = [vars(epoch) | {"val": _sums(epoch.val)} for epoch in at.history]
    return {
        "progress": vars(at) | {"tally": tally, "history": history},
        "model": step.model.state_dict(),
        "optimizer": step.optimizer.state_dict(),
        "random": random_state(),
        "epochs": epochs,
    }


def _sums(val: Totals | None) -> list[float] | None:
    return [val.loss_sum, val.correct, val.count] if val else None


def progress_of(state: Mapping[str, Any]) -> Progress:
    """The part of a state that says how far the training has come.

    Raises: StateError where there is none.
    """
    try:
        saved = dict(state["progress"])
        history = [
            Epoch(**{**row, "val": Totals(*row["val"]) if row["val"] else None})
            for row in saved["history"]
        ]
        return Progress(**{**saved, "tally": Tally(**saved["tally"]), "history": history})
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"state: expected the progress of a training ({error})") from None


def restore(state: Mapping[str, Any], step: Step, epochs: int, steps_per_epoch: int) -> Progress:
    """Loads the state into the new objects of a training, and returns how far it has come.

    The state may be of a training with fewer epochs. It then continues as a part of the longer
    one: the schedule sets the learning rate.

    Raises: StateError where the state is of another training; the objects may be half changed.
    """
    at = progress_of(state)
    if at.steps_per_epoch != steps_per_epoch:
        found = at.steps_per_epoch
        raise StateError(f"state: expected {steps_per_epoch} steps an epoch, found {found}")
    if at.step > epochs * steps_per_epoch:
        raise StateError(f"state: expected {epochs} epochs at most, found {at.step} steps")
    try:
        # A plain dict: the metadata of a state_dict can tell torch to keep a file's own tensors.
        step.model.load_state_dict(dict(state["model"]))
        at.best_model = at.best_model and dict(at.best_model)
        _advance(step.schedule, at.step)
        _load_moments(state["optimizer"], step.optimizer)
        set_random_state(state["random"])
    except StateError:
        raise
    except Exception as error:  # torch has no closed list of errors for a file of another network
        reason = first_error_line(error)
        raise StateError(f"state: expected one of this training ({reason})") from None
    return at


def sets_rates_of(at: Progress, schedule: Schedule, optimizer: Optimizer) -> bool:
    """Whether a new schedule sets the learning rates that a training had so far. One that knows its
    end does not, where that end is another one now. The schedule is used up.
    """
    ends = {epoch.epoch * at.steps_per_epoch: epoch.learning_rate for epoch in at.history}
    if at.batches:
        ends[at.step] = at.tally.learning_rate
    before = 0
    for end, rate in ends.items():
        _advance(schedule, end - 1 - before)
        before = end - 1
        if not math.isclose(optimizer.param_groups[0]["lr"], rate, rel_tol=1e-9):
            return False
    return True


def _advance(schedule: Schedule | None, steps: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns that the optimizer takes no steps between
        for _ in range(steps if schedule is not None else 0):
            schedule.step()  # type: ignore[union-attr]


def _load_moments(saved: State, optimizer: Optimizer) -> None:
    """Loads the optimizer's state. Its options are its own, as the schedule has set them."""
    groups = optimizer.state_dict()["param_groups"]
    moments = copy.deepcopy(saved["state"])  # the optimizer changes them in place
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            # The kernels read as many values of a moment as its parameter has.
            if isinstance(value, Tensor) and value.shape not in (parameter.shape, ()):
                shapes = f"{list(parameter.shape)}, found {list(value.shape)}"
                raise StateError(f"state: expected the optimizer's {name} {shapes}")
