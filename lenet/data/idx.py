"""Bytes of a data file -> a checked tensor. IDX (gzipped or not) and the tutorial's `.pt`.

Nothing here trusts what a file says of itself: sizes are compared with the bytes that are there
before anything of that size is allocated, and a pickle is never run.

Source: the IDX format is described on the MNIST page of LeCun, Cortes and Burges.
"""

import gzip
import hashlib
import io
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from lenet.cli import one_line
from lenet.data.tensor_files import CheckpointError, load, obstacle


class DataError(ValueError):
    """A data set that can't be used: one line that names the file, what was expected and found."""


# The third byte of an IDX file gives its element type, the fourth the number of dimensions.
IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4"}
IDX_NAMES = {0x08: "unsigned byte", 0x09: "signed byte", 0x0B: "short", 0x0C: "int"}
MOST_DIMENSIONS = 8

# gzip makes 1 byte of 1,000 zeros, and 1 of 5 of MNIST's images. What has more than this many times
# its packed bytes is not read to its end, beyond room for small ones of zeros.
MOST_UNPACKED, ROOM = 100, 16 << 20


def read_idx(path: Path) -> Tensor:
    """Reads one IDX file; a name that ends in `.gz` is unpacked on the way.

    Returns: uint8 for images and for labels of one byte, int64 for wider integers.
    Raises: DataError where the file is missing, truncated, too long or no IDX file.
    """
    where = one_line(path)
    if found := obstacle(path):
        raise DataError(f"{where}: expected an IDX file, found {found}")
    try:
        size, packed = path.stat().st_size, path.suffix == ".gz"
        with gzip.open(path) if packed else path.open("rb") as file:
            return _parse_idx(file, where, ROOM + MOST_UNPACKED * size if packed else size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{where}: expected gzip data, found a damaged file ({error})") from None
    except OSError as error:
        raise DataError(f"{where}: cannot be read ({error.strerror or error})") from None


def _parse_idx(file: BinaryIO | gzip.GzipFile, path: str, most: int) -> Tensor:
    """Reads no more than `most` bytes, whatever the header claims."""
    magic = file.read(4)
    known = len(magic) == 4 and magic[:2] == b"\0\0" and magic[2] in IDX_DTYPES
    if not known or not 1 <= magic[3] <= MOST_DIMENSIONS:
        kinds = ", ".join(f"{code:02x} {name}" for code, name in IDX_NAMES.items())
        raise DataError(
            f"{path}: expected an IDX file (magic number 0000, type [{kinds}], "
            f"1 to {MOST_DIMENSIONS} dimensions), found {magic.hex() or 'an empty file'}"
        )
    rank = magic[3]
    header = file.read(4 * rank)
    if len(header) < 4 * rank:
        raise DataError(f"{path}: expected {rank} dimensions, found the file's end among them")
    shape = struct.unpack(f">{rank}I", header)
    dtype = np.dtype(IDX_DTYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    if expected == 0:
        raise DataError(f"{path}: expected at least one item, found shape {list(shape)}")
    # BytesIO grows with what arrives, so a header that lies costs nothing.
    body = io.BytesIO()
    limit = min(expected, most)
    while body.tell() <= limit and (chunk := file.read(min(1 << 20, limit + 1))):
        body.write(chunk)
    found = body.tell()
    if found > most:
        raise DataError(
            f"{path}: expected at most {most:,} bytes for a .gz of its size, found more"
        )
    if found != expected:
        more = "at least " if found > expected else ""
        raise DataError(
            f"{path}: expected {expected:,} bytes for shape {list(shape)}, found {more}{found:,}"
        )
    array = np.frombuffer(body.getbuffer(), dtype).reshape(shape)
    return torch.from_numpy(array if dtype == np.uint8 else array.astype(np.int64))


def read_pt(path: Path) -> tuple[Tensor, Tensor]:
    """Reads the tutorial's `.pt`: a tuple of images and labels, with no pickled code run.

    Returns: images uint8 (N, H, W) or (N, C, H, W); labels int64 (N).
    Raises: DataError where the file is missing, damaged, or holds anything else.
    """
    try:
        content = load(path)
    except CheckpointError as error:
        raise DataError(str(error)) from None
    if (
        not isinstance(content, tuple | list)
        or len(content) != 2
        or not all(isinstance(part, Tensor) for part in content)
    ):
        found = type(content).__name__
        if isinstance(content, tuple | list):
            found += " of " + (", ".join(type(part).__name__ for part in content[:4]) or "nothing")
        raise DataError(
            f"{one_line(path)}: expected a tuple of images and labels as plain tensors, "
            f"found {found}"
        )
    return content[0], content[1]


def checked(images: Tensor, labels: Tensor, where: str) -> tuple[Tensor, Tensor]:
    """Images and labels that belong together, or a DataError.

    Shapes: images uint8 (N, H, W) or (N, C, H, W); labels integer (N), or (N, M) as in QMNIST,
    whose first column is the class.
    """
    where = one_line(where)
    if images.dtype != torch.uint8 or images.ndim not in (3, 4):
        raise DataError(
            f"{where}: expected images as uint8 (N, H, W) or (N, C, H, W), "
            f"found {str(images.dtype).removeprefix('torch.')} {list(images.shape)}"
        )
    if labels.ndim == 2 and labels.shape[1] > 0:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.is_floating_point or labels.dtype.is_complex:
        raise DataError(
            f"{where}: expected labels as integers (N), "
            f"found {str(labels.dtype).removeprefix('torch.')} {list(labels.shape)}"
        )
    if len(images) != len(labels):
        raise DataError(
            f"{where}: expected as many labels as images, "
            f"found {len(images):,} images and {len(labels):,} labels"
        )
    if images.numel() == 0:
        raise DataError(f"{where}: expected at least one image, found {list(images.shape)}")
    return images.contiguous(), labels.to(torch.int64).contiguous()


def idx_sha256(tensor: Tensor) -> str:
    """SHA-256 of the unpacked IDX file that holds this tensor, whatever it was read from.

    So a `.pt` and a gzipped file of MNIST are both held against the published file's checksum.
    """
    code, dtype = (0x08, "u1") if int(tensor.max()) < 256 else (0x0C, ">i4")
    header = bytes([0, 0, code, tensor.ndim]) + struct.pack(f">{tensor.ndim}I", *tensor.shape)
    digest = hashlib.sha256(header)
    digest.update(np.ascontiguousarray(tensor.numpy(), dtype).data)
    return digest.hexdigest()
