"""Weights and states on disk: written whole or not at all, read without running pickles."""

import os
import pickle
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class CheckpointError(ValueError):
    """A file that can't be loaded: one line that names it, what was expected and found."""


def save(state: Any, path: str | Path) -> None:
    """Writes tensors and plain values. A crash leaves either the old file or the new one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files for the owner alone; a saved model has a new file's usual mode.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load(path: str | Path, device: torch.device | str = "cpu") -> Any:
    """Reads what `save` or torch.save wrote: tensors and plain values only.

    Raises: CheckpointError where the file is missing, damaged (a flipped bit included), or holds
    pickled code; nothing of it is run.
    """
    if not Path(path).is_file():
        found = "a folder" if Path(path).is_dir() else "nothing there"
        raise CheckpointError(f"{path}: expected a file of weights, found {found}")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if damaged := archive.testzip():
                    raise CheckpointError(
                        f"{path}: expected intact weights, found a checksum that fails ({damaged})"
                    )
        with warnings.catch_warnings():
            # torch warns of a pickle that it then refuses; the error says it.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location=device, weights_only=True)
    except CheckpointError:
        raise
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: expected tensors alone, found a pickle that wants to run code or is damaged; "
            "nothing of it was executed"
        ) from None
    except Exception as error:
        # torch.load has no closed list of errors: RuntimeError, OSError, EOFError, KeyError ...
        reason = str(error).strip().split("\n")[0][:120]
        raise CheckpointError(
            f"{path}: expected weights, found a damaged file ({reason})"
        ) from None


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
    state = load(path, device)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: expected a state_dict, found {type(state).__name__}")
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            kind = type(value).__name__
            raise CheckpointError(f"{path}: expected a state_dict, found {name!r}, a {kind}")
    found = {name: tuple(tensor.shape) for name, tensor in state.items()}
    for name in expected | found:
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{path}: expected {name} {expected.get(name, 'not to be there')}, "
                f"found {found.get(name, 'nothing')}"
            )
    model.load_state_dict(state)
    model.to(device)
    print(f"Model loaded from {path}")
    return model
