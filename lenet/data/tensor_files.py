"""Files of tensors: written whole or not at all, read without running pickled code.

A file is what torch.save writes: a ZIP archive with a checksum of each of its parts.
"""

import contextlib
import io
import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from lenet.cli import one_line
from lenet.data.errors import why_not_a_file

MAX_BYTES = 1 << 30


class CheckpointError(ValueError):
    """A file of tensors that cannot be written or read: one line with its name and the reason."""


def save(state: Any, path: str | Path) -> None:
    """Writes tensors and plain values. After a crash, either the old file or the new one is there.

    Raises: CheckpointError where `load` would refuse the state; the file at `path` is left as it
    was.
    """
    path = Path(path)
    if path.exists() and (reason := why_not_a_file(path)):
        raise CheckpointError(f"{one_line(path)}: {reason}")
    buffer = io.BytesIO()  # torch.save writes a file's name into the file; a buffer has none
    try:
        torch.save(state, buffer)
        _parse(buffer.getvalue(), "cpu")
    except Exception as error:
        raise CheckpointError(f"{one_line(path)}: cannot be written: {_reason(error)}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(buffer.getvalue())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def load(path: str | Path, device: torch.device | str = "cpu") -> Any:
    """Reads what `save` or torch.save wrote: tensors and plain values.

    Raises: CheckpointError where the file is missing, damaged or larger than MAX_BYTES, or needs
    pickled code, which is never run.
    """
    if reason := why_not_a_file(path):
        raise CheckpointError(f"{one_line(path)}: {reason}")
    try:
        with open(path, "rb") as file:
            return _parse(file.read(MAX_BYTES + 1), device)
    except Exception as error:  # torch.load has no closed list of errors
        raise CheckpointError(f"{one_line(path)}: {_reason(error)}") from None


def _parse(content: bytes, device: torch.device | str) -> Any:
    _check_size(len(content))
    # Before 1.6 torch wrote no archives: MNIST's files of those years have no checksums.
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = archive.infolist()
            _check_size(sum(part.file_size for part in parts))
            # torch reads nothing from a part with a folder's attribute, and does not notice.
            has_folder = any(part.external_attr & 0x10 for part in parts)
            if has_folder or archive.testzip():
                raise CheckpointError("expected intact tensors, found a checksum that fails")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's; where they matter, an error follows
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)


def _check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise CheckpointError(f"expected at most {MAX_BYTES:,} bytes of tensors, found more")


def _reason(error: Exception) -> str:
    """What is wrong with a file, without torch's advice to load it with weights_only=False."""
    text = str(error)
    if isinstance(error, CheckpointError):
        return text
    if wanted := re.search(r"GLOBAL ([\w.]+)", text):
        return (
            f"expected tensors and plain values, found a pickle that needs {wanted[1]}; "
            "nothing of it was run"
        )
    first_line = text.rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
    found = f"{type(error).__name__}: {first_line}".removesuffix(": ")
    return f"expected tensors, found a damaged or different file ({one_line(found)[:120]})"


def _sync_folder(folder: Path) -> None:
    """Puts a new name on the disk, on systems where a folder can be synchronised."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
