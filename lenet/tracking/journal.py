"""The journal of a run: everything that MLflow shall get, on disk before it is sent.

Each run has a folder of its own:

    run.json        whose journal it is (`Facts`), with the id that MLflow gave the run
    journal.jsonl   one entry a line: [kind, value]
    sent            how many entries MLflow has: of the records, and of the files
    artifacts/      the files that entries name, under their artifact paths
    checkpoints/    the last states of the training
    model/          the network as an MLflow model

The folder is removed once the run has ended and MLflow has everything.
"""

import errno
import json
import os
import shutil
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lenet.cli import one_line

Entry = tuple[str, Any]
RECORDS, FILES = LANES = (0, 1)  # two queues: files that can't be sent don't hold records back
KINDS_OF_FILES = ("artifact", "checkpoint", "model", "register")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what a full disk answers


class JournalError(ValueError):
    """A run's folder that can't be used: one line that says which, and why."""


@dataclass(frozen=True)
class Facts:
    """What identifies a run. `id` is the name of its folder, `run_id` MLflow's id once there is
    one; `uri` is the address of the store, `start_time` in milliseconds.
    """

    id: str
    uri: str | None
    experiment: str
    name: str
    start_time: int
    process: str
    tags: dict[str, str]
    run_id: str | None = None

    @staticmethod
    def read(folder: Path) -> "Facts":
        """Raises: OSError or ValueError where `folder` holds no run."""
        try:
            facts = Facts(**json.loads((folder / "run.json").read_text()))
        except TypeError:
            raise ValueError("run.json is not as expected") from None
        if facts.id != folder.name:
            raise ValueError("run.json belongs to another folder")
        return facts


