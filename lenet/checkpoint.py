"""A model's weights on disk, by the tutorial's names; `lenet.tensors` has the files' own rules."""

from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from lenet.tensors import CheckpointError, load, one_line, save

__all__ = ["CheckpointError", "load", "load_model", "save", "save_model"]

Model = TypeVar("Model", bound=nn.Module)


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
