"""The journal of a run: everything that MLflow shall get, on disk before it is sent.

Each run has a folder of its own:

    run.json        whose journal it is (`Facts`), with the id that MLflow gave the run
    journal.jsonl   one entry a line: [kind, value]
    artifacts/      the files that entries name, under their artifact paths
    checkpoints/    the last states of the training
    model/          the network as an MLflow model

The folder is removed once the run has ended and MLflow has everything.
"""

import json
import os
import re
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lenet.cli import one_line

Entry = tuple[str, Any]
RECORDS, FILES = 0, 1  # two queues: files that can't be sent don't hold records back
KINDS_OF_FILES = ("artifact", "checkpoint", "model", "register")
REMAINS_SECONDS = 3600.0  # after that no process is about to write the first file of its folder
# What reading a folder raises that holds no run, or the run of another version.
UNREADABLE = (OSError, ValueError, TypeError)


class JournalError(ValueError):
    """A run's folder that can't be used: one line that says which, and why."""


@dataclass(frozen=True)
class Facts:
    """What identifies a run. `id` is the name of its folder, `run_id` MLflow's id once there is
    one; `uri` is the address of the store, `start_time` in milliseconds. `adopts` is a run that
    exists in MLflow, to be used instead of a new one.

    `process` writes the run. Where it resumes the run, `earlier` are the processes that wrote the
    run before, as far as this folder knows ("" for one that is not known).
    """

    uri: str
    name: str
    experiment: str | int = ""
    start_time: int = 0
    process: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    id: str = ""
    run_id: str | None = None
    adopts: str | None = None
    earlier: list[str] = field(default_factory=list)

    @property
    def writers(self) -> list[str]:
        """All processes that have written this journal."""
        return [*self.earlier, self.process]

    @staticmethod
    def read(folder: Path) -> "Facts":
        """Raises: one of UNREADABLE."""
        return Facts(**json.loads((folder / "run.json").read_text()))


