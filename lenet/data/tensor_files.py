"""Files of tensors: written whole or not at all, read without running pickled code."""

import io
import os
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from lenet.cli import first_error_line, one_line, shortened
from lenet.data.errors import DataError, why_not_a_file

MAX_BYTES = 1 << 30


class CheckpointError(DataError):
    """A file of tensors that cannot be written or read: one line with its name and the reason."""


def save(state: Any, path: str | Path) -> None:
    """Writes tensors and plain values. After a crash, either the old file or the new one is there.

    Raises: CheckpointError where `load` would refuse the state; the file at `path` is left as it
    was.
    """
    path = Path(path)
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
    finally:
        temporary.unlink(missing_ok=True)


def load(path: str | Path, device: torch.device | str = "cpu") -> Any:
    """Reads what `save` or torch.save wrote: tensors and plain values.

    Raises: CheckpointError where the file is missing, damaged or larger than MAX_BYTES, or needs
    pickled code, which is never run.
    """
    reason = why_not_a_file(path)
    if not reason and os.path.getsize(path) > MAX_BYTES:
        reason = f"expected at most {MAX_BYTES:,} bytes of tensors, found more"
    if reason:
        raise CheckpointError(f"{one_line(path)}: {reason}")
    try:
        return _parse(Path(path).read_bytes(), device)
    except Exception as error:  # torch.load has no closed list of errors
        raise CheckpointError(f"{one_line(path)}: {_reason(error)}") from None


def _parse(content: bytes, device: torch.device | str) -> Any:
    # torch does not compare the checksums in its archives: a flipped bit would be another weight.
    # Files from before torch 1.6, such as the tutorial's of MNIST, are no archives.
    if content.startswith(b"PK") and zipfile.ZipFile(io.BytesIO(content)).testzip():
        raise zipfile.BadZipFile("wrong checksum")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's; where they matter, an error follows
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)


def _reason(error: Exception) -> str:
    """What is wrong with a file, without torch's advice to load it with weights_only=False."""
    if wanted := re.search(r"GLOBAL ([\w.]+)", str(error)):
        return (
            f"expected tensors and plain values, found a pickle that needs {wanted[1]}; "
            "nothing of it was run"
        )
    # A pickle of something else: torch's words are about how to run it.
    found = type(error).__name__ if "weights_only" in str(error) else first_error_line(error)
    return f"expected tensors, found a damaged or different file ({shortened(found, 120)})"
