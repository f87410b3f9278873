"""Images and labels from data files: IDX, gzipped or not, and the tutorial's `.pt`.

Source: the IDX format is described on the MNIST page of LeCun, Cortes and Burges.
"""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lenet.cli import first_error_line, one_line
from lenet.data.errors import DataError, why_not_a_file
from lenet.data.tensor_files import load

# The third byte of an IDX file is its element type, the fourth the number of dimensions.
DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4"}
MAX_BYTES = 1 << 31
MOST_COLOURS = 4  # red, green, blue, opacity


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
            content = file.read(MAX_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{where}: cannot be read ({first_error_line(error)})") from None
    rank = content[3] if len(content) >= 4 else 0
    header = 4 + 4 * rank
    is_idx = 1 <= rank <= 4 and content[:2] == b"\0\0" and content[2] in DTYPES
    if not is_idx or len(content) < header:
        raise DataError(
            f"{where}: expected an IDX file (0000, a type 08, 09, 0b or 0c, then the number of "
            f"dimensions, 1 to 4), found {content[:4].hex() or 'an empty file'}"
        )
    shape = struct.unpack(f">{rank}I", content[4:header])
    dtype = np.dtype(DTYPES[content[2]])
    expected, found = math.prod(shape) * dtype.itemsize, len(content) - header
    if found != expected:
        raise DataError(
            f"{where}: expected {expected:,} bytes for shape {list(shape)}, found {found:,}"
        )
    array = np.frombuffer(content, dtype, offset=header).reshape(shape)
    return torch.from_numpy(array.astype(np.uint8 if dtype == np.uint8 else np.int64))


def read_pt(path: Path) -> tuple[Tensor, Tensor]:
    """Reads the tutorial's `.pt`, a tuple of images and labels, without running pickled code.

    Raises: DataError where the file is missing, damaged, or holds anything else.
    """
    content = load(path)
    parts = content if isinstance(content, tuple | list) else [content]
    if len(parts) != 2 or not all(isinstance(part, Tensor) for part in parts):
        found = ", ".join(type(part).__name__ for part in parts[:4]) or "nothing"
        raise DataError(
            f"{one_line(path)}: expected a tuple of images and labels as tensors, found {found}"
        )
    return parts[0], parts[1]


def checked(images: Tensor, labels: Tensor, path: str | Path) -> tuple[Tensor, Tensor]:
    """Images and labels that belong together, in one form: images uint8 (N, H, W) or (N, C, H, W),
    labels int64 (N). Rows of square images and colours that come last get it too.

    Raises: DataError where they are anything else.
    """
    images, labels = _as_bytes(_upright(images)), _as_integers(labels)
    expected = found = ""
    if images.dtype != torch.uint8 or images.ndim not in (3, 4):
        expected = "images as uint8 (N, H, W), (N, C, H, W) or (N, H, W, C)"
        found = _form(images)
        if images.dtype.is_floating_point:
            found += "; (255 * images).round() makes bytes of numbers from 0 to 1"
    elif labels.ndim == 2:
        expected, found = "labels as integers (N)", _form(labels)
        found += "; labels.argmax(1) for rows that mark the class with a 1, else labels[:, 0]"
    elif labels.ndim != 1 or labels.dtype.is_floating_point or labels.dtype.is_complex:
        expected, found = "labels as integers (N)", _form(labels)
    elif len(images) != len(labels):
        expected = "as many labels as images"
        found = f"{len(images):,} images and {len(labels):,} labels"
    elif images.numel() == 0:
        expected, found = "at least one image", str(list(images.shape))
    if expected:
        raise DataError(f"{one_line(path)}: expected {expected}, found {found}")
    return images.contiguous(), labels.to(torch.int64).contiguous()


def _as_integers(labels: Tensor) -> Tensor:
    """A column of labels as labels, and whole numbers as integers; others as they are."""
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    is_whole = labels.is_floating_point() and bool((labels == labels.round()).all())
    return labels.long() if is_whole else labels


def _upright(images: Tensor) -> Tensor:
    """Rows of pixels as squares, and colours before the places."""
    if images.ndim == 2 and (side := math.isqrt(images.shape[1])) ** 2 == images.shape[1]:
        return images.reshape(-1, side, side)
    if images.ndim == 4 and images.shape[3] <= MOST_COLOURS < images.shape[1]:
        return images.permute(0, 3, 1, 2)
    return images


def _as_bytes(images: Tensor) -> Tensor:
    """Whole numbers from 0 to 255 as bytes; others as they are. Numbers from 0 to 1 are not levels
    of grey yet.
    """
    if images.dtype == torch.uint8 or not images.numel() or images.dtype == torch.bool:
        return images
    small = images.to(torch.uint8)
    return small if images.max() > 1 and bool((small == images).all()) else images


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
