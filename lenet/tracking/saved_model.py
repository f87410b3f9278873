"""The network of a run as an MLflow model, made from the one that an earlier run has saved.

torch's export takes longer than a short training, and needs MLflow and torch's compiler. What it
writes depends on the network's code and shapes, and not on the weights. So the first model of a
kind is kept, beside the kernels; a later one is a copy of it with other weights.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from zipfile import ZipFile

import torch
from torch import Tensor, nn

from lenet import model as networks
from lenet.data.sets import Data
from lenet.native.build import cache_folder
from lenet.tracking.records import save_mlflow_model

PROGRAM = Path("data", "model.pt2")
OURS = ("torch.nn.", "lenet.model.")  # modules whose code the key of a kept model covers


def save_model(model: nn.Module, data: Data, folder: Path) -> None:
    """Saves the network as `save_mlflow_model` does."""
    if not all(type(part).__module__.startswith(OURS) for part in model.modules()):
        return save_mlflow_model(model, data, folder)  # its code may be anywhere
    kept = cache_folder() / "models" / _key(model, data)
    if kept.is_dir():
        shutil.copytree(kept, folder)
        _put_weights(model.state_dict(), kept / PROGRAM, folder / PROGRAM)
        return None
    save_mlflow_model(model, data, folder)
    with ZipFile(folder / PROGRAM) as program:
        if set(_weight_files(program).values()) != set(model.state_dict()):
            return None  # another version of torch's format
    with suppress(OSError):  # a cache that can't be written; or another process was faster
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=kept.parent) as new:
            os.replace(shutil.copytree(folder, Path(new, "model")), kept)
    return None


def _key(model: nn.Module, data: Data) -> str:
    """A hash of all that the saved model depends on but the weights."""
    parts: list[object] = [platform.python_version(), data.inputs.to_values()]
    parts += [importlib.metadata.version(name) for name in ("torch", "mlflow", "numpy")]
    parts += [path.read_bytes() for path in sorted(Path(networks.__file__).parent.glob("*.py"))]
    for name, part in model.named_modules():
        values = {k: v for k, v in vars(part).items() if isinstance(v, str | int | float | tuple)}
        values.pop("training")  # it is saved in evaluation mode
        parts += [name, type(part).__qualname__, sorted(values.items(), key=str)]
    parts += [(k, v.dtype, v.shape, v.stride()) for k, v in model.state_dict().items()]
    example = next(iter(data.test))[0][:2]
    parts += [(name, _bytes(each)) for name, each in [*model.named_buffers(), ("", example)]]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _put_weights(weights: dict[str, Tensor], before: Path, after: Path) -> None:
    """Copies an exported program; the copy gets these weights."""
    with ZipFile(before) as old, ZipFile(after, "w") as new:
        files = _weight_files(old)
        for entry in old.infolist():
            name = files.get(entry.filename)
            new.writestr(entry, _bytes(weights[name]) if name else old.read(entry))


def _weight_files(program: ZipFile) -> dict[str, str]:
    """The names of the weights by their files in an exported program."""
    files = {}
    for table in program.namelist():
        if table.endswith("/model_weights_config.json"):
            for name, about in json.loads(program.read(table))["config"].items():
                files[f"{Path(table).parent}/{about['path_name']}"] = name
    return files


def _bytes(tensor: Tensor) -> bytes:
    values = tensor.detach().cpu().contiguous().reshape(-1)
    return values.view(torch.uint8).numpy().tobytes()
