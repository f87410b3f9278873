"""A folder at any moment of its past, computed from the changes that were made to it.

A killed process leaves every change that it made. After a power loss a change of a file's content
is there for certain only if the file was synced since; names are kept in the order of their
changes, as the usual file systems do.
"""

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tests.crash.effects import Effect


@dataclass(frozen=True)
class File:
    content: bytes = b""
    synced: bytes = b""  # what a power loss leaves for certain

    def put(self, at: int, content: bytes) -> "File":
        before, after = self.content[:at].ljust(at, b"\0"), self.content[at + len(content) :]
        return File(before + content + after, self.synced)

    @cached_property
    def digest(self) -> bytes:
        return hashlib.sha256(self.content).digest()


@dataclass(frozen=True)
class Disk:
    """The files and folders below one folder, by their relative paths. None is a folder."""

    paths: dict[str, File | None] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "Disk":
        """A folder as it is now, all of it synced."""
        found: dict[str, File | None] = {}
        for path in sorted(folder.rglob("*")):
            content = None if path.is_dir() else path.read_bytes()
            name = str(path.relative_to(folder))
            found[name] = None if content is None else File(content, content)
        return cls(found)

    @property
    def files(self) -> dict[str, File]:
        return {name: file for name, file in self.paths.items() if file is not None}

    def after(self, effect: Effect) -> "Disk":
        """The folder after one more change."""
        paths, path = dict(self.paths), effect.path
        file = paths.get(path)
        if effect.kind in ("create", "mkdir"):
            paths[path] = File() if effect.kind == "create" else None
        elif effect.kind in ("unlink", "rmdir"):
            del paths[path]
        elif effect.kind == "rename":
            paths = {_renamed(name, path, effect.to): file for name, file in paths.items()}
        elif file and effect.kind == "write":
            paths[path] = file.put(effect.at, effect.content)
        elif file and effect.kind == "truncate":
            paths[path] = File(file.content[: effect.at], file.synced)
        elif file and effect.kind == "fsync":
            paths[path] = File(file.content, file.content)
        return Disk(paths)

    def unsynced(self) -> list[str]:
        return [name for name, file in self.files.items() if file.content != file.synced]

    def after_power_loss(self, lost: Iterable[str]) -> "Disk":
        """The same, where these files have lost what was not synced."""
        return Disk(self.paths | {name: File(self.files[name].synced) for name in lost})

    def without(self, *names: str) -> "Disk":
        """The same, where somebody has removed these files and folders."""
        gone = tuple(f"{name}/" for name in names)
        return Disk({n: file for n, file in self.paths.items() if not f"{n}/".startswith(gone)})

    def write(self, folder: Path, there: "Disk | None" = None) -> None:
        """Makes the real folder like this one; `there` is what it holds, if that is known."""
        if there is None:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        before = there.paths if there else {}
        for name in sorted(before.keys() - self.paths.keys(), reverse=True):
            (folder / name).unlink() if before[name] else (folder / name).rmdir()
        for name, file in sorted(self.paths.items()):
            if file is None:
                (folder / name).mkdir(exist_ok=True)
            elif before.get(name) is not file:
                (folder / name).write_bytes(file.content)


def _renamed(name: str, old: str, new: str) -> str:
    return new + name[len(old) :] if name == old or name.startswith(f"{old}/") else name
