"""What a run has to tell, on disk before it is sent anywhere: a folder for each run.

    run.json        whose journal it is, and the id that MLflow gave it
    journal.jsonl   an entry a line: [kind, value]
    sent            how many of them MLflow has
    artifacts/      the files that entries name, under their artifact paths
    checkpoints/    the last states of the training
    model/          the network as an MLflow model

The folder is gone once MLflow has all of it and the run has ended.
"""

import json
import os
import shutil
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

Entry = tuple[str, Any]


class JournalError(ValueError):
    """A run's folder that can't be used: one line that says which, and why."""


class Journal:
    """Entries in order; safe to append to while another thread reads.

    A disk that is full costs a warning: what could not be written waits in memory for the next
    entry, and is sent from there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = {}
        self.entries: list[Entry] = []
        self.sent = 0
        self.points: set[tuple[str, int]] = set()  # (metric, step) of all points
        self.latest: dict[str, float] = {}
        self.changed = threading.Condition()
        self._unwritten = b""
        self._warned = False
        self._lock = FileLock(folder / ".lock", thread_local=False)

    # ---- Beginning and end -------------------------------------------------------------------

    @classmethod
    def create(cls, root: Path, facts: Mapping[str, Any]) -> "Journal":
        """Raises: JournalError where the folder can't be made."""
        name = uuid.uuid4().hex
        journal = cls(root / name)
        try:
            journal.folder.mkdir(parents=True)
            journal._lock.acquire(timeout=0)
            journal.describe(id=name, run_id=None, **facts)
        except OSError as error:
            shutil.rmtree(journal.folder, ignore_errors=True)
            raise JournalError(
                f"tracking.folder={root}: cannot be written ({error.strerror or error})"
            ) from None
        return journal

    @classmethod
    def open(cls, folder: Path) -> "Journal":
        """The journal of a run that was left, to be continued or sent.

        Raises: JournalError where its run is alive, or there is none.
        """
        journal = cls(folder)
        try:
            journal.facts = read_facts(folder)
            journal._lock.acquire(timeout=0)
            journal._read()
        except Timeout:
            raise JournalError(f"{folder.name}: its process is still running") from None
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise JournalError(f"{folder}: no journal of a run ({reason})") from None
        return journal

    def _read(self) -> None:
        path = self.folder / "journal.jsonl"
        if path.exists():
            whole, _, torn = path.read_bytes().rpartition(b"\n")
            if torn:  # its process was killed while it wrote
                os.truncate(path, len(whole) + 1 if whole else 0)
            for line in whole.splitlines():
                kind, value = json.loads(line)
                self._take(kind, value)
        sent = self.folder / "sent"
        self.sent = min(int(sent.read_text() or 0), len(self.entries)) if sent.exists() else 0

    def close(self, remove: bool = False) -> None:
        """Lets go of the folder; `remove` deletes it too."""
        if remove:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release(force=True)

    # ---- Entries -----------------------------------------------------------------------------

    def append(self, kind: str, value: Any) -> None:
        line = json.dumps([kind, value]).encode() + b"\n"
        with self.changed:
            self._take(kind, json.loads(line)[1])
            self._unwritten += line
            self._write()
            self.changed.notify_all()

    def _take(self, kind: str, value: Any) -> None:
        self.entries.append((kind, value))
        if kind == "metrics":
            for key, number, _, step in value:
                self.points.add((key, step))
                self.latest[key] = number

    def _write(self) -> None:
        path = self.folder / "journal.jsonl"
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                end = os.lseek(handle, 0, os.SEEK_END)
                try:
                    written = os.write(handle, self._unwritten)
                    if written < len(self._unwritten):
                        raise OSError(28, "No space left on device")
                except OSError:
                    os.ftruncate(handle, end)  # no half lines
                    raise
            finally:
                os.close(handle)
            self._unwritten = b""
        except OSError as error:
            if not self._warned:
                self._warned = True
                print(f"Warning: {path}: {error.strerror or error}", file=sys.stderr)

    @property
    def is_whole(self) -> bool:
        """Whether all of it is on disk."""
        return not self._unwritten

    def mark_sent(self, count: int) -> None:
        with self.changed:
            self.sent = count
        _write_atomically(self.folder / "sent", str(count))

    def describe(self, **facts: Any) -> None:
        """Adds to what is known of the run."""
        self.facts |= facts
        _write_atomically(self.folder / "run.json", json.dumps(self.facts, indent=1))

    def sync(self) -> None:
        """Makes sure that what was written survives a power failure."""
        path = self.folder / "journal.jsonl"
        if path.exists():
            with path.open("rb") as file:
                os.fsync(file.fileno())

    # ---- Files -------------------------------------------------------------------------------

    def file(self, artifact: str) -> Path:
        """Where an artifact lies until it is sent; its folder is made."""
        path = self.folder / "artifacts" / artifact
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def read_facts(folder: Path) -> dict[str, Any]:
    facts = json.loads((folder / "run.json").read_text())
    if not isinstance(facts, dict) or facts.get("id") != folder.name:
        raise ValueError("run.json is another run's")
    return facts


def left(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folders of runs that MLflow does not have all of, those of living runs among them."""
    for path in sorted(root.glob("*/run.json")):
        try:
            yield path.parent, read_facts(path.parent)
        except (OSError, ValueError):
            continue


def find(root: Path, run_id: str) -> tuple[Path, dict[str, Any]] | None:
    """The folder of a run and its facts, by its own id or MLflow's."""
    for folder, facts in left(root):
        if run_id in (facts["id"], facts.get("run_id")):
            return folder, facts
    return None


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)
