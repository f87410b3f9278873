"""Data files are read as they are or refused in one line that begins with the file's name."""

import gzip
import hashlib
import io
import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet.data.errors import DataError
from lenet.data.image_files import checked, idx_sha256, read_idx, read_pt

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4"}


def idx_bytes(code, shape, content):
    """An IDX file written by hand, after LeCun's description."""
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content


SMALL = idx_bytes(0x08, (2, 3, 2), bytes(range(12)))
IMAGES = torch.arange(5 * 4 * 3, dtype=torch.uint8).reshape(5, 4, 3)
LABELS = torch.tensor([3, 1, 4, 1, 5])


def write(folder, content, name="some-idx3-ubyte"):
    path = folder / name
    path.write_bytes(content)
    return path


def refusal(read, path):
    with pytest.raises(DataError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


# ---- IDX -------------------------------------------------------------------------------------


@given(
    code=st.sampled_from(sorted(TYPES)),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple),
    gz=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_type_and_rank_is_read_as_it_was_written(tmp_path, code, shape, gz, seed):
    dtype = np.dtype(TYPES[code])
    content = np.random.default_rng(seed).bytes(math.prod(shape) * dtype.itemsize)
    data = idx_bytes(code, shape, content)
    tensor = read_idx(write(tmp_path, gzip.compress(data) if gz else data, "a.gz" if gz else "a"))
    assert tensor.dtype == (torch.uint8 if code == 0x08 else torch.int64)
    assert tensor.tolist() == np.frombuffer(content, dtype).reshape(shape).tolist()


@pytest.mark.parametrize("gz", [False, True])
def test_a_file_too_short_or_too_long_is_refused(tmp_path, gz):
    pack, name = (gzip.compress, "a.gz") if gz else (bytes, "a")
    for length in range(len(SMALL)):
        assert "expected" in refusal(read_idx, write(tmp_path, pack(SMALL[:length]), name))
    assert refusal(read_idx, write(tmp_path, pack(SMALL + b"x"), name)) == (
        "expected 12 bytes for shape [2, 3, 2], found 13"
    )


def test_a_gzip_file_cut_or_damaged_anywhere_is_refused(tmp_path):
    body = np.random.default_rng(0).integers(0, 9, 500, np.uint8).tobytes()
    packed = bytearray(gzip.compress(idx_bytes(0x08, (500,), body)))
    for length in range(0, len(packed), 15):
        refusal(read_idx, write(tmp_path, packed[:length], "a.gz"))
    for place in range(10, len(packed), 21):  # deflated data, then checksum and length
        packed[place] ^= 0x40
        refusal(read_idx, write(tmp_path, packed, "a.gz"))
        packed[place] ^= 0x40
    assert refusal(read_idx, write(tmp_path, SMALL, "a.gz")).startswith("cannot be read (Not a gz")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"\0\0\x08", "000008"),
        (b"\x1f\x8b\x08\0", "1f8b0800"),
        (b"\0\0\x0d\x01" + bytes(8), "00000d01"),  # floats are IDX, but no pixels and no labels
        (b"\0\0\x08\0", "00000800"),
        (b"\0\0\x08\xff" + bytes(4 * 255), "000008ff"),  # more dimensions than numpy has
        (b"<html>", "3c68746d"),
    ],
    ids=["empty", "short", "gzip", "floats", "rank 0", "rank 255", "page"],
)
def test_a_wrong_magic_number_is_shown_beside_the_right_ones(tmp_path, content, found):
    message = refusal(read_idx, write(tmp_path, content))
    assert message.startswith("expected an IDX file (0000, a type 08, 09, 0b or 0c, then ")
    assert message.endswith(f"found {found}")


@pytest.mark.parametrize("read", [read_idx, read_pt])
def test_a_path_without_a_file_is_refused(tmp_path, read):
    assert refusal(read, tmp_path / "none.gz") == "no such file"
    assert refusal(read, tmp_path) == "expected a file, found a folder"


# ---- .pt -------------------------------------------------------------------------------------


def saved(content, old_format=False):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not old_format)
    return buffer.getvalue()


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("kind", [tuple, list])
def test_the_tutorials_file_is_read_in_its_old_format_too(tmp_path, old_format, kind):
    path = write(tmp_path, saved(kind((IMAGES, LABELS)), old_format), "training.pt")
    images, labels = read_pt(path)
    assert images.equal(IMAGES)
    assert images.dtype == torch.uint8
    assert labels.equal(LABELS)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"images": IMAGES, "labels": LABELS}, "found dict"),
        ((IMAGES, [3, 1, 4, 1, 5]), "found Tensor, list"),
        (IMAGES, "found Tensor"),
    ],
    ids=["dict", "a list", "a tensor"],
)
def test_anything_but_two_tensors_is_refused(tmp_path, content, found):
    message = refusal(read_pt, write(tmp_path, saved(content), "training.pt"))
    assert message == f"expected a tuple of images and labels as tensors, {found}"


# ---- images and labels that belong together --------------------------------------------------


@pytest.mark.parametrize(
    ("images", "labels", "expected", "found"),
    [
        (IMAGES / 255, LABELS, "images as uint8", "makes bytes of numbers from 0 to 1"),
        (IMAGES.int() + 250, LABELS, "images as uint8", "int32 [5, 4, 3]"),
        (IMAGES[0], LABELS, "images as uint8", "uint8 [4, 3]"),
        (IMAGES, LABELS / 2, "labels as integers", "float32 [5]"),
        (IMAGES, LABELS[0], "labels as integers", "int64 []"),
        (IMAGES, torch.eye(5).long(), "labels as integers (N)", "else labels[:, 0]"),
        (IMAGES, LABELS[:4], "as many labels as images", "5 images and 4 labels"),
        (IMAGES[:0], LABELS[:0], "at least one image", "[0, 4, 3]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_images_and_labels_that_do_not_fit_are_refused(images, labels, expected, found):
    with pytest.raises(DataError) as caught:
        checked(images, labels, "here")
    assert str(caught.value).startswith(f"here: expected {expected}")
    assert str(caught.value).endswith(found)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool], ids=str)
def test_labels_of_any_integer_type_become_int64(dtype):
    _, labels = checked(IMAGES, (LABELS > 1).to(dtype), "here")
    assert labels.dtype == torch.int64
    assert labels.tolist() == [1, 0, 1, 0, 1]


# ---- checksums -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "shape", "content"),
    [
        (0x08, (2, 3, 2), bytes(range(12))),
        (0x08, (5,), bytes([3, 1, 4, 1, 255])),
        (0x0C, (2, 2), struct.pack(">4i", 256, 1, 70_000, 2)),
    ],
    ids=["images", "labels", "wide labels"],
)
def test_the_checksum_is_that_of_the_files_own_bytes(tmp_path, code, shape, content):
    data = idx_bytes(code, shape, content)
    expected = hashlib.sha256(data).hexdigest()
    tensor = read_idx(write(tmp_path, data))
    assert idx_sha256(tensor) == expected
    assert idx_sha256(tensor.long()) == expected  # as a .pt file holds labels
    assert idx_sha256(tensor.movedim(0, -1).contiguous().movedim(-1, 0)) == expected  # strided
