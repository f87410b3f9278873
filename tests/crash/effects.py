"""The changes that processes made to the files of a folder, as `effects.c` noted them."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("effects.c")


@dataclass(frozen=True)
class Effect:
    """One change. Paths are relative to the folder; `at` is an offset in the file."""

    kind: str  # create, write, truncate, fsync, rename, unlink, mkdir, rmdir
    path: str
    to: str = ""  # the new name, of a rename
    at: int = 0
    content: bytes = b""

    def __str__(self) -> str:
        size = f", {len(self.content)} bytes at {self.at}" if self.kind == "write" else ""
        return f"{self.kind} {self.path}" + (f" to {self.to}" if self.to else "") + size


def library(folder: Path) -> Path:
    """The library that notes the changes, compiled into `folder`."""
    built = folder / "effects.so"
    command = ["g++", "-x", "c", "-O1", "-Wall", "-Wno-format-truncation", "-Wno-address"]
    subprocess.run([*command, "-shared", "-fPIC", "-o", built, SOURCE, "-ldl"], check=True)
    return built


def watched(library: Path, folder: Path, log: Path) -> dict[str, str]:
    """The environment of a process whose changes below `folder` shall be noted in `log`."""
    return {"LD_PRELOAD": str(library), "CRASH_ROOT": str(folder), "CRASH_LOG": str(log)}


def read(log: Path, folder: Path) -> list[Effect]:
    """The changes in a log, in their order."""
    return list(_parsed(log.read_bytes(), f"{folder}/")) if log.exists() else []


def _parsed(text: bytes, root: str) -> Iterator[Effect]:
    at = 0
    while at < len(text):
        end = text.index(b"\n", at)
        kind, path, to, offset, length = text[at:end].decode().split("\t")
        at = end + 1 + int(length)
        content = text[end + 1 : at]
        names = (f"{each}/".removeprefix(root).rstrip("/") if each else "" for each in (path, to))
        yield Effect(kind, *names, int(offset), content)
