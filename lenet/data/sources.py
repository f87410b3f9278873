"""Where the known sets come from: on disk, in any layout they are found in, or by download."""

import gzip
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

import torch
from torch import Tensor

from lenet.data.errors import DataError
from lenet.data.idx import checked, idx_sha256, read_idx, read_pt

Pair = tuple[Tensor, Tensor]
DIGITS = tuple("0123456789")
UPPER, LOWER = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), tuple("abcdefghijklmnopqrstuvwxyz")
FOUR = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


@dataclass(frozen=True)
class Raw:
    """A set as its makers left it.

    Shapes: images uint8 (N, H, W) or (N, C, H, W); labels int64 (N), counting from 0.
    """

    name: str
    train: Pair
    test: Pair
    classes: tuple[str, ...] | None
    where: str


@dataclass(frozen=True)
class Known:
    """What is known of a published set. `folder` names torchvision's class and its folder too."""

    folder: str
    classes: tuple[str, ...]
    files: tuple[str, ...] = tuple(f"{stem}-ubyte" for stem in FOUR)
    sha256: tuple[str, ...] | None = None
    first_label: int = 0
    transposed: bool = False


# Balanced and bymerge join the letters whose two cases look alike (Cohen et al. 2017, table II).
_MERGED = DIGITS + UPPER + tuple("abdefghnqrt")
EMNIST_SPLITS = {
    "balanced": _MERGED,
    "byclass": DIGITS + UPPER + LOWER,
    "bymerge": _MERGED,
    "letters": LOWER,
    "digits": DIGITS,
    "mnist": DIGITS,
}

