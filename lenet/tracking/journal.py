"""What a run has to tell, on disk before it is sent anywhere: a folder for each run.

    run.json        whose journal it is, and the id that MLflow gave it
    journal.jsonl   an entry a line: the CRC-32 of what follows, [kind, value]
    sent            how many of them MLflow has: of the records, and of the files
    artifacts/      the files that entries name, under their artifact paths
    checkpoints/    the last states of the training
    model/          the network as an MLflow model

The folder is gone once MLflow has all of it and the run has ended.
"""

import errno
import json
import os
import shutil
import sys
import tempfile
import threading
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lenet.cli import one_line

Entry = tuple[str, Any]
RECORDS, FILES = LANES = (0, 1)  # each goes out in its own order, whether or not the other can
KINDS_OF_FILES = ("artifact", "checkpoint", "model", "register")
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


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
        self.lanes: tuple[list[Entry], list[Entry]] = ([], [])  # the same, in two queues
        self.sent = [0, 0]  # how many of each lane
        self.points: set[tuple[str, int]] = set()  # (metric, step) of all points
        self.latest: dict[str, float] = {}
        self.changed = threading.Condition()
        self._path = folder / "journal.jsonl"
        self._size = 0  # that it has on disk
        self._unwritten = b""
        self._warned = False
        self._spare: Path | None = None
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
            read_facts(folder)  # before the lock, whose file would make a folder that is gone anew
            journal._lock.acquire(timeout=0)
            journal.facts = read_facts(folder)  # until the lock another may have sent it
            journal._read()
        except Timeout:
            raise JournalError(f"{folder.name}: its process is still running") from None
        except (OSError, ValueError) as error:
            journal._lock.release()
            if not (folder / "run.json").exists():  # and the lock made the folder anew
                with suppress(OSError):
                    (folder / ".lock").unlink(missing_ok=True)
                    folder.rmdir()
            reason = error.strerror if isinstance(error, OSError) else error
            raise JournalError(f"{folder}: no journal of a run ({reason})") from None
        return journal

    def _read(self) -> None:
        """Lines that a kill tore or the disk damaged are left out. As `sent` may count such lines,
        all is then sent again, which doubles nothing.
        """
        content = self._path.read_bytes() if self._path.exists() else b""
        *lines, torn = content.split(b"\n")
        self._size = len(content) - len(torn)
        if torn:  # its process was killed while it wrote
            os.truncate(self._path, self._size)
        damaged = 0
        for line in lines:
            try:
                self._take(*_entry(line))
            except ValueError:
                damaged += 1
        if damaged:
            print(f"Warning: {self._path}: {damaged} damaged lines are left out", file=sys.stderr)
        with suppress(OSError, ValueError):
            sent = [int(count) for count in (self.folder / "sent").read_text().split()]
            lengths = [len(entries) for entries in self.lanes]
            if not damaged and all(0 <= n <= m for n, m in zip(sent, lengths, strict=True)):
                self.sent = sent
        if self.sent == [0, 0]:  # else lines that come could be taken for those it counted
            (self.folder / "sent").unlink(missing_ok=True)

    def close(self, remove: bool = False) -> None:
        """Lets go of the folder; `remove` deletes it too."""
        if remove:
            # First what makes it a run's: a kill in the midst of this must not leave half a run.
            with suppress(OSError):
                (self.folder / "run.json").unlink(missing_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)
        if self._spare:
            shutil.rmtree(self._spare, ignore_errors=True)
        self._lock.release(force=True)

    # ---- Entries -----------------------------------------------------------------------------

    def append(self, kind: str, value: Any) -> None:
        line = _line((kind, value))
        with self.changed:
            self._take(*_entry(line))
            self._unwritten += line + b"\n"
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
            handle = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                if os.fstat(handle).st_size != self._size:  # somebody removed or cut it
                    os.ftruncate(handle, 0)
                    self._size = 0
                    self._unwritten = b"".join(_line(entry) + b"\n" for entry in self.entries)
                try:
                    os.lseek(handle, self._size, os.SEEK_SET)
                    written = os.write(handle, self._unwritten)
                    if written < len(self._unwritten):
                        raise OSError(errno.ENOSPC, "No space left on device")
                except OSError:
                    os.ftruncate(handle, self._size)  # no half lines
                    raise
            finally:
                os.close(handle)
            self._size += len(self._unwritten)
            self._unwritten = b""
        except OSError as error:
            if not self._warned:
                self._warned = True
                print(f"Warning: {self._path}: {error.strerror or error}", file=sys.stderr)

    def save(self) -> bool:
        """Once more tries to have all of it in the folder, for another process. Returns: whether
        it is.
        """
        with self.changed:
            self._write()
            whole = not self._unwritten
        try:
            self.describe()
            if self._spare:
                shutil.copytree(self._spare, self.folder, dirs_exist_ok=True)
        except OSError:
            return False
        return whole

    @property
    def waiting(self) -> int:
        """How many entries MLflow does not have."""
        return len(self.entries) - sum(self.sent)

    def mark_sent(self, lane: int, count: int) -> None:
        """Of what waits in a lane, the first `count` are out."""
        with self.changed:
            self.sent[lane] += count
        _write_atomically(self.folder / "sent", " ".join(map(str, self.sent)))

    def describe(self, **facts: Any) -> None:
        """Adds to what is known of the run."""
        self.facts |= facts
        # For its owner alone: the store's address may hold a password.
        _write_atomically(self.folder / "run.json", json.dumps(self.facts, indent=1), 0o600)

    def sync(self) -> None:
        """Makes sure that what was written survives a power failure."""
        with self._path.open("rb") as file:
            os.fsync(file.fileno())

    # ---- Files -------------------------------------------------------------------------------

    def file(self, artifact: str) -> Path:
        """Where an artifact lies until it is sent; its folder is made."""
        path = self.place(f"artifacts/{artifact}")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def place(self, name: str) -> Path:
        """Where `write` put it."""
        if self._spare and (self._spare / name).exists():
            return self._spare / name
        return self.folder / name

    def write(self, name: str, make: Callable[[Path], Any]) -> None:
        """Has `make` fill the file or the folder at the path it is given; where the disk is full,
        one on the disk of temporary files.
        """
        try:
            self._make(self.folder / name, make)
        except (OSError, RuntimeError) as error:  # the latter is torch's
            if isinstance(error, OSError) and error.errno not in FULL:
                raise
            self._spare = self._spare or Path(tempfile.mkdtemp(prefix="lenet-"))
            self._make(self._spare / name, make)

    def _make(self, path: Path, make: Callable[[Path], Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            make(path)
        except BaseException:
            _remove(path)  # half a file
            raise


def _line(entry: Entry) -> bytes:
    text = json.dumps(list(entry)).encode()
    return b"%08x %s" % (zlib.crc32(text), text)


def _entry(line: bytes) -> Entry:
    """Raises: ValueError where the line is not as it was written."""
    digest, _, text = line.partition(b" ")
    if digest != b"%08x" % zlib.crc32(text):
        raise ValueError("damaged")
    kind, value = json.loads(text)
    return kind, value


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
        except FileNotFoundError:  # sent by now
            continue
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            where = one_line(path.parent)
            print(f"Warning: {where}: no journal of a run ({reason})", file=sys.stderr)


def find(root: Path, run_id: str) -> tuple[Path, dict[str, Any]] | None:
    """The folder of a run and its facts, by its own id or MLflow's."""
    for folder, facts in left(root):
        if run_id in (facts["id"], facts.get("run_id")):
            return folder, facts
    return None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _write_atomically(path: Path, text: str, mode: int = 0o666) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with open(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)  # else a power failure may leave the new name of an empty file
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