class Journal:
    """The entries of a run, in order. One thread may append while another reads.

    A full disk costs a warning: entries that could not be written stay in memory, are sent from
    there, and are written as soon as there is room.
    """

    def __init__(self, folder: Path, facts: Facts) -> None:
        self.folder = folder
        self.facts = facts
        self.entries: list[Entry] = []
        self.lanes: tuple[list[Entry], list[Entry]] = ([], [])  # the same entries, in two queues
        self.sent = [0, 0]  # how many of each queue MLflow has
        self.points: set[tuple[str, int]] = set()  # (metric, step) of all points
        self.latest: dict[str, float] = {}
        self.changed = threading.Condition()
        self._path = folder / "journal.jsonl"
        self._size = 0  # bytes of whole lines on disk
        self._unwritten = b""
        self._has_warned = False
        self._lock = FileLock(folder / ".lock", thread_local=False)

    # ---- Open and close ----------------------------------------------------------------------

    @classmethod
    def create(cls, root: Path, facts: Facts) -> "Journal":
        """A journal in a new folder below `root`. Raises: JournalError."""
        facts = replace(facts, id=uuid.uuid4().hex)
        journal = cls(root / facts.id, facts)
        try:
            journal.folder.mkdir(parents=True)
            journal._lock.acquire(timeout=0)
            journal._write_facts()
        except OSError as error:
            shutil.rmtree(journal.folder, ignore_errors=True)
            raise JournalError(
                f"tracking.folder={root}: cannot be written ({error.strerror or error})"
            ) from None
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
        except (OSError, ValueError) as error:
            raise _no_journal(folder, error) from None
        try:
            journal.facts = Facts.read(folder)  # another process may have sent the run meanwhile
            journal._read()
        except (OSError, ValueError) as error:
            journal._lock.release()
            raise _no_journal(folder, error) from None
        return journal

    def _read(self) -> None:
        content = self._path.read_bytes() if self._path.exists() else b""
        *lines, torn = content.split(b"\n")
        self._size = len(content) - len(torn)
        if torn:  # its process was killed while it wrote the line
            os.truncate(self._path, self._size)
        for line in lines:
            kind, value = json.loads(line)
            self._take(kind, value)
        counts = self.folder / "sent"
        if counts.exists():
            sent = [int(count) for count in counts.read_text().split()]
            if all(n <= len(lane) for n, lane in zip(sent, self.lanes, strict=True)):
                self.sent = sent
            else:  # entries were sent that a full disk did not take: send all of them again
                counts.unlink()

    def close(self, remove: bool = False) -> None:
        """Releases the folder, or removes it."""
        if remove:
            with suppress(OSError):  # first: without run.json the rest counts for nothing
                (self.folder / "run.json").unlink(missing_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release(force=True)

    # ---- Entries -----------------------------------------------------------------------------

    def append(self, kind: str, value: Any) -> None:
        line = json.dumps([kind, value])
        with self.changed:
            self._take(kind, json.loads(line)[1])  # just as another process would read it
            self._unwritten += line.encode() + b"\n"
            self._write()
            self.changed.notify_all()

    def _take(self, kind: str, value: Any) -> None:
        self.entries.append((kind, value))
        self.lanes[FILES if kind in KINDS_OF_FILES else RECORDS].append((kind, value))
        if kind == "metrics":
            for key, number, _, step in value:
                self.points.add((key, step))
                self.latest[key] = number

    def _write(self) -> None:
        try:
            with self._path.open("ab", buffering=0) as file:
                try:
                    if file.write(self._unwritten) < len(self._unwritten):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    file.truncate(self._size)  # no part of a line stays
                    raise
            self._size += len(self._unwritten)
            self._unwritten = b""
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                print(f"Warning: {self._path}: {error.strerror or error}", file=sys.stderr)

    def save(self) -> bool:
        """Tries once more to write what a full disk did not take. Returns: whether all of it is
        on disk now.
        """
        try:
            self._write_facts()
        except OSError:
            return False
        with self.changed:
            self._write()
            return not self._unwritten

    def sync(self) -> None:
        """Makes the entries survive a power failure."""
        with self._path.open("rb") as file:
            os.fsync(file.fileno())

    @property
    def waiting(self) -> int:
        """How many entries MLflow does not have."""
        return len(self.entries) - sum(self.sent)

    def mark_sent(self, lane: int, count: int) -> None:
        """Counts the next entries of a queue as sent."""
        with self.changed:
            self.sent[lane] += count
        _write_atomically(self.folder / "sent", " ".join(map(str, self.sent)))

    def describe(self, **changes: Any) -> None:
        """Changes the facts, in memory in any case. Raises: OSError where the disk is full."""
        self.facts = replace(self.facts, **changes)
        self._write_facts()

    def _write_facts(self) -> None:
        # For its owner alone: the store's address may hold a password.
        text = json.dumps(asdict(self.facts), indent=1)
        _write_atomically(self.folder / "run.json", text, mode=0o600)

    # ---- Files -------------------------------------------------------------------------------

    def file(self, artifact: str) -> Path:
        """Where an artifact lies until it is sent."""
        return self.folder / "artifacts" / artifact

    def write(self, path: Path, make: Callable[[Path], Any]) -> None:
        """Calls `make` with the path of the file or folder that it shall write. Nothing stays of
        it where it fails.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            make(path)
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
        except (OSError, ValueError) as error:
            print(f"Warning: {_no_journal(path.parent, error)}", file=sys.stderr)


def find_journal(root: Path, run_id: str) -> tuple[Path, Facts] | None:
    """A run's folder and facts, by the id of its folder or of MLflow."""
    for folder, facts in unfinished(root):
        if run_id in (facts.id, facts.run_id):
            return folder, facts
    return None


def _no_journal(folder: Path, error: Exception) -> JournalError:
    reason = error.strerror if isinstance(error, OSError) else error
    return JournalError(f"{one_line(folder)}: no journal of a run ({reason})")


def _write_atomically(path: Path, text: str, mode: int = 0o666) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)  # else a power failure could leave an empty file under the new name
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
