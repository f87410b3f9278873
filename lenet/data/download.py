"""Published sets from the network: all files of a set, checked, or none."""

import gzip
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from lenet.data.errors import DataError
from lenet.data.known_sets import KNOWN, Known
from lenet.data.sources import Raw, find

DAMAGE = (gzip.BadGzipFile, zlib.error, EOFError, zipfile.BadZipFile, KeyError)


def download(name: str, root: Path, mirror: str | None = None) -> Raw:
    """The set, downloaded into torchvision's layout under `root`. Writes all of its files or none.

    Mirrors and the MD5 of each packed file are torchvision's; where we know the SHA-256 of the
    contents, that is compared instead. `mirror` is a base URL that is tried first.

    Raises: DataError where no mirror has a file with the right contents.
    """
    known = KNOWN[name]
    target = root / known.folder / "raw"
    try:
        existing = next(folder for folder in target.absolute().parents if folder.exists())
        # Beside the target, so that the last step is a rename on one file system.
        with tempfile.TemporaryDirectory(prefix=".lenet-", dir=existing) as temporary:
            staging = Path(temporary)
            for file, md5, urls in _packed_files(known, mirror):
                _download_file(known, file, md5, urls, staging)
            raw = find(name, staging)
            if raw is None:
                raise DataError(f"{name}: expected {known.files[0]}, no mirror has it")
            target.mkdir(parents=True, exist_ok=True)
            for file in known.files:
                os.replace(staging / file, target / file)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{root}: {name} cannot be stored there ({reason})") from None
    return replace(raw, where=str(target))


def _packed_files(known: Known, mirror: str | None) -> Iterator[tuple[str, str, list[str]]]:
    """For each file to download: its name, its MD5 and the URLs to try."""
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


def _download_file(known: Known, file: str, md5: str, urls: list[str], folder: Path) -> None:
    """Downloads a packed file from the first URL that has it, and unpacks it into `folder`."""
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
        except (requests.RequestException, *DAMAGE, ValueError, OSError) as error:
            (folder / file).unlink(missing_ok=True)  # or pooch takes it for the next URL's
            reasons.append(f"{urlsplit(url).netloc or url}: {_reason(error)}")
    raise DataError(f"{file} could not be downloaded ({'; '.join(reasons)})")


def _reason(error: Exception) -> str:
    if isinstance(error, DataError) or (isinstance(error, ValueError) and "hash" in str(error)):
        return "other contents than expected"
    if isinstance(error, DAMAGE):
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
