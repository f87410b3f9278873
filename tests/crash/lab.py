"""A lab in which commands are typed and processes die, and what its store holds."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.conftest import ROOT, copy_store
from tests.crash import effects
from tests.crash.disk import Disk
from tests.crash.effects import Effect
from tests.crash.typist import Typist
from tests.support.lab import checkpoint_bits
from tests.support.servers import Proxy, Server

SMALL = ["data=digits", "device.threads=1", "epochs=3", "data.val_size=100", "log_interval=10"]
TIMED = ("seconds/", "images_per_second")
Run = dict[str, Any]


@dataclass(frozen=True)
class Lab:
    """A folder with a store. The same commands leave the same runs in it."""

    folder: Path
    typist: Typist
    library: Path
    env: dict[str, str]  # set for each command

    @classmethod
    def at(cls, folder: Path, typist: Typist, library: Path) -> "Lab":
        uri, runs = f"sqlite:///{folder / 'mlflow.db'}", str(folder / "waiting")
        return cls(folder, typist, library, {"MLFLOW_TRACKING_URI": uri, "LENET_RUNS": runs})

    @property
    def waiting(self) -> Path:
        return Path(self.env["LENET_RUNS"])

    @contextmanager
    def served(self) -> Iterator[tuple["Lab", Proxy]]:
        """The same lab with a server for its database, and a proxy in front of the server."""
        folder = self.folder.with_name("server")
        folder.mkdir()
        with Server(folder, self.env["MLFLOW_TRACKING_URI"]) as server, Proxy(server.url) as proxy:
            env = {"MLFLOW_TRACKING_URI": proxy.url, "MLFLOW_HTTP_REQUEST_TIMEOUT": "2"}
            yield replace(self, env=self.env | env), proxy

    def begin(self, empty_store: Path) -> Disk:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        copy_store(empty_store, self.folder)
        return Disk.of(self.folder)

    def type(self, *command: str, env: Mapping[str, str] = {}) -> tuple[int, str]:
        """Exit status and output of `run.py ...` or `-m lenet ...`."""
        return self.typist.type(self.folder, {**self.env, **env}, *command)

    def tell(self, story: list[str], *command: str, env: Mapping[str, str] = {}) -> tuple[int, str]:
        """Types it, and adds to the story what was seen."""
        status, text = self.type(*command, env=env)
        story.append(f"$ {' '.join(command)}\n{text}[exit status {status}]")
        return status, text

    def recorded(self, *command: str) -> list[Effect]:
        """The changes of a command that nobody touches, in processes of its own as users have."""
        log = self.folder.with_suffix(".log")
        log.unlink(missing_ok=True)
        watched = effects.watched(self.library, self.folder, log)
        env = {**os.environ, **self.env, **watched, "PYTHONPATH": str(ROOT)}
        words = [str(ROOT / each) if each == "run.py" else each for each in command]
        done = subprocess.run(
            [sys.executable, *words], cwd=self.folder, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return effects.read(log, self.folder)

    def unfinished(self) -> str | None:
        """The id of the run that a user would resume: one that runs by the store's word, else one
        with a folder here.
        """
        running = [run["id"] for run in self.runs() if run["status"] == "RUNNING"]
        facts = [json.loads(path.read_text()) for path in self.waiting.glob("*/run.json")]
        return next(iter([*running, *(each["run_id"] or each["id"] for each in facts)]), None)

    def runs(self) -> list[Run]:
        """What the store has of each run, the newest first. MLflow's own code has no part in it."""
        with sqlite3.connect(self.folder / "mlflow.db") as db:
            rows = (
                "SELECT run_uuid, status, artifact_uri FROM runs WHERE lifecycle_stage = 'active' "
                "ORDER BY start_time DESC"
            )
            served = self.folder.with_name("server") / "artifacts"
            found = [_run(db, served, *row) for row in db.execute(rows).fetchall()]
        db.close()
        return found


def _run(db: sqlite3.Connection, served: Path, run_id: str, status: str, uri: str) -> Run:
    def rows(what: str) -> list[Any]:
        return db.execute(f"SELECT {what} = ?", [run_id]).fetchall()

    points: dict[str, list[Any]] = {}
    for key, step, value in rows("key, step, value FROM metrics WHERE run_uuid"):
        points.setdefault(key, []).append((step, 0 if key.startswith(TIMED) else value))
    tags = dict(rows("key, value FROM tags WHERE run_uuid"))
    params = dict(rows("key, value FROM params WHERE run_uuid"))
    folder = Path(uri.removeprefix("file://"))
    if uri.startswith("mlflow-artifacts:"):
        folder = served / uri.removeprefix("mlflow-artifacts:/")
    models = "status FROM logged_models WHERE lifecycle_stage = 'active' AND source_run_id"
    return {
        "id": run_id,
        "folder": tags.get("lenet.id"),
        "status": status,
        "weights": tags.get("lenet.weights.sha256"),
        "points": {key: sorted(found) for key, found in points.items()},
        "params": {key: text for key, text in params.items() if not key.startswith("lenet.turn.")},
        "tags": sorted(tags.keys() - {"lenet.resumed", "lenet.heartbeat"}),
        "data sets": rows("count(*) FROM inputs WHERE destination_id")[0][0],
        "models": [state for (state,) in rows(models)],
        "versions": rows("name, version FROM model_versions WHERE run_id"),
        # MLflow leaves the file that it was writing. The checkout may change while the tests run.
        "artifacts": sorted(
            f"{each.relative_to(folder)}{'' if each.stat().st_size else ' (empty)'}"
            for each in folder.rglob("*")
            if each.is_file()
            and not each.name.startswith((".artifact.uploading", "uncommitted.patch"))
        ),
        "checkpoints": [checkpoint_bits(each) for each in sorted(folder.glob("*.pt"))],
        "job": tags.get("lenet.sweep.job"),
    }


def doubled(run: Run) -> list[str]:
    """The points that a run has more than once."""
    counts = Counter((key, step) for key, found in run["points"].items() for step, _ in found)
    return [f"{key} at step {step}" for (key, step), count in counts.items() if count > 1]


def differences(run: Run, expected: Run) -> list[str]:
    """What is not the same, but for the run's ids."""
    return [
        f"{what}: {str(run[what])[:400]}, expected {str(expected[what])[:400]}"
        for what in expected
        if what not in ("id", "folder") and run[what] != expected[what]
    ]
