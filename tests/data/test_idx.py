"""Data files are read as they are or refused in one line that begins with the file's name."""

import gzip
import hashlib
import io
import math
import os
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lenet.data.errors import DataError
from lenet.data.idx import checked, idx_sha256, read_idx, read_pt

TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4"}


def idx_bytes(code, shape, content):
    """An IDX file written by hand, after LeCun's description."""
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content


SMALL = idx_bytes(0x08, (2, 3, 2), bytes(range(12)))
PACKED = gzip.compress(SMALL, mtime=0)
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
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=8).map(tuple),
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


def test_a_tensor_that_was_read_can_be_written_to(tmp_path):
    tensor = read_idx(write(tmp_path, SMALL))
    tensor += 1  # torch warns, and pytest fails, where the memory belongs to a read-only buffer
    assert tensor.flatten().tolist() == list(range(1, 13))


@pytest.mark.parametrize("gz", [False, True])
def test_a_file_too_short_or_too_long_is_refused(tmp_path, gz):
    pack, name = (gzip.compress, "a.gz") if gz else (bytes, "a")
    for length in range(len(SMALL)):
        assert "expected" in refusal(read_idx, write(tmp_path, pack(SMALL[:length]), name))
    assert refusal(read_idx, write(tmp_path, pack(SMALL + b"x"), name)) == (
        "expected 12 bytes for shape [2, 3, 2], found at least 13"
    )


def test_a_gzip_file_cut_or_damaged_anywhere_is_refused(tmp_path):
    body = np.random.default_rng(0).integers(0, 9, 500, np.uint8).tobytes()
    packed = bytearray(gzip.compress(idx_bytes(0x08, (500,), body)))
    for length in range(0, len(packed), 5):
        refusal(read_idx, write(tmp_path, packed[:length], "a.gz"))
    for place in range(10, len(packed), 7):  # deflated data, then checksum and length
        packed[place] ^= 0x40
        refusal(read_idx, write(tmp_path, packed, "a.gz"))
        packed[place] ^= 0x40


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("shape", [(0, 28, 28), (2**32 - 1,), (2**32 - 1,) * 8], ids=len)
def test_a_header_that_claims_nothing_or_gigabytes_is_refused(tmp_path, shape, gz):
    data = idx_bytes(0x08, shape, b"short")
    path = write(tmp_path, gzip.compress(data) if gz else data, "a.gz" if gz else "a")
    assert f"found shape {list(shape)}" in refusal(read_idx, path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"\0\0\x08", "000008"),
        (b"\x1f\x8b\x08\0", "1f8b0800"),
        (b"\0\0\x0d\x01" + bytes(8), "00000d01"),  # floats are IDX, but no pixels and no labels
        (b"\0\0\x08\0", "00000800"),
        (b"\0\0\x08\xff" + bytes(4 * 255), "000008ff"),  # more dimensions than numpy has
        (b"\0\x01\x08\x01\0\0\0\x01\0", "00010801"),
        (b"<html>", "3c68746d"),
    ],
    ids=["empty", "short", "gzip", "floats", "rank 0", "rank 255", "no zero", "page"],
)
def test_a_wrong_magic_number_is_shown_beside_the_right_ones(tmp_path, content, found):
    message = refusal(read_idx, write(tmp_path, content))
    assert message.startswith("expected an IDX file (0000, a type 08, 09, 0b or 0c, then ")
    assert message.endswith(f"found {found}")


@pytest.mark.parametrize("read", [read_idx, read_pt])
def test_anything_but_a_file_is_refused(tmp_path, read):
    assert refusal(read, tmp_path / "none.gz") == "no such file"
    assert refusal(read, tmp_path) == "expected a file, found a folder"
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    assert refusal(read, tmp_path / "pipe") == "expected a file, found a device, pipe or socket"


def test_plain_bytes_under_a_gz_name_are_refused(tmp_path):
    assert refusal(read_idx, write(tmp_path, SMALL, "a.gz")).startswith("expected gzip data")