KNOWN = {
    "mnist": Known(
        "MNIST",
        DIGITS,
        sha256=(
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "fashion_mnist": Known(
        "FashionMNIST",
        (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        # Computed from Debian's package dataset-fashion-mnist.
        sha256=(
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
    "kmnist": Known("KMNIST", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
    "qmnist": Known(
        "QMNIST",
        DIGITS,
        tuple(
            f"qmnist-{part}-{kind}"
            for part in ("train", "test")
            for kind in ("images-idx3-ubyte", "labels-idx2-int")
        ),
    ),
} | {
    f"emnist_{split}": Known(
        "EMNIST",
        classes,
        tuple(
            f"emnist-{split}-{part}-{kind}-ubyte"
            for part in ("train", "test")
            for kind in ("images-idx3", "labels-idx1")
        ),
        first_label=int(split == "letters"),
        transposed=True,
    )
    for split, classes in EMNIST_SPLITS.items()
}


def find(name: str, root: Path) -> Raw | None:
    """A known set as it lies under `root`, or None where no file of it is there.

    Looked for in this order: the tutorial's `.pt` files (MNIST), torchvision's `raw` folder, the
    plain files, each gzipped or not.

    Raises: DataError where a file is missing beside another, damaged, or not what it claims.
    """
    known = KNOWN[name]
    processed = Path(known.folder, "processed")
    train, test = root / "train" / processed / "training.pt", root / "test" / processed / "test.pt"
    if os.path.isfile(train) or os.path.isfile(test):
        where = str(root / "{train,test}" / processed)
        return _verified(name, [read_pt(train), read_pt(test)], [train, train, test, test], where)
    for folder in (root / known.folder / "raw", root):
        paths = [_either(folder / file) for file in known.files]
        if any(os.path.isfile(path) for path in paths):
            images, labels, test_images, test_labels = (read_idx(path) for path in paths)
            pairs = [(images, labels), (test_images, test_labels)]
            return _verified(name, pairs, paths, str(folder))
    return None


def _either(path: Path) -> Path:
    gz = path.with_name(path.name + ".gz")
    return gz if os.path.isfile(gz) and not os.path.isfile(path) else path


def _verified(name: str, pairs: Sequence[Pair], paths: Sequence[Path], where: str) -> Raw:
    """Refuses a set that claims to be another: four of them share their file names."""
    known = KNOWN[name]
    parts = [checked(*pair, str(path)) for pair, path in zip(pairs, paths[::2], strict=True)]
    tensors = [tensor for pair in parts for tensor in pair]
    expected = known.sha256 or [None] * len(tensors)
    for file, path, tensor, sha256 in zip(known.files, paths, tensors, expected, strict=True):
        found = idx_sha256(tensor)
        owner = next((n for n, k in KNOWN.items() if k.sha256 and found in k.sha256), None)
        if owner not in (None, name):
            raise DataError(f"{path}: expected {name}, found {file} of {owner}")
        if sha256 not in (None, found):
            raise DataError(
                f"{path}: expected {name}'s {file} (SHA-256 {sha256[:12]}...), found other "
                f"contents ({found[:12]}...); for a set of your own use data=files"
            )
    train, test = (_upright(known, *pair) for pair in parts)
    return Raw(name, train, test, known.classes, where)


def _upright(known: Known, images: Tensor, labels: Tensor) -> Pair:
    if known.transposed:
        images = images.transpose(-1, -2).contiguous()
    return images, labels - known.first_label


def download(name: str, root: Path, mirror: str | None = None) -> Raw:
    """Fetches a known set into torchvision's layout under `root`: all of it, checked, or nothing.

    torchvision knows the mirrors and the MD5 of each packed file; where the SHA-256 of the
    contents is known, that is checked instead. `mirror` is a base URL asked before the others.

    Raises: DataError where no mirror gives a file, or gives other contents.
    """
    known = KNOWN[name]
    target = root / known.folder / "raw"
    try:
        existing = next(folder for folder in target.absolute().parents if folder.exists())
        # Beside the target, so that the last step is a rename on one file system.
        with tempfile.TemporaryDirectory(prefix=".lenet-", dir=existing) as temporary:
            staging = Path(temporary)
            for file, md5, urls in _packed_files(known, mirror):
                _fetch(known, file, md5, urls, staging)
            raw = find(name, staging)
            if raw is None:
                raise DataError(f"{name}: expected {known.files[0]}, found it in no mirror's files")
            target.mkdir(parents=True, exist_ok=True)
            for file in known.files:
                os.replace(staging / file, target / file)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{root}: {name} cannot be stored there ({reason})") from None
    return replace(raw, where=str(target))


def _packed_files(known: Known, mirror: str | None) -> Iterator[tuple[str, str, list[str]]]:
    """Each file to fetch: its name, its MD5, the URLs to try in turn."""
    import torchvision

    source = getattr(torchvision.datasets, known.folder)
    own = [mirror.rstrip("/") + "/"] if mirror else []
    if known.folder == "EMNIST":
        resources = [(source.url, source.md5)]
    elif known.folder == "QMNIST":
        resources = source.resources["train"] + source.resources["test"]
    else:
        resources = [(base, md5) for base, md5 in source.resources]
    for resource, md5 in resources:
        file = resource.rpartition("/")[2]
        official = [resource] if "/" in resource else [base + file for base in source.mirrors]
        yield file, md5, [base + file for base in own] + official


def _fetch(known: Known, file: str, md5: str, urls: list[str], folder: Path) -> None:
    """Leaves the plain IDX files of a packed one in `folder`, from the first URL that has them."""
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.ERROR)
    expected = None if known.sha256 else f"md5:{md5}"
    reasons = []
    for url in urls:
        if not sys.stderr.isatty():
            print(f"Downloading {url}", file=sys.stderr)
        fetch = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=10)
        try:
            pooch.retrieve(url, expected, file, folder, downloader=fetch)
            _unpack(known, folder / file)
            return
        except (requests.RequestException, *_DAMAGE, ValueError, OSError) as error:
            (folder / file).unlink(missing_ok=True)  # or the next URL would not be asked
            reasons.append(f"{urlsplit(url).netloc or url}: {_reason(error)}")
    raise DataError(f"{file} could not be downloaded ({'; '.join(reasons)})")


_DAMAGE = (gzip.BadGzipFile, zlib.error, EOFError, zipfile.BadZipFile, KeyError)


def _reason(error: Exception) -> str:
    if isinstance(error, DataError) or (isinstance(error, ValueError) and "hash" in str(error)):
        return "other contents than expected"
    if isinstance(error, _DAMAGE):
        return "a damaged archive"
    if status := getattr(getattr(error, "response", None), "status_code", None):
        return f"HTTP {status}"
    return getattr(error, "strerror", None) or type(error).__name__


def _unpack(known: Known, packed: Path) -> None:
    if packed.suffix == ".zip":
        with zipfile.ZipFile(packed) as members:
            for file in known.files:
                with members.open(f"gzip/{file}.gz") as member:
                    _gunzip(known, member, packed.with_name(file))
    else:
        with packed.open("rb") as stream:
            _gunzip(known, stream, packed.with_suffix(""))


def _gunzip(known: Known, stream: IO[bytes], path: Path) -> None:
    with gzip.open(stream) as content, path.open("w+b") as out:
        shutil.copyfileobj(content, out)
        out.seek(0)
        found = hashlib.file_digest(out, "sha256").hexdigest()
    if known.sha256 and found != known.sha256[known.files.index(path.name)]:
        raise DataError(f"{path.name}: other contents than expected")


def embedded_digits() -> Raw:
    """scikit-learn's 1,797 real 8x8 digits, drawn as MNIST draws: 20x20 ink in 28x28.

    Every fifth is a test image, so that each writer is on both sides.

    Source: Alpaydin and Kaynak, UCI optical recognition of handwritten digits, its test part.
    """
    from sklearn.datasets import load_digits

    content = load_digits()
    small = torch.from_numpy(content.images).float()[:, None] * (255 / 16)
    large = torch.nn.functional.interpolate(small, 20, mode="bilinear", antialias=True)
    images = torch.nn.functional.pad(large.round().to(torch.uint8)[:, 0], (4, 4, 4, 4))
    labels = torch.from_numpy(content.target).long()
    test = torch.arange(len(labels)) % 5 == 0
    return Raw(
        "digits",
        (images[~test], labels[~test]),
        (images[test], labels[test]),
        DIGITS,
        "scikit-learn",
    )
