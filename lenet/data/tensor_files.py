"""Files of tensors: written whole or not at all, read without running pickles, verified.

A file is torch.save's ZIP archive with a SHA-256 of itself as the archive's comment, which torch,
zipfile and unzip skip. Nothing here trusts what a file says of itself: memory is taken for bytes
that are there, and torch is shown a pickle whose every opcode was looked at before.
"""

import contextlib
import hashlib
import io
import os
import stat
import struct
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, UntypedStorage, nn

from lenet.cli import one_line
from lenet.data.opcodes import objection

CHECKSUM = b"sha256:"
CHECKSUM_LENGTH = len(CHECKSUM) + 64
END_RECORD = b"PK\5\6"  # 22 bytes, the last two are the comment's length
END_RECORD_LENGTH = 22

# Before torch 1.6 a file began with these pickles: a magic number and a version.
OLD_START = b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\2M\xe9\3."

NOTHING = "nothing there"
PLAIN = (type(None), bool, int, float, str, torch.dtype)


class CheckpointError(ValueError):
    """A file that can't be loaded: one line that names it, what was expected and found."""


def save(state: Any, path: str | Path) -> None:
    """Writes tensors and plain values. A crash leaves either the old file or the new one.

    Raises: CheckpointError where `load` would refuse the state; what was at `path` is left there.
    """
    path = Path(path)
    if (found := obstacle(path)) and found != NOTHING:
        raise CheckpointError(f"{one_line(path)}: expected a file to write to, found {found}")
    buffer = io.BytesIO()  # torch puts a file's name into its bytes, and a buffer has none
    torch.save(state, buffer)
    content = _with_checksum(buffer.getvalue())
    try:
        _parsed(content, torch.device("cpu"))
    except CheckpointError as error:
        raise CheckpointError(f"{one_line(path)}: {one_line(error)}") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
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
    _sync_folder(path.parent)


def load(path: str | Path, device: torch.device | str = "cpu") -> Any:
    """Reads what `save` or torch.save wrote: dense tensors and plain values only.

    Raises: CheckpointError where the file is missing, damaged (any flipped bit of a file by `save`
    included), claims more than it holds, or holds pickled code; nothing of it is run.
    """
    where = one_line(path)
    if found := obstacle(path):
        raise CheckpointError(f"{where}: expected a file of tensors, found {found}")
    device = torch.device(device)
    try:
        return _parsed(Path(path).read_bytes(), device)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {one_line(error)}") from None
    except Exception as error:
        # torch.load has no closed list of errors: RuntimeError, OSError, EOFError, KeyError ...
        reason = str(error).rpartition("WeightsUnpickler error:")[2].strip().split("\n")[0]
        reason = one_line(reason or type(error).__name__)[:120]
        raise CheckpointError(
            f"{where}: expected tensors, found a damaged file ({reason})"
        ) from None


def obstacle(path: str | Path) -> str:
    """What is there instead of a regular file, to be read to its end; empty where there is one."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a name with a zero byte
        return NOTHING
    except OSError as error:
        return f"no access ({error.strerror})"
    if stat.S_ISREG(mode):
        return ""
    return "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"


def _sync_folder(folder: Path) -> None:
    """A new name is on the disk once its folder is. Windows and some file systems have no such."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _with_checksum(content: bytes) -> bytes:
    content = content[:-2] + struct.pack("<H", CHECKSUM_LENGTH)
    return content + CHECKSUM + hashlib.sha256(content).hexdigest().encode()


def _parsed(content: bytes, device: torch.device) -> Any:
    """Raises: CheckpointError without the file's name, or any other error."""
    comment = _verified_checksum(content)
    place: Any = device
    is_archive = content.startswith(b"PK\3\4")
    if is_archive:
        file, room = _repacked(content, comment), len(content)
    else:
        file = io.BytesIO(content)
        for _ in range(5):  # magic number, version, system, the state, names of its storages
            _look_through(file)
        if not content.startswith(OLD_START):
            raise CheckpointError("expected a file by torch.save, found other pickles")
        room = len(content) - file.tell()
        place = _within(room, device)
        file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's remarks; where they matter there is an error too
        state = torch.load(file, map_location=place, weights_only=True)
    if not is_archive and file.read(1):
        raise CheckpointError("expected tensors, found something after them")
    _verify(state, device, room)
    return state


