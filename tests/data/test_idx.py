"""Files are read as they are or refused in one line; nothing they claim is believed or run."""

import gzip
import hashlib
import io
import math
import os
import pickle
import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lenet.data.idx import DataError, checked, idx_sha256, read_idx, read_pt

CODES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4"}
fuzzing = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)


def idx_bytes(code: int, shape: tuple[int, ...], content: bytes) -> bytes:
    """An IDX file written by hand, after LeCun's description."""
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + content


SMALL = idx_bytes(0x08, (2, 3, 2), bytes(range(12)))


def write(folder: Path, content: bytes, name: str = "some-idx3-ubyte") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def refusal(call: Callable[[], Any], path: Path) -> str:
    """What a call refuses a file with: always one line that begins with the file's name."""
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    assert len(message) < len(str(path)) + 300
    return message.removeprefix(f"{path}: ")


def peak_bytes(call: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# ---- IDX -------------------------------------------------------------------------------------


@fuzzing
@given(
    code=st.sampled_from(sorted(CODES)),
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=8).map(tuple),
    gz=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_type_and_rank_is_read_as_it_was_written(
    tmp_path: Path, code: int, shape: tuple[int, ...], gz: bool, seed: int
) -> None:
    dtype = np.dtype(CODES[code])
    content = np.random.default_rng(seed).bytes(math.prod(shape) * dtype.itemsize)
    data = idx_bytes(code, shape, content)
    path = write(tmp_path, gzip.compress(data) if gz else data, "a.gz" if gz else "a")
    tensor = read_idx(path)
    assert tensor.dtype == (torch.uint8 if code == 0x08 else torch.int64)
    assert tensor.tolist() == np.frombuffer(content, dtype).reshape(shape).tolist()


def test_what_is_read_can_be_written_to(tmp_path: Path) -> None:
    tensor = read_idx(write(tmp_path, SMALL))
    tensor += 1  # torch warns, and pytest fails, where the memory belongs to a read-only buffer
    assert tensor.flatten().tolist() == list(range(1, 13))


@pytest.mark.parametrize("gz", [False, True])
def test_every_truncation_and_every_extension_is_refused(tmp_path: Path, gz: bool) -> None:
    pack = gzip.compress if gz else bytes
    name = "a.gz" if gz else "a"
    for length in range(len(SMALL)):
        path = write(tmp_path, pack(SMALL[:length]), name)
        assert "expected" in refusal(lambda: read_idx(path), path)  # noqa: B023
    for extra in range(256):
        path = write(tmp_path, pack(SMALL + bytes([extra])), name)
        assert refusal(lambda: read_idx(path), path) == (  # noqa: B023
            "expected 12 bytes for shape [2, 3, 2], found at least 13"
        )


def test_every_truncation_of_the_packed_bytes_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(SMALL)
    for length in range(len(packed)):
        path = write(tmp_path, packed[:length], "a.gz")
        refusal(lambda: read_idx(path), path)  # noqa: B023


def test_gzip_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    body = np.random.default_rng(0).integers(0, 9, 5000, np.uint8).tobytes()
    packed = bytearray(gzip.compress(idx_bytes(0x08, (5000,), body)))
    for place in range(10, len(packed), 7):  # deflated data, then checksum and length
        packed[place] ^= 0x40
        path = write(tmp_path, bytes(packed), "a.gz")
        refusal(lambda: read_idx(path), path)  # noqa: B023
        packed[place] ^= 0x40


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("shape", [(2**32 - 1,), (4, 1024, 1024, 1024), (2**32 - 1,) * 8])
def test_a_header_that_claims_gigabytes_costs_neither_memory_nor_time(
    tmp_path: Path, shape: tuple[int, ...], gz: bool
) -> None:
    data = idx_bytes(0x08, shape, b"short")
    path = write(tmp_path, gzip.compress(data) if gz else data, "a.gz" if gz else "a")
    started = time.monotonic()
    assert peak_bytes(lambda: refusal(lambda: read_idx(path), path)) < 8 << 20
    assert time.monotonic() - started < 2
    assert f"{math.prod(shape):,} bytes" in refusal(lambda: read_idx(path), path)


def test_a_gzip_bomb_is_not_unpacked_whole(tmp_path: Path) -> None:
    bomb = gzip.compress(idx_bytes(0x08, (10,), bytes(64 << 20)), 1)
    assert len(bomb) < 1 << 20
    path = write(tmp_path, bomb, "bomb.gz")
    assert peak_bytes(lambda: refusal(lambda: read_idx(path), path)) < 8 << 20


def test_a_gzip_bomb_whose_header_tells_the_truth_is_not_unpacked_whole(tmp_path: Path) -> None:
    """64 MB in 64 kB: no images of ink are packed so tightly."""
    bomb = gzip.compress(idx_bytes(0x08, (64 << 20,), bytes(64 << 20)))
    path = write(tmp_path, bomb, "bomb.gz")
    assert peak_bytes(lambda: refusal(lambda: read_idx(path), path)) < 32 << 20
    assert "found more" in refusal(lambda: read_idx(path), path)


@pytest.mark.parametrize("name", ["a", "a.gz", "a.pt"])
def test_a_pipe_and_a_device_are_not_waited_for(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    read = read_pt if name == "a.pt" else read_idx
    assert "found a device, pipe or socket" in refusal(lambda: read(path), path)
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "found a device, pipe or socket" in refusal(lambda: read(path), path)


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
)
def test_a_wrong_magic_number_is_shown_beside_the_right_ones(
    tmp_path: Path, content: bytes, found: str
) -> None:
    path = write(tmp_path, content)
    message = refusal(lambda: read_idx(path), path)
    assert message.startswith("expected an IDX file (magic number 0000, type [08 unsigned byte")
    assert message.endswith(f"found {found}")


@pytest.mark.parametrize("shape", [(0,), (0, 28, 28), (0, 2**32 - 1, 2**32 - 1, 2**32 - 1)])
def test_a_file_of_no_items_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write(tmp_path, idx_bytes(0x08, shape, b""))
    assert refusal(lambda: read_idx(path), path).startswith("expected at least one item")


def test_a_header_cut_among_its_dimensions_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL[:11])
    assert "expected 3 dimensions" in refusal(lambda: read_idx(path), path)


@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_nothing_there_and_a_folder_there_are_told_apart(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    assert "found nothing there" in refusal(lambda: read_idx(path), path)
    path.mkdir()
    assert "found a folder" in refusal(lambda: read_idx(path), path)


def test_plain_bytes_under_a_gz_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL, "a.gz")
    assert refusal(lambda: read_idx(path), path).startswith("expected gzip data")


def reads_or_refuses(path: Path) -> None:
    try:
        assert isinstance(read_idx(path), torch.Tensor)
    except DataError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)


def mutations(original: bytes) -> st.SearchStrategy[bytes]:
    """A file with some bytes changed, a stretch cut out or one put in."""
    place = st.integers(0, len(original) - 1)
    cut = st.builds(lambda a, b: original[: min(a, b)] + original[max(a, b) :], place, place)
    put = st.builds(lambda a, b: original[:a] + b + original[a:], place, st.binary(max_size=20))

    def change(edits: list[tuple[int, int]]) -> bytes:
        content = bytearray(original)
        for index, value in edits:
            content[index] = value
        return bytes(content)

    edits = st.lists(st.tuples(place, st.integers(0, 255)), min_size=1, max_size=4)
    return st.one_of(edits.map(change), cut, put)


@fuzzing
@given(st.binary(max_size=60), st.sampled_from([b"", b"\0\0", b"\0\0\x08", b"\0\0\x0c\x01"]))
def test_random_bytes_are_a_tensor_or_a_refusal(tmp_path: Path, data: bytes, start: bytes) -> None:
    reads_or_refuses(write(tmp_path, start + data, "a"))
    reads_or_refuses(write(tmp_path, start + data, "a.gz"))
    reads_or_refuses(write(tmp_path, gzip.compress(start + data), "b.gz"))


@fuzzing
@given(mutations(SMALL), mutations(gzip.compress(SMALL, mtime=0)))
def test_a_mutated_file_is_a_tensor_or_a_refusal(
    tmp_path: Path, plain: bytes, packed: bytes
) -> None:
    reads_or_refuses(write(tmp_path, plain, "a"))
    reads_or_refuses(write(tmp_path, packed, "a.gz"))


# ---- .pt -------------------------------------------------------------------------------------

IMAGES = torch.arange(5 * 4 * 3, dtype=torch.uint8).reshape(5, 4, 3)
LABELS = torch.tensor([3, 1, 4, 1, 5])


def saved(content: Any, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", [tuple, list])
def test_the_tutorials_file_is_read_in_its_old_form_too(
    tmp_path: Path, legacy: bool, kind: Callable[[Any], Any]
) -> None:
    path = write(tmp_path, saved(kind((IMAGES, LABELS)), legacy), "training.pt")
    images, labels = read_pt(path)
    assert images.equal(IMAGES)
    assert images.dtype == torch.uint8
    assert labels.equal(LABELS)


class WritesAFile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.marker, "code ran")


class RunsAShell(WritesAFile):
    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("form", ["zip", "legacy", 0, 1, 2, 4, 5])
@pytest.mark.parametrize("kind", [WritesAFile, RunsAShell])
def test_code_in_a_pickle_is_refused_and_not_run(
    tmp_path: Path, kind: type[WritesAFile], form: str | int
) -> None:
    marker = tmp_path / "marker"
    bad = (kind(marker), LABELS)
    if isinstance(form, int):
        content = pickle.dumps(kind(marker), form)
        pickle.loads(content)
        assert marker.exists()  # the file would do harm to one who trusts it
        marker.unlink()
    else:
        content = saved(bad, legacy=form == "legacy")
    path = write(tmp_path, content, "training.pt")
    message = refusal(lambda: read_pt(path), path)
    assert "nothing of it was executed" in message
    assert not marker.exists()


def test_what_a_pickle_wants_to_run_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, saved((RunsAShell(tmp_path / "marker"), LABELS)), "training.pt")
    assert "a pickle that wants to run posix.system" in refusal(lambda: read_pt(path), path)


def test_a_refused_file_prints_no_warning(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, pickle.dumps({"a": 1}, 5), "training.pt")
    refusal(lambda: read_pt(path), path)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"images": IMAGES, "labels": LABELS}, "found dict"),
        ((IMAGES, LABELS, LABELS), "found tuple of Tensor, Tensor, Tensor"),
        ((IMAGES,), "found tuple of Tensor"),
        ((), "found tuple of nothing"),
        ((IMAGES, [3, 1, 4, 1, 5]), "found tuple of Tensor, list"),
        (IMAGES, "found Tensor"),
        ("text", "found str"),
    ],
)
def test_anything_but_two_tensors_is_refused(tmp_path: Path, content: Any, found: str) -> None:
    path = write(tmp_path, saved(content), "training.pt")
    message = refusal(lambda: read_pt(path), path)
    assert message.startswith("expected a tuple of images and labels")
    assert found in message


def test_sparse_images_and_those_without_data_are_refused(tmp_path: Path) -> None:
    for images in (IMAGES.to_sparse(), IMAGES.to("meta")):
        path = write(tmp_path, saved((images, LABELS)), "training.pt")
        assert "expected dense tensors" in refusal(lambda: read_pt(path), path)  # noqa: B023


def test_a_view_that_unfolds_to_more_than_its_file_is_refused(tmp_path: Path) -> None:
    vast = torch.zeros(1, dtype=torch.uint8).expand(10**6, 1000, 1000)
    path = write(tmp_path, saved((vast, LABELS)), "training.pt")
    assert path.stat().st_size < 10_000
    refusal(lambda: read_pt(path), path)


@pytest.mark.parametrize("legacy", [False, True])
def test_every_truncation_of_a_pt_file_is_refused(tmp_path: Path, legacy: bool) -> None:
    content = saved((IMAGES, LABELS), legacy)
    for length in range(0, len(content), 1 if legacy else 5):
        path = write(tmp_path, content[:length], "training.pt")
        refusal(lambda: read_pt(path), path)  # noqa: B023


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04", SMALL, bytes(500)])
def test_what_is_no_pt_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, content, "training.pt")
    assert refusal(lambda: read_pt(path), path).startswith("expected ")


def test_a_missing_pt_file_and_a_folder_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "training.pt"
    assert "found nothing there" in refusal(lambda: read_pt(path), path)
    path.mkdir()
    assert "found a folder" in refusal(lambda: read_pt(path), path)


@fuzzing
@given(
    st.one_of(
        mutations(saved((IMAGES, LABELS))),
        mutations(saved((IMAGES, LABELS), legacy=True)),
        mutations(pickle.dumps((1, [2, "three"]), 2)),
        st.binary(max_size=200),
    )
)
def test_a_mutated_pt_file_is_two_tensors_or_a_refusal(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, content, "training.pt")
    try:
        images, labels = checked(*read_pt(path), str(path))
        assert images.sum() >= 0
        assert labels.sum() is not None
    except DataError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)


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
        (IMAGES, LABELS[:, None, None], "labels as integers", "int64 [5, 1, 1]"),
        (IMAGES, LABELS[:, None][:, :0], "labels as integers", "int64 [5, 0]"),
        (IMAGES, LABELS[:4], "as many labels as images", "5 images and 4 labels"),
        (IMAGES[:4], LABELS, "as many labels as images", "4 images and 5 labels"),
        (IMAGES[:0], LABELS[:0], "at least one image", "[0, 4, 3]"),
        (IMAGES[:, :0], LABELS, "at least one image", "[5, 0, 3]"),
        (LABELS, IMAGES, "images as uint8", "int64 [5]"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(
    images: torch.Tensor, labels: torch.Tensor, expected: str, found: str
) -> None:
    with pytest.raises(DataError) as caught:
        checked(images, labels, "here")
    assert str(caught.value).startswith(f"here: expected {expected}")
    assert str(caught.value).endswith(f"found {found}")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool])
def test_labels_of_any_integer_type_become_int64(dtype: torch.dtype) -> None:
    labels = (LABELS > 1).to(dtype)
    images, as_int64 = checked(IMAGES, labels, "here")
    assert images.equal(IMAGES)
    assert as_int64.dtype == torch.int64
    assert as_int64.tolist() == [1, 0, 1, 0, 1]


def test_the_first_column_of_wide_labels_is_the_class() -> None:
    wide = torch.stack([LABELS, LABELS + 100, LABELS - 100], dim=1)
    assert checked(IMAGES, wide, "here")[1].equal(LABELS)


def test_strided_images_come_out_contiguous() -> None:
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
)
def test_the_checksum_is_that_of_the_files_own_bytes(
    tmp_path: Path, code: int, shape: tuple[int, ...], content: bytes
) -> None:
    data = idx_bytes(code, shape, content)
    expected = hashlib.sha256(data).hexdigest()
    tensor = read_idx(write(tmp_path, data))
    assert idx_sha256(tensor) == expected
    assert idx_sha256(tensor.long()) == expected  # as a .pt file holds labels
    assert idx_sha256(tensor.movedim(0, -1).contiguous().movedim(-1, 0)) == expected  # strided


def test_one_changed_bit_or_another_shape_changes_the_checksum() -> None:
    changed = IMAGES.clone()
    changed[4, 3, 2] ^= 1
    others = [changed, IMAGES.transpose(1, 2), IMAGES.reshape(5, 12), IMAGES[:4]]
    assert len({idx_sha256(tensor) for tensor in (IMAGES, *others)}) == 5


@pytest.mark.slow
def test_the_checksums_of_mnist_are_the_published_ones(mnist_root: Path) -> None:
    for stem, expected in {
        "train-images-idx3": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    }.items():
        assert idx_sha256(read_idx(mnist_root / f"{stem}-ubyte.gz")) == expected
