"""Every moment at which a process can end, as the folder that it would leave."""

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.crash.disk import Disk, File
from tests.crash.effects import Effect

DATABASE, ITS_JOURNAL = "mlflow.db", "mlflow.db-journal"


@dataclass(frozen=True)
class Point:
    """The folder after `n` changes and a crash."""

    n: int
    crash: str
    disk: Disk

    def __str__(self) -> str:
        return f"{self.n}:{self.crash}"


def points(start: Disk, changes: Sequence[Effect]) -> Iterator[Point]:
    """After each change the processes are killed; or they are killed and the run's folder is lost,
    as a cloud's machine is; or the power fails, and what was not synced is lost: of all files of
    the lab, or of one. In the middle of each change of a content they are killed, too.
    """
    disk = start
    for n, change in enumerate([*changes, None]):
        yield Point(n, "kill", disk)
        yield Point(n, "folder lost", disk.without("waiting"))
        lost = [name for name in disk.unsynced() if not name.startswith("mlruns/")]
        yield Point(n, "power", disk.after_power_loss(lost))
        for name in lost:
            yield Point(n, f"power {name}", disk.after_power_loss([name]))
        if change is None:
            return
        if change.kind == "write":
            half = change.content[: len(change.content) // 2]
            yield Point(n, "torn", disk.after(Effect("write", change.path, "", change.at, half)))
        disk = disk.after(change)


class Settler:
    """Has SQLite take back what was not committed, in a folder for that alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[bytes, File] = {}
        folder.mkdir(parents=True)

    def settled(self, disk: Disk) -> Disk:
        """What the next process finds."""
        files = disk.files
        if ITS_JOURNAL not in files:
            return disk
        key = files[DATABASE].digest + files[ITS_JOURNAL].digest
        if key not in self.known:
            for name in (DATABASE, ITS_JOURNAL):
                (self.folder / name).write_bytes(files[name].content)
            with sqlite3.connect(self.folder / DATABASE) as db:
                assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            db.close()
            content = (self.folder / DATABASE).read_bytes()
            self.known[key] = File(content, content)
        return Disk(disk.paths | {DATABASE: self.known[key]}).without(ITS_JOURNAL)


def fingerprint(disk: Disk) -> str:
    """A hash of all that a recovery can depend on: of points with the same one, one is enough."""
    digest = hashlib.sha256()
    for name, file in sorted(disk.paths.items()):
        digest.update(f"{name}\n".encode() + (file.digest if file else b""))
    return digest.hexdigest()