def _within(room: int, device: torch.device) -> Callable[[UntypedStorage, str], UntypedStorage]:
    """A `map_location` of the old format, whose storages come before their numbers are read.

    They are as large as they are said to be, and larger where a tensor is said to reach behind
    them; numpy's memory can't be made larger, and is not what another object left there.
    """
    left = room

    def place(storage: UntypedStorage, _: str) -> UntypedStorage:
        nonlocal left
        left -= storage.nbytes()
        if left < 0:
            raise CheckpointError("expected tensors, found some that claim more than the file has")
        if device.type != "cpu":
            return torch.serialization.default_restore_location(storage, str(device))
        return torch.from_numpy(np.zeros(storage.nbytes(), np.uint8)).untyped_storage()

    return place


def _verified_checksum(content: bytes) -> bytes:
    """Returns: the archive's comment, empty where no checksum is there."""
    body, comment = content[:-CHECKSUM_LENGTH], content[-CHECKSUM_LENGTH:]
    if not comment.startswith(CHECKSUM):
        return b""
    if comment != CHECKSUM + hashlib.sha256(body).hexdigest().encode():
        raise CheckpointError("expected intact tensors, found a checksum that fails")
    return comment


def _repacked(content: bytes, comment: bytes) -> io.BytesIO:
    """The same archive of the members that torch reads, each of which was looked at.

    Two readers of ZIP may see two archives in one file; of this one torch sees what Python saw.
    """
    end = content[len(content) - len(comment) - END_RECORD_LENGTH :]
    if not end.startswith(END_RECORD) or struct.unpack_from("<H", end, 20) != (len(comment),):
        raise CheckpointError("expected a whole archive of tensors, found one without its end")
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(packed, "w") as out:
        members = {member.filename: member for member in archive.infolist()}
        folder = next(iter(members), "").split("/")[0]
        for name, member in members.items():
            if member.compress_type or member.compress_size != member.file_size:
                raise CheckpointError(
                    f"expected tensors stored as they are, found {one_line(name)[:60]} compressed"
                )
        if sum(member.file_size for member in archive.infolist()) > len(content):
            raise CheckpointError("expected tensors, found an archive that claims more than it has")
        for name, member in members.items():
            short = name.removeprefix(f"{folder}/")
            # torch numbers its data; of other names it takes DATA/A for data/a.
            number = short.removeprefix("data/")
            is_data = number.isascii() and number.isdecimal()
            if is_data or short in ("data.pkl", "byteorder", "version"):
                try:
                    part = archive.read(member)
                except zipfile.BadZipFile as error:
                    found = f"found a checksum that fails ({short}: {str(error)[:80]})"
                    raise CheckpointError(f"expected intact tensors, {found}") from None
                if short == "data.pkl":
                    _look_through(io.BytesIO(part))
                out.writestr(f"archive/{short}", part)
    packed.seek(0)
    return packed


def _look_through(file: io.BytesIO) -> None:
    if found := objection(file):
        raise CheckpointError(found)


def _verify(state: Any, device: torch.device, room: int) -> None:
    """Refuses anything but dense tensors, all there in `room` bytes, and plain values."""
    seen, todo, storages = set(), [state], {}
    while todo:  # not by recursion, which a file can drive too deep
        part = todo.pop()
        kind = type(part)
        if kind in PLAIN or id(part) in seen:
            continue
        seen.add(id(part))
        if kind in (dict, OrderedDict):
            # Attributes could stand before the dict's own methods; state_dict() has one.
            attributes = getattr(part, "__dict__", {})
            if attributes.keys() - {"_metadata"}:
                raise CheckpointError("expected plain values, found a dict with attributes")
            todo += [*attributes.values(), *part.keys(), *part.values()]
        elif kind in (list, tuple):
            todo += part
        elif kind in (Tensor, nn.Parameter) and _is_all_there(part, device):
            storage = part.untyped_storage()
            storages[storage._cdata] = storage.nbytes()
        else:
            found = "a tensor that is not" if isinstance(part, Tensor) else f"{kind.__name__}"
            raise CheckpointError(
                f"expected dense tensors, all in the file, and plain values, found {found}"
            )
    if sum(storages.values()) > room:
        raise CheckpointError("expected tensors, found some that claim more than the file has")


def _is_all_there(tensor: Tensor, device: torch.device) -> bool:
    """An expanded view takes a thousand times its file's size to copy."""
    return (
        tensor.layout == torch.strided
        and tensor.device.type == device.type
        and not (tensor.is_quantized or tensor.is_nested or tensor.is_conj() or tensor.is_neg())
        and not (vars(tensor) or tensor._backward_hooks)
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )
