"""Weights on disk by the tutorial's names, and the states of a training that it can go on from.

`lenet.data.tensor_files` has the files' own rules.
"""

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from lenet.cli import one_line
from lenet.data.tensor_files import CheckpointError, load, save

__all__ = [
    *("CheckpointError", "load", "load_model", "save", "save_model"),
    *("Checkpoints", "kept", "newest"),
]

Model = TypeVar("Model", bound=nn.Module)
MOST_COST = 0.01  # the part of a training's time that checkpoints may take


def save_model(model: nn.Module, path: str | Path = "lenet5.pth") -> None:
    """Saves the model's state_dict and says where."""
    save(model.state_dict(), path)
    print(f"Model saved to {path}")


def load_model(
    model: Model, path: str | Path = "lenet5.pth", device: torch.device | str = "cpu"
) -> Model:
    """Fills `model` from a state_dict on disk and moves it to `device`.

    Raises: CheckpointError where the file is no state_dict, or one of another network; the model
    is then as it was.
    """
    state, where = load(path, device), one_line(path)
    if not isinstance(state, dict):
        raise CheckpointError(f"{where}: expected a state_dict, found {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            found = f"{one_line(repr(name))[:80]}, a {type(value).__name__}"
            raise CheckpointError(f"{where}: expected a state_dict, found {found}")
    wanted, given = _forms(model.state_dict()), _forms(state)
    for name in wanted | given:
        if wanted.get(name) != given.get(name):
            raise CheckpointError(
                f"{where}: expected {one_line(name)[:80]} {wanted.get(name, 'not to be there')}, "
                f"found {given.get(name, 'nothing')}"
            )
    # Without the metadata that a state_dict may carry, which torch trusts.
    model.load_state_dict(dict(state))
    model.to(device)
    print(f"Model loaded from {path}")
    return model


def _forms(state: dict[str, torch.Tensor]) -> dict[str, str]:
    """What has to agree: the shape, and floats with floats; of how many bits does not matter."""
    return {
        name: f"{tuple(t.shape)}" + ("" if t.is_floating_point() else f" {t.dtype}")
        for name, t in state.items()
    }


class Checkpoints:
    """Keeps the last two states of a training in `folder`, on top of each `facts`.

    `state` is the one that the training goes on from. A new one is due every `epochs` epochs and
    `seconds` after the last one (null: never), but not so often that they cost over a hundredth of
    the time. `saved` is called with the name of each. A full disk costs a warning; the states that
    are there stay.
    """

    def __init__(
        self,
        folder: Path,
        facts: dict[str, Any],
        saved: Callable[[str], None] = lambda name: None,
        state: dict[str, Any] | None = None,
        epochs: int | None = 1,
        seconds: float | None = 30.0,
    ) -> None:
        self.folder = folder
        self.facts = facts
        self.saved = saved
        self.state = state
        self.epochs = epochs
        self.seconds = seconds
        self.cost = 0.0  # seconds spent here
        self._last_cost = 0.0
        self._last = time.monotonic()

    def is_due(self, epoch: int | None = None) -> bool:
        waited = time.monotonic() - self._last
        if waited < self._last_cost / MOST_COST:
            return False
        by_epoch = epoch is not None and self.epochs is not None and epoch % self.epochs == 0
        return by_epoch or (self.seconds is not None and waited >= self.seconds)

    def save(self, state: dict[str, Any]) -> None:
        start = time.monotonic()
        at = state["progress"]
        name = f"{at['epochs']:06d}-{at['batches']:09d}.pt"
        try:
            save(self.facts | state, self.folder / name)
            for old in kept(self.folder)[2:]:
                old.unlink()
            self.saved(name)
        except (OSError, CheckpointError) as error:
            reason = getattr(error, "strerror", None) or error
            print(f"Warning: no checkpoint could be written ({reason})", file=sys.stderr)
        self._last = time.monotonic()
        self._last_cost = self._last - start
        self.cost += self._last_cost


def kept(folder: Path) -> list[Path]:
    """The checkpoints in a folder, newest first: their names count epochs and batches."""
    return sorted(folder.glob("[0-9]*-[0-9]*.pt"), reverse=True)


def newest(
    paths: Iterable[Path], check: Callable[[dict[str, Any]], None] = lambda state: None
) -> dict[str, Any] | None:
    """The first of `paths` that is whole and that `check` takes, which raises a ValueError of one
    line where not; a damaged one is told and removed, for one like it may be written again.
    """
    for path in paths:
        try:
            state = load(path)
            if not isinstance(state, dict) or not isinstance(state.get("progress"), dict):
                raise CheckpointError(f"{path}: expected a training's state, found another file")
            check(state)
            return state
        except ValueError as error:
            print(f"Warning: {error}; the checkpoint before it is used", file=sys.stderr)
            path.unlink(missing_ok=True)
    return None
