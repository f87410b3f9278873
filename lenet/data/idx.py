"""Checked tensors from the bytes of a data file: IDX, gzipped or not, and the tutorial's `.pt`.

Source: the IDX format is described on the MNIST page of LeCun, Cortes and Burges.
"""

import gzip
import hashlib
import math
import struct
import zlib
from io import BufferedReader
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lenet.cli import one_line
from lenet.data.errors import DataError, why_not_a_file
from lenet.data.tensor_files import CheckpointError, load

# The third byte of an IDX file is its element type, the fourth the number of dimensions.
DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4"}
MAX_DIMENSIONS = 8
MAX_BYTES = 1 << 31


def read_idx(path: Path) -> Tensor:
    """Reads an IDX file, unpacking it where its name ends in `.gz`.

    Returns: uint8 for images and for labels of one byte, int64 for other integers.
    Raises: DataError where the file is missing, truncated, too long or no IDX file.
    """
    where = one_line(path)
    if reason := why_not_a_file(path):
        raise DataError(f"{where}: {reason}")
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _parse_idx(file, where)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{where}: expected gzip data, found a damaged file ({error})") from None
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror or error})") from None


def _parse_idx(file: BufferedReader | gzip.GzipFile, where: str) -> Tensor:
    magic = file.read(4)
    is_idx = len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in DTYPES
    if not is_idx or not 1 <= magic[3] <= MAX_DIMENSIONS:
        raise DataError(
            f"{where}: expected an IDX file (0000, a type 08, 09, 0b or 0c, then the number of "
            f"dimensions, 1 to {MAX_DIMENSIONS}), found {magic.hex() or 'an empty file'}"
        )
    rank = magic[3]
    header = file.read(4 * rank)
    if len(header) < 4 * rank:
        raise DataError(f"{where}: expected {rank} dimensions, found the end of the file")
    shape = struct.unpack(f">{rank}I", header)
    dtype = np.dtype(DTYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    if not 0 < expected <= MAX_BYTES:
        raise DataError(
            f"{where}: expected 1 to {MAX_BYTES:,} bytes of items, found shape {list(shape)}"
        )
    content = bytearray(expected + 1)
    found = file.readinto(content)
    if found != expected:
        more = "at least " if found > expected else ""
        raise DataError(
            f"{where}: expected {expected:,} bytes for shape {list(shape)}, found {more}{found:,}"
        )
    array = np.frombuffer(content, dtype, math.prod(shape)).reshape(shape)
    return torch.from_numpy(array if dtype == np.uint8 else array.astype(np.int64))


def read_pt(path: Path) -> tuple[Tensor, Tensor]:
    """Reads the tutorial's `.pt`, a tuple of images and labels, without running pickled code.

    Raises: DataError where the file is missing, damaged, or holds anything else.
    """
    try:
        content = load(path)
    except CheckpointError as error:
        raise DataError(str(error)) from None
    parts = content if isinstance(content, tuple | list) else [content]
    if len(parts) != 2 or not all(isinstance(part, Tensor) for part in parts):
        found = ", ".join(type(part).__name__ for part in parts[:4]) or "nothing"
        raise DataError(
            f"{one_line(path)}: expected a tuple of images and labels as tensors, found {found}"
        )
    return parts[0], parts[1]


def checked(images: Tensor, labels: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """Images and labels that belong together; labels as int64 (N).

    Shapes: images uint8 (N, H, W) or (N, C, H, W); labels integer (N), or (N, M) as in QMNIST,
    whose first column is the class.
    Raises: DataError where they are anything else.
    """
    where = one_line(where)
    if images.dtype != torch.uint8 or images.ndim not in (3, 4):
        raise DataError(
            f"{where}: expected images as uint8 (N, H, W) or (N, C, H, W), found {_form(images)}"
        )
    if labels.ndim == 2 and labels.shape[1] > 0:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise DataError(f"{where}: expected labels as integers (N), found {_form(labels)}")
    if len(images) != len(labels):
        raise DataError(
            f"{where}: expected as many labels as images, "
            f"found {len(images):,} images and {len(labels):,} labels"
        )
    if images.numel() == 0:
        raise DataError(f"{where}: expected at least one image, found {list(images.shape)}")
    return images.contiguous(), labels.to(torch.int64).contiguous()


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def idx_sha256(tensor: Tensor) -> str:
    """SHA-256 of the unpacked IDX file that would hold this tensor.

    So a `.pt` and a gzipped file of MNIST are both compared with the published file.
    """
    code, dtype = (0x08, "u1") if int(tensor.max()) < 256 else (0x0C, ">i4")
    header = bytes([0, 0, code, tensor.ndim]) + struct.pack(f">{tensor.ndim}I", *tensor.shape)
    digest = hashlib.sha256(header)
    digest.update(np.ascontiguousarray(tensor.numpy(), dtype).data)
    return digest.hexdigest()
