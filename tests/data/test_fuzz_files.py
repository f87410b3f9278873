"""Files of every kind, damaged in every way: a value, or one line. In bounded memory and time.

What has checksums inside (ZIP, gzip, PNG) is damaged both outside and within, where the checksums
are made good again: else nothing behind them would be reached.

The usual run takes the same few examples each time. A long one takes new ones, as many as it is
told:

    FUZZ_EXAMPLES=5000 python -m pytest tests/test_fuzz_files.py

An example that kills the interpreter lies in pytest's newest temporary folder, ready to be read.
"""

import contextlib
import functools
import gzip
import io
import os
import resource
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, features

from lenet.commands import predict
from lenet.data import tensor_files as tensors
from lenet.data.idx import DataError, checked, read_idx, read_pt
from lenet.data.pictures import read_picture
from lenet.data.tensor_files import CheckpointError, load, save
from lenet.model.lenet5 import LeNet5

LONG = "FUZZ_EXAMPLES" in os.environ
MB = 1 << 20
# Twice what a shared machine in a hurry needs.
MOST_SECONDS = 10
SMALL, LARGE = 64 * MB, 1400 * MB  # a picture's header may claim 80 megapixels, at 16 bytes each

# A fixture's folder is written anew for each example.
fuzz = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", 200)),
    deadline=None,
    derandomize=not LONG,
    database=None,
    suppress_health_check=list(HealthCheck),
)


# ---- What must hold --------------------------------------------------------------------------


def peak_bytes(start_anew: bool = False) -> int:
    """The most memory this process has had, since the last start anew where Linux allows that."""
    with contextlib.suppress(OSError):
        if start_anew:
            Path("/proc/self/clear_refs").write_text("5")
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextlib.contextmanager
def bounded(most: int) -> Iterator[None]:
    before, began = peak_bytes(start_anew=True), time.monotonic()
    yield
    seconds, growth = time.monotonic() - began, peak_bytes() - before
    assert seconds < MOST_SECONDS
    assert growth < most, f"{growth / MB:.0f} MB"


def outcome(read: Callable[[Path], Any], path: Path, error: type[Exception], most: int) -> Any:
    """What the file holds, or None where it is refused in one line that begins with its name."""
    with bounded(most):
        try:
            return read(path)
        except error as refusal:
            message = str(refusal)
            assert message.isprintable()
            assert message.startswith(f"{path}: ")
            assert len(message) < len(str(path)) + 400
            return None


# ---- Damage ----------------------------------------------------------------------------------

NUMBERS = [0, 1, 127, 128, 255, 256, 2**15, 2**16 - 1, 10**6, 2**31 - 1, 2**31, 10**9, 2**32 - 1]
NUMBERS += [2**32, 10**12, 2**63 - 1, 2**63, 2**64 - 1]


KINDS = ["flip", "cut", "delete", "insert", "twice", "splice", "number", "bytes"]
CHUNKS = ["PLTE", "tRNS", "IDAT", "iCCP", "zTXt", "iTXt", "tEXt", "eXIf", "acTL", "fcTL", "fdAT"]


@st.composite
def damaged(draw: st.DrawFn, samples: list[bytes], least: int = 1) -> bytes:
    content = draw(st.sampled_from(samples))
    for _ in range(draw(st.integers(least, 4))):
        # Headers come first in most files, and a few kB in is the middle of the data.
        last = max(0, len(content) - 1)
        place = draw(st.integers(0, min(last, 64)) | st.integers(0, last))
        length = draw(st.integers(1, 8) | st.integers(1, max(1, len(content))))
        head, part, tail = content[:place], content[place : place + length], content[place:]
        kind = draw(
            st.sampled_from(
                ["flip", "cut", "delete", "insert", "twice", "splice", "number", "bytes"]
            )
        )
        if kind == "flip" and tail:
            content = head + bytes([tail[0] ^ 1 << draw(st.integers(0, 7))]) + tail[1:]
        elif kind == "cut":
            content = head
        elif kind == "delete":
            content = head + tail[length:]
        elif kind == "insert":
            content = head + draw(st.binary(max_size=20)) + tail
        elif kind == "twice":
            content = head + part * draw(st.integers(2, 50)) + tail[length:]
        elif kind == "splice":
            other = draw(st.sampled_from(samples))
            start = draw(st.integers(0, max(0, len(other) - 1)))
            content = head + other[start : start + length] + tail
        elif kind == "number":
            size = draw(st.sampled_from("BHIQ"))
            number = draw(st.sampled_from(NUMBERS)) & (1 << 8 * struct.calcsize(size)) - 1
            new = struct.pack(draw(st.sampled_from("<>")) + size, number)
            content = head + new + tail[len(new) :]
        elif kind == "bytes":
            new = draw(st.binary(min_size=1, max_size=8))
            content = head + new + tail[len(new) :]
    return content