class Journal:
    """The entries of a run, in order. One thread may append while another reads.

    A full disk costs a warning: the entries from then on are in memory alone, and `is_whole` is
    false.
    """

    def __init__(self, folder: Path, facts: Facts) -> None:
        self.folder = folder
        self.facts = facts
        self.entries: list[Entry] = []
        self.lanes: tuple[list[Entry], list[Entry]] = ([], [])  # the same entries, in two queues
        self.points: set[tuple[str, int]] = set()  # (metric, step) of all points
        self.stored: set[tuple[str, int]] = set()  # of those in MLflow when this process took over
        self.latest: dict[str, float] = {}
        self.is_whole = True
        self.is_new = False  # whether this process made the folder
        self.changed = threading.Condition()
        self.follow: Callable[[str], None] = lambda line: None  # gets each new line
        self._path = folder / "journal.jsonl"
        self._lock = FileLock(folder / ".lock", thread_local=False)

    @classmethod
    def create(cls, root: Path, facts: Facts) -> "Journal":
        """A journal in a new folder below `root`. Raises: JournalError."""
        facts = replace(facts, id=uuid.uuid4().hex)
        journal = cls(root / facts.id, facts)
        journal.is_new = True
        try:
            journal.folder.mkdir(parents=True)
            journal._lock.acquire(timeout=0)
            journal.describe()
        except OSError as error:
            shutil.rmtree(journal.folder, ignore_errors=True)
            raise unwritable(root, error) from None
        return journal

    @classmethod
    def open(cls, folder: Path) -> "Journal":
        """The journal of an earlier process's run.

        Raises: JournalError where that process is still running, or there is no journal.
        """
        try:
            journal = cls(folder, Facts.read(folder))
            journal._lock.acquire(timeout=0)
        except Timeout:
            raise JournalError(f"{folder.name}: its process is still running") from None
        except UNREADABLE as error:
            raise _no_journal(folder, error) from None
        try:
            journal.facts = Facts.read(folder)  # another process may have sent the run meanwhile
            journal._read()
        except UNREADABLE as error:
            journal._lock.release()
            raise _no_journal(folder, error) from None
        return journal

    def _read(self) -> None:
        content = self._path.read_bytes() if self._path.exists() else b""
        *lines, torn = content.split(b"\n")
        if torn:  # its process was killed while it wrote the line
            os.truncate(self._path, len(content) - len(torn))
        for line in lines:
            kind, value = json.loads(line)
            self._add(kind, value)

    def close(self, remove: bool = False) -> None:
        """Releases the folder, or removes it."""
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release(force=True)

    def append(self, kind: str, value: Any) -> None:
        line = json.dumps([kind, value])
        with self.changed:
            self._add(kind, json.loads(line)[1])  # just as another process would read it
            if self.is_whole:
                self._write(line)
            self.follow(line)
            self.changed.notify_all()

    def _add(self, kind: str, value: Any) -> None:
        self.entries.append((kind, value))
        self.lanes[FILES if kind in KINDS_OF_FILES else RECORDS].append((kind, value))
        if kind == "metrics":
            for key, number, _, step in value:
                self.points.add((key, step))
                self.latest[key] = number

    def _write(self, line: str) -> None:
        try:
            with self._path.open("a") as file:
                file.write(f"{line}\n")
        except OSError as error:
            self.is_whole = False
            print(f"Warning: {self._path}: {error.strerror or error}", file=sys.stderr)

    def describe(self, **changes: Any) -> None:
        """Changes the facts, in memory in any case. Raises: OSError where the disk is full."""
        self.facts = replace(self.facts, **changes)
        temporary = self.folder / ".run.json"
        # For its owner alone: the store's address may hold a password.
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(asdict(self.facts), file, indent=1)
        _sync(temporary)  # else a power failure could leave an empty run.json
        os.replace(temporary, self.folder / "run.json")

    def resume_as(self, process: str) -> None:
        """Notes that this process goes on with the journal. Raises: OSError."""
        if process != self.facts.process:
            self.describe(process=process, earlier=self.facts.writers)

    def log_tags(self, tags: Mapping[str, str | None]) -> None:
        """Sets tags. None removes one."""
        self.append("tags", dict(tags))

    def log_points(self, values: Mapping[str, float], step: int) -> None:
        """Adds points, except those that are there already from before a resume."""
        now = int(time.time() * 1000)
        new = [
            [key, float(value), now, step]
            for key, value in values.items()
            if (key, step) not in self.points
        ]
        if new:
            self.append("metrics", new)

    def log_status(self, status: str) -> None:
        end_time = None if status == "RUNNING" else int(time.time() * 1000)
        self.append("status", [status, end_time])

    def log_text(self, text: str, artifact: str) -> None:
        self.log_file(lambda path: path.write_text(text, encoding="utf-8"), artifact)

    def log_file(self, make: Callable[[Path], Any], artifact: str) -> None:
        """Adds a file that `make` writes to the path that it gets."""
        self.write(self.file(artifact), make)
        self.append("artifact", artifact)

    def file(self, artifact: str) -> Path:
        """Where an artifact lies until it is sent."""
        return self.folder / "artifacts" / artifact

    def write(self, path: Path, make: Callable[[Path], Any]) -> None:
        """Calls `make` with the path of the file or folder that it shall write. Nothing stays of
        it where it fails. After it, a power failure loses nothing of it.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            make(path)
            for each in [path, *path.rglob("*")]:
                _sync(each)
        except BaseException:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            raise


def unfinished(root: Path) -> Iterator[tuple[Path, Facts]]:
    """The folders of runs that MLflow does not have completely; some may still be running."""
    for path in sorted(root.glob("*/run.json")):
        try:
            yield path.parent, Facts.read(path.parent)
        except FileNotFoundError:  # sent a moment ago
            continue
        except UNREADABLE as error:
            print(f"Warning: {_no_journal(path.parent, error)}", file=sys.stderr)


def remove_remains(root: Path) -> None:
    """Removes the runs' folders without run.json. Their process was killed while it made the
    folder, or while it removed the folder of a run that MLflow has. One that was begun just now
    stays: its process may be about to write the file. Folders of other names are not runs'.
    """
    for folder in root.glob("*/"):
        is_run = re.fullmatch("[0-9a-f]{32}", folder.name)
        if is_run and not (folder / "run.json").exists() and _age(folder) > REMAINS_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)


def _age(folder: Path) -> float:
    with suppress(FileNotFoundError):  # another process removes it
        return time.time() - folder.stat().st_mtime
    return 0.0


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def unwritable(root: Path, error: OSError) -> JournalError:
    return JournalError(f"tracking.folder={root}: cannot be written ({error.strerror or error})")


def _no_journal(folder: Path, error: Exception) -> JournalError:
    reason = error.strerror if isinstance(error, OSError) else error
    return JournalError(f"{one_line(folder)}: no journal of a run ({reason})")