@given(
    original=st.sampled_from([(SMALL, "a"), (SMALL, "a.gz"), (PACKED, "a.gz")]),
    edits=st.lists(st.tuples(st.integers(0, 10**4), st.binary(max_size=9)), max_size=4),
)
def test_a_file_with_other_bytes_in_it_is_read_or_refused(tmp_path, original, edits):
    content, name = original
    for place, new in edits:
        place %= len(content)
        content = content[:place] + new + content[place + len(new) // 2 :]
    path = write(tmp_path, content, name)
    try:
        assert isinstance(read_idx(path), torch.Tensor)
    except DataError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)


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


def test_a_damaged_pt_file_is_refused(tmp_path):
    path = write(tmp_path, saved((IMAGES, LABELS))[:-50], "training.pt")
    assert "damaged" in refusal(read_pt, path)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"images": IMAGES, "labels": LABELS}, "found dict"),
        ((IMAGES, LABELS, LABELS), "found Tensor, Tensor, Tensor"),
        ((IMAGES,), "found Tensor"),
        ((), "found nothing"),
        ((IMAGES, [3, 1, 4, 1, 5]), "found Tensor, list"),
        (IMAGES, "found Tensor"),
        ("text", "found str"),
    ],
    ids=["dict", "three", "one", "none", "a list", "a tensor", "a text"],
)
def test_anything_but_two_tensors_is_refused(tmp_path, content, found):
    message = refusal(read_pt, write(tmp_path, saved(content), "training.pt"))
    assert message == f"expected a tuple of images and labels as tensors, {found}"


# ---- images and labels that belong together --------------------------------------------------


@pytest.mark.parametrize(
    ("images", "labels", "expected", "found"),
    [
        (IMAGES.float(), LABELS, "images as uint8", "float32 [5, 4, 3]"),
        (IMAGES.long(), LABELS, "images as uint8", "int64 [5, 4, 3]"),
        (IMAGES[0], LABELS, "images as uint8", "uint8 [4, 3]"),
        (IMAGES[None, None], LABELS, "images as uint8", "uint8 [1, 1, 5, 4, 3]"),
        (IMAGES, LABELS.float(), "labels as integers", "float32 [5]"),
        (IMAGES, LABELS.to(torch.complex64), "labels as integers", "complex64 [5]"),
        (IMAGES, LABELS[0], "labels as integers", "int64 []"),
        (IMAGES, LABELS[:, None][:, :0], "labels as integers", "int64 [5, 0]"),
        (IMAGES, LABELS[:4], "as many labels as images", "5 images and 4 labels"),
        (IMAGES[:0], LABELS[:0], "at least one image", "[0, 4, 3]"),
        (IMAGES[:, :0], LABELS, "at least one image", "[5, 0, 3]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_images_and_labels_that_do_not_fit_are_refused(images, labels, expected, found):
    with pytest.raises(DataError) as caught:
        checked(images, labels, "here")
    assert str(caught.value).startswith(f"here: expected {expected}")
    assert str(caught.value).endswith(f"found {found}")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.bool], ids=str)
def test_labels_of_any_integer_type_become_int64(dtype):
    images, labels = checked(IMAGES, (LABELS > 1).to(dtype), "here")
    assert images.equal(IMAGES)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [1, 0, 1, 0, 1]


def test_the_first_column_of_wide_labels_is_the_class():
    wide = torch.stack([LABELS, LABELS + 100, LABELS - 100], dim=1)
    assert checked(IMAGES, wide, "here")[1].equal(LABELS)


def test_strided_images_come_out_contiguous():
    images, _ = checked(IMAGES.transpose(1, 2), LABELS, "here")
    assert images.is_contiguous()
    assert images.equal(IMAGES.transpose(1, 2))


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


def test_one_changed_bit_or_another_shape_changes_the_checksum():
    changed = IMAGES.clone()
    changed[4, 3, 2] ^= 1
    others = [changed, IMAGES.transpose(1, 2), IMAGES.reshape(5, 12), IMAGES[:4]]
    assert len({idx_sha256(tensor) for tensor in (IMAGES, *others)}) == 5


@pytest.mark.slow
def test_the_checksums_of_mnist_are_the_published_ones(mnist_root):
    for stem, expected in {
        "train-images-idx3": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }.items():
        assert idx_sha256(read_idx(mnist_root / f"{stem}-ubyte.gz")) == expected
