"""Weights on disk, and the folder of states from which a training can go on."""

import copy
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from lenet.cli import first_error_line, one_line
from lenet.data.tensor_files import CheckpointError, load, save
from lenet.training.progress import State

MAX_COST = 0.01  # the share of a training's time that checkpoints may take


# Under which programs keep weights beside other things.
KEYS = ("state_dict", "model_state_dict", "model")
# torch gives them to the names of a network that runs on several GPUs or was compiled.
PREFIXES = re.compile(r"^((module|_orig_mod)\.)+")


def read_weights(path: str | Path) -> dict[str, Any]:
    """The weights in a file, under the names that the network itself gives them.

    Raises: CheckpointError where the file is none of tensors by name.
    """
    state = load(path)
    for key in KEYS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        found = type(state).__name__
        raise CheckpointError(f"{one_line(path)}: expected weights by name, found {found}")
    # A plain dict: the metadata of a state_dict can tell torch to keep the file's own tensors.
    return {PREFIXES.sub("", str(name)): value for name, value in state.items()}


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fills the model from a file of weights, as `read_weights` reads it.

    Raises: CheckpointError where the file holds no weights of this network; the model is then as
    it was.
    """
    state, before = read_weights(path), copy.deepcopy(model.state_dict())
    try:
        model.load_state_dict(state)
    except Exception as error:  # torch has no closed list of errors for a file of another network
        model.load_state_dict(before)
        reason = first_error_line(error)
        raise CheckpointError(
            f"{one_line(path)}: expected the weights of this network ({reason})"
        ) from None


@dataclass
class Checkpoints:
    """Keeps the two newest states of a training in `folder`, each together with `facts`.

    The training goes on from `state` where it is given, and keeps it again. A new state is due
    after every `epochs` epochs, and `seconds` after the last one (null: never), but not so often
    that saving takes more than a hundredth of the time. `on_save` is called with the name of each
    file. A state that can't be written, as on a full disk, causes a warning; the earlier states
    stay.
    """

    folder: Path
    facts: dict[str, Any]
    on_save: Callable[[str], None] = lambda name: None
    state: State | None = None
    epochs: int | None = 1
    seconds: float | None = 30.0
    cost: float = field(default=0.0, init=False)  # seconds spent on all saves
    _last_cost: float = field(default=0.0, init=False)
    _last: float = field(default_factory=time.monotonic, init=False)

    def is_due(self, epoch: int | None = None) -> bool:
        """Whether to save now: after `epoch`, or in the middle of one."""
        waited = time.monotonic() - self._last
        if waited < self._last_cost / MAX_COST:
            return False
        by_epoch = epoch is not None and self.epochs is not None and epoch % self.epochs == 0
        return by_epoch or (self.seconds is not None and waited >= self.seconds)

    def save(self, state: State) -> None:
        start = time.monotonic()
        at = state["progress"]
        name = f"{at['epochs']:06d}-{at['batches']:09d}.pt"
        try:
            save(self.facts | state, self.folder / name)
            for old in newest_first(self.folder)[2:]:
                old.unlink()
            self.on_save(name)
        except (OSError, CheckpointError) as error:
            reason = getattr(error, "strerror", None) or error
            print(f"Warning: no checkpoint could be written ({reason})", file=sys.stderr)
        self._last = time.monotonic()
        self._last_cost = self._last - start
        self.cost += self._last_cost


def newest_first(folder: Path) -> list[Path]:
    """The checkpoints in a folder. Their names count epochs and batches."""
    return sorted(folder.glob("[0-9]*-[0-9]*.pt"), reverse=True)


def load_newest(
    paths: Iterable[Path], check: Callable[[State], None] = lambda state: None
) -> State | None:
    """The first state that can be read and that `check` accepts, or None.

    `check` raises a ValueError of one line for a state that it refuses. A refused or damaged file
    is removed with a warning, because the training will write it again.
    """
    for path in paths:
        try:
            state = load(path)
            check(state)
            return state
        except ValueError as error:
            print(f"Warning: {error}; the checkpoint before it is used", file=sys.stderr)
            path.unlink(missing_ok=True)
    return None