# ---- IDX -------------------------------------------------------------------------------------

IDX = [
    b"\0\0\x08\3" + struct.pack(">3I", 3, 4, 4) + bytes(range(48)),
    b"\0\0\x08\1" + struct.pack(">I", 10) + bytes(range(10)),
    b"\0\0\x0c\2" + struct.pack(">2I", 5, 2) + bytes(40),
]


def reads_idx(path: Path) -> None:
    tensor = outcome(read_idx, path, DataError, SMALL)
    if tensor is not None:
        assert tensor.dtype in (torch.uint8, torch.int64)
        assert 0 < tensor.numel() < 100_000


@fuzz
@given(damaged(IDX) | st.binary(max_size=60))
def test_idx(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    reads_idx(tmp_path / "a")


@fuzz
@given(damaged([gzip.compress(c, mtime=0) for c in IDX]) | damaged(IDX).map(gzip.compress))
def test_idx_in_gzip(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.gz").write_bytes(content)
    reads_idx(tmp_path / "a.gz")


# ---- Files of tensors ------------------------------------------------------------------------


def saved(state: Any, legacy: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


IMAGES, LABELS = torch.arange(60, dtype=torch.uint8).reshape(5, 4, 3), torch.tensor([3, 1, 4, 1, 5])
NETWORK = torch.nn.Linear(3, 2)
TRAINED = torch.optim.Adam(NETWORK.parameters())
NETWORK(torch.ones(1, 3)).sum().backward()
TRAINED.step()
STATES: list[Any] = [
    (IMAGES, LABELS),
    NETWORK.state_dict(),
    {"epoch": 3, "model": NETWORK.state_dict(), "optimizer": TRAINED.state_dict()},
    {"half": torch.ones(2).half(), "parameter": NETWORK.weight, "text": "ß", "row": (1, 2.5)},
]
ARCHIVES = [saved(state) for state in STATES]
OLD = [saved(state, legacy=True) for state in STATES]


def members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archived(parts: list[tuple[str, bytes]], sealed: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in parts:
            # Names twice are a part of this, which zipfile warns of.
            info = zipfile.ZipInfo(name)
            archive.NameToInfo.pop(name, None)
            archive.writestr(info, content)
    return tensors._with_checksum(buffer.getvalue()) if sealed else buffer.getvalue()


PARTS = [members(content) for content in ARCHIVES]
SIX = {"archive/data/0": bytes(24)}  # floats
PICKLES = [parts["archive/data.pkl"] for parts in PARTS]

# Pickles that no damage would lead to: each of these puts one value on the stack, or tries to.


def number(value: int) -> bytes:
    return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def row(parts: list[bytes]) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def storage(items: int) -> bytes:
    name = b"ctorch\nFloatStorage\nX\1\0\0\0" + b"0X\3\0\0\0cpu"
    return b"(X\7\0\0\0storage" + name + number(items) + b"tQ"


def tensor(items: int, start: int, axes: list[tuple[int, int]]) -> bytes:
    sizes, strides = (row([number(axis[k]) for axis in axes]) for k in (0, 1))
    form = number(start) + sizes + strides
    return CALLS[0] + b"(" + storage(items) + form + b"\x89" + CALLS[1] + b")RtR"


CALLS = [
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ccollections\nCounter\n",
    b"ctorch\nSize\n",
    b"ctorch\ndevice\n",
    b"ctorch\nfloat32\n",
    b"ctorch\nFloatStorage\n",
    b"c__builtin__\nset\n",
    b"c__builtin__\ncomplex\n",
    b"c__builtin__\nbytearray\n",
    b"ctorch\nFloatTensor\n",
    b"c_codecs\nencode\n",
]
# Lists and tuples that hold each other twice, 40 deep: whoever hashes or writes one has no end.
LISTS = b"]q\1" + b"](h\1h\1eq\1" * 40
TUPLES = b")q\2" + b"h\2\x86q\2" * 40
LEAVES = [b"N", b"\x88", b"]", b"}", b")", b"\x8f", b"G\x7f\xf0" + bytes(6), b"X\1\0\0\0" + b"0"]
LEAVES += [b"X\3\0\0\0cpu", b"X\4\0\0\0meta", storage(6), LISTS, TUPLES, b")" + b"\x85" * 50_000]
steps = st.sampled_from([0, 0, 1, 2, 3])
axes = st.lists(st.tuples(steps | st.sampled_from(NUMBERS), steps), max_size=3)
size = st.sampled_from([6, 6, 6, 5, 7, 10**9, 2**62])
leaves = st.one_of(
    st.sampled_from(LEAVES),
    st.sampled_from(CALLS),
    st.sampled_from(NUMBERS).map(number),
    st.builds(tensor, size, st.sampled_from([0, 0, 0, 1, -1, 10**9]), axes),
    st.sampled_from([tensor(6, 0, [(3, 2), (2, 1)]), tensor(6, 0, [(10**9, 0)])]),
)


def larger(parts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    several = st.lists(parts, max_size=3)
    calls = st.builds(lambda f, a: f + row(a) + b"R", st.sampled_from(CALLS) | parts, several)
    built = st.builds(lambda one, state: one + state + b"b", parts, parts)
    lists = several.map(lambda found: b"](" + b"".join(found) + b"e")
    pairs = st.lists(st.builds(bytes.__add__, parts, parts), max_size=3)
    dicts = pairs.map(lambda found: b"}(" + b"".join(found) + b"u")
    return several.map(row) | calls | built | lists | dicts


made_up = st.recursive(leaves, larger, max_leaves=10).map(lambda found: b"\x80\2" + found + b".")


@st.composite
def archives(draw: st.DrawFn) -> bytes:
    """Whole archives of damaged parts, swapped, missing, twice, under other names."""
    parts = draw(st.sampled_from(PARTS)) | SIX
    parts["archive/data.pkl"] = draw(damaged(PICKLES, least=0) | made_up)
    listed = [
        (name, draw(damaged([content])) if draw(st.integers(0, 9)) == 0 else content)
        for name, content in parts.items()
    ]
    for _ in range(draw(st.integers(0, 2))):
        one = draw(st.integers(0, len(listed) - 1))
        other = draw(st.integers(0, len(listed) - 1))
        names, contents = [n for n, _ in listed], [c for _, c in listed]
        match draw(st.integers(0, 3)):
            case 0:
                listed[one] = (names[one], contents[other])
            case 1:
                listed[one] = (names[other], contents[one])
            case 2:
                listed[one], listed[other] = listed[other], listed[one]
            case _:
                del listed[one]
        if not listed:
            break
    return archived(listed, sealed=draw(st.booleans()))


def new_pickle(content: bytes) -> bytes:
    return archived(list((PARTS[0] | {"archive/data.pkl": content, **SIX}).items()))


def old_pickle(content: bytes) -> bytes:
    """The old format around a pickle, with one storage of six floats."""
    head = OLD[1][: OLD[1].index(b"\x80\2", OLD[1].index(b"little_endian"))]
    keys = b"\x80\2]X\1\0\0\0" + b"0a."
    return head + content + keys + struct.pack("<q", 6) + bytes(24)


of_tensors = st.one_of(
    damaged(ARCHIVES),
    damaged(OLD),
    archives(),
    made_up.map(new_pickle),
    made_up.map(lambda content: old_pickle(content.replace(b"tQ", b"NtQ"))),
    st.binary(max_size=60),
)
PLAIN = (type(None), bool, int, float, str, torch.dtype)


def is_sane(state: Any) -> bool:
    """Everything in it can be looked at, and takes no more than a small file's memory."""
    seen, todo = set(), [state]
    while todo:
        part = todo.pop()
        if id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(part, torch.Tensor):
            assert part.numel() < 100_000
            part.detach().clone().sum()
        elif isinstance(part, dict):
            todo += [value for pair in part.items() for value in pair]
        elif isinstance(part, list | tuple):
            todo += part
        else:
            assert isinstance(part, PLAIN)
    return True


@fuzz
@given(of_tensors)
def test_files_of_tensors(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    is_sane(outcome(load, path, CheckpointError, SMALL))


@fuzz
@given(of_tensors)
def test_files_of_images_and_labels(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "training.pt"
    path.write_bytes(content)

    def read(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
        return checked(*read_pt(path), str(path))

    if found := outcome(read, path, DataError, SMALL):
        assert 0 < found[0].sum() + found[0].numel() < 100_000
        assert found[1].dtype == torch.int64


@functools.cache
def sealed() -> tuple[bytes, ...]:
    return tuple(tensors._with_checksum(content) for content in ARCHIVES)


@fuzz
@given(damaged(list(sealed())))
def test_any_damage_to_a_saved_file_is_noticed(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    found = outcome(load, path, CheckpointError, SMALL)
    assert found is None or content in sealed()


# ---- Pictures --------------------------------------------------------------------------------


@functools.cache
def pictures() -> dict[str, bytes]:
    seven = Image.new("L", (40, 48), 255)
    ImageDraw.Draw(seven).line([(12, 12), (28, 12), (20, 38)], fill=0, width=4)
    colour, levels = seven.convert("RGB"), np.asarray(seven, np.uint16) * 200
    exif = Image.Exif()
    exif[0x0112] = 6
    frames: dict[str, Any] = {"save_all": True, "append_images": [colour.rotate(90)] * 3}
    made: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (colour, "PNG", {"exif": exif}),
        (colour.quantize(8), "PNG", {"transparency": 0}),
        (Image.fromarray(levels), "PNG", {}),
        (colour.convert("RGBA"), "PNG", frames),
        (colour, "JPEG", {"exif": exif}),
        (colour, "JPEG", {"progressive": True}),
        (colour.convert("CMYK"), "JPEG", {}),
        (colour, "GIF", frames),
        (colour, "BMP", {}),
        (seven.convert("1"), "BMP", {}),
        (colour, "TIFF", {"exif": exif}),
        (colour, "TIFF", frames),
        (seven, "TIFF", {"compression": "tiff_lzw"}),
        (seven, "TIFF", {"compression": "jpeg"}),
        (seven.convert("1"), "TIFF", {"compression": "group4"}),
        (Image.fromarray(levels.astype(np.float32)), "TIFF", {}),
        (colour, "PPM", {}),
        (seven.convert("1"), "PPM", {}),
        (colour.convert("RGBA"), "QOI", {}),
    ]
    if features.check("webp"):
        made += [(colour, "WEBP", frames), (colour, "WEBP", {"lossless": True, "exif": exif})]
    if features.check("jpg_2000"):
        made += [(colour, "JPEG2000", {}), (seven, "JPEG2000", {"no_jp2": True})]
    if features.check("avif"):
        made += [(colour, "AVIF", {"exif": exif}), (colour, "AVIF", frames)]
    Image.init()
    content = {}
    for index, (image, kind, options) in enumerate(made):
        if kind in Image.SAVE:
            buffer = io.BytesIO()
            image.save(buffer, kind, **options)
            content[f"{kind} {index}"] = buffer.getvalue()
    content["plain PGM"] = b"P2 5 7 9 " + b" ".join(b"9" if k % 5 else b"0" for k in range(35))
    return content


def with_checksums(content: bytes) -> bytes:
    """A PNG's chunks as they are, each with the CRC that fits."""
    out, place = content[:8], 8
    while len(chunk := content[place : place + 8]) == 8:
        length = struct.unpack(">I", chunk[:4])[0]
        data = content[place + 8 : place + 8 + length]
        out += chunk + data + struct.pack(">I", zlib.crc32(chunk[4:] + data))
        place += 12 + length
    return out


@st.composite
def unpacked_png(draw: st.DrawFn) -> bytes:
    """A PNG whose header and whose pixels, under good checksums, need not agree."""
    header = struct.pack(
        ">IIBBBBB",
        draw(st.integers(0, 9000) | st.sampled_from(NUMBERS[:13])),
        draw(st.integers(0, 9000) | st.sampled_from(NUMBERS[:13])),
        draw(st.sampled_from([1, 2, 4, 8, 16])),
        draw(st.sampled_from([0, 2, 3, 4, 6])),
        0,
        0,
        draw(st.integers(0, 1)),
    )
    kinds = st.sampled_from(
        [
            "PLTE",
            "tRNS",
            "IDAT",
            "iCCP",
            "zTXt",
            "iTXt",
            "tEXt",
            "eXIf",
            "acTL",
            "fcTL",
            "fdAT",
            "pHYs",
        ]
    )
    zipped = st.integers(0, 5_000_000).map(lambda n: zlib.compress(bytes(n), 1))
    named = st.builds(bytes.__add__, st.sampled_from([b"k\0\0", b"k\0\1\0\0\0", b""]), zipped)
    out = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + bytes(4)
    for kind, data in draw(st.lists(st.tuples(kinds, st.binary(max_size=60) | named), max_size=6)):
        out += struct.pack(">I", len(data)) + kind.encode() + data + bytes(4)
    return with_checksums(out + struct.pack(">I", 0) + b"IEND" + bytes(4))


PICTURES = list(pictures().values())
PNGS = [content for content in PICTURES if content.startswith(b"\x89PNG")]
# Each kind with its own kind, too: the parts of one would mean nothing to another.
alone = st.sampled_from(PICTURES).flatmap(lambda content: damaged([content]))
of_pixels = alone | damaged(PICTURES) | damaged(PNGS).map(with_checksums) | unpacked_png()


@fuzz
@given(of_pixels)
def test_pictures(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "seven.png"
    path.write_bytes(content)
    image = outcome(read_picture, path, DataError, LARGE)
    if image is not None:
        assert image.shape == (28, 28)
        assert image.dtype == torch.uint8
        assert image.max() > 0


@pytest.mark.parametrize("name", pictures())
def test_an_undamaged_picture_is_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "seven.png").write_bytes(pictures()[name])
    assert read_picture(tmp_path / "seven.png").shape == (28, 28)


# ---- The command -----------------------------------------------------------------------------


@functools.cache
def networks() -> list[bytes]:
    torch.manual_seed(0)
    state = LeNet5().state_dict()
    # The command reads shapes; a small archive is damaged in its pickle more often than a large.
    odd = {name: tensor[..., :1] for name, tensor in state.items()}
    return [saved(state), saved(state, legacy=True), saved(odd), saved({"fc3.bias": torch.ones(9)})]


def swapped(content: bytes) -> st.SearchStrategy[bytes]:
    parts = members(content)
    return damaged([parts["archive/data.pkl"]]).map(
        lambda new: archived(list((parts | {"archive/data.pkl": new}).items()))
    )


@fuzz
@given(
    st.sampled_from(networks()) | damaged(networks()) | swapped(networks()[0]),
    st.sampled_from(PICTURES) | of_pixels,
)
def test_the_command(tmp_path: Path, weights: bytes, picture: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(weights)
    (tmp_path / "p.png").write_bytes(picture)
    out, err = io.StringIO(), io.StringIO()
    with bounded(LARGE), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = predict.main([str(tmp_path / "w.pth"), str(tmp_path / "p.png")])
    errors = [line for line in err.getvalue().splitlines() if not line.startswith("Model loaded")]
    if status == 0:
        assert not errors
        assert out.getvalue().startswith(f"{tmp_path / 'p.png'}: ")
    else:
        assert status == 2
        assert len(errors) == 1
        assert errors[0].startswith("error: ")
        assert not out.getvalue()


def test_what_save_wrote_is_one_of_the_files_that_are_damaged_here(tmp_path: Path) -> None:
    save(STATES[0], tmp_path / "a.pt")
    assert (tmp_path / "a.pt").read_bytes() == sealed()[0]
