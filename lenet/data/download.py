"""Published sets from the network: all files of a set, checked, or none."""

import gzip
import logging
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

from lenet.data.errors import DataError
from lenet.data.known_sets import KNOWN, Known
from lenet.data.sources import Raw, find

Packed = list[tuple[str, str]]  # URL and MD5 of each file to download


def download(name: str, root: Path, mirror: str | None = None) -> Raw:
    """The set, downloaded into torchvision's layout under `root`. Writes all of its files or none.

    All files come from the first mirror that has them with the right contents. `mirror` is a base
    URL that is tried before torchvision's.

    Raises: DataError where there is no such mirror, or the files cannot be stored.
    """
    target = root / KNOWN[name].place
    reasons = []
    for packed in _mirrors(KNOWN[name], mirror):
        try:
            target.mkdir(parents=True, exist_ok=True)
            # Inside the target, so that the last step is a rename on one file system.
            with tempfile.TemporaryDirectory(prefix=".lenet-", dir=target) as folder:
                return _download_from(packed, name, target, Path(folder))
        except (OSError, EOFError, zlib.error, ValueError) as error:
            reasons.append(f"{urlsplit(packed[0][0]).netloc}: {_reason(error)}")
    raise DataError(f"{name} could not be downloaded to {target} ({'; '.join(reasons)})")


def _mirrors(known: Known, mirror: str | None) -> list[Packed]:
    """What to download from each mirror, as torchvision lists it."""
    import torchvision

    source = getattr(torchvision.datasets, known.folder)
    if known.folder == "EMNIST":
        mirrors = [[(source.url, source.md5)]]
    elif known.folder == "CIFAR10":
        mirrors = [[(source.url, source.tgz_md5)]]
    elif known.folder == "QMNIST":
        mirrors = [source.resources["train"] + source.resources["test"]]
    else:
        mirrors = [
            [(base + file, md5) for file, md5 in source.resources] for base in source.mirrors
        ]
    if mirror:
        own = [(f"{mirror.rstrip('/')}/{url.rpartition('/')[2]}", md5) for url, md5 in mirrors[0]]
        mirrors.insert(0, own)
    return mirrors


def _download_from(packed: Packed, name: str, target: Path, folder: Path) -> Raw:
    """Downloads and unpacks all files into `folder`, checks them, then moves them to `target`."""
    import pooch

    known = KNOWN[name]
    pooch.get_logger().setLevel(logging.ERROR)
    fetch = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=10)
    for url, md5 in packed:
        print(f"Downloading {url}", file=sys.stderr)
        # Where we know the SHA-256 of the contents, `find` compares that: others may pack anew.
        expected = None if known.sha256 else f"md5:{md5}"
        pooch.retrieve(url, expected, url.rpartition("/")[2], folder, downloader=fetch)
    _unpack(known, folder)
    raw = find(name, folder)
    assert raw
    for file in known.files:
        os.replace(folder / file, target / file)
    return replace(raw, where=str(target))


def _unpack(known: Known, folder: Path) -> None:
    """Unpacks the files that were downloaded into `folder`."""
    if known.batches:
        with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
            for file in known.files:
                content = archive.extractfile(f"{known.batches}/{file}")
                assert content
                (folder / file).write_bytes(content.read())
        return
    if known.folder == "EMNIST":
        with zipfile.ZipFile(folder / "gzip.zip") as zipped:
            for file in known.files:
                (folder / f"{file}.gz").write_bytes(zipped.read(f"gzip/{file}.gz"))
    for file in known.files:
        with gzip.open(folder / f"{file}.gz") as packed, (folder / file).open("wb") as out:
            shutil.copyfileobj(packed, out)


def _reason(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status:
        return f"HTTP {status}"
    if isinstance(error, gzip.BadGzipFile | EOFError | zlib.error):
        return "a damaged file"
    if isinstance(error, ValueError):
        return "other contents than expected"
    return getattr(error, "strerror", None) or type(error).__name__
