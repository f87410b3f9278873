"""Sends a run's journal from a process of its own, so that the training does not import MLflow.

It imports while the training's process imports torch and reads the data. The two talk in lines of
JSON, through its standard input and output: it gets the lines of the journal as they are appended,
and answers with what has changed for the run. The training's process alone writes the run's folder.
The end of its input ends it at once, so it does not outlive the training's process. Signals that a
terminal or a cluster sends to all processes do not end it: the run's status is still to come.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any

from lenet.tracking import names
from lenet.tracking.journal import Journal
from lenet.tracking.sender.base import Sending

DIED = "the process that sends records to MLflow has died"
# What the run sees of its state, besides the run's id and a refusal.
SHARED = ("sent", "problem", "marked_dead", "page", "has_tried", "has_begun", "is_over")


class SenderProcess(Sending):
    """The process as the run sees it."""

    def __init__(self) -> None:
        super().__init__()
        self._has_stopped = False
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lenet.tracking.sender.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,
        )
        self._write(json.dumps(sys.argv))

    def address_and_tags(self, uri: str | None) -> tuple[str, dict[str, str]]:
        """Waits until the process has imported MLflow. Returns: the full address of the store at
        `uri`, and MLflow's own tags for a new run.

        Raises: TrackingError where the process has died.
        """
        assert self._process.stdout
        self._write(json.dumps(uri))
        if not (line := self._process.stdout.readline()):
            raise names.TrackingError(DIED)
        self.uri, tags = json.loads(line)[1]
        return self.uri, tags

    def begin(self, journal: Journal) -> "SenderProcess":
        """Has the journal sent, and what is appended to it from now on."""
        self.journal = journal
        self._write(json.dumps([str(journal.folder), asdict(journal.facts)]))
        with journal.changed:
            for entry in journal.entries:
                self._write(json.dumps(entry))
            journal.follow = self._write
        threading.Thread(target=self._listen, daemon=True, name="sender").start()
        return self

    def _write(self, line: str) -> None:
        assert self._process.stdin
        with suppress(OSError, ValueError):  # it has died: `_listen` says so; or was stopped
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

    def _listen(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            kind, value = json.loads(line)
            if kind == "print":
                print(value[1], end="", flush=True, file=getattr(sys, value[0]))
            else:
                self._take(**value)
        with self.journal.changed:
            if not (self.is_over or self._has_stopped):
                self.refusal = names.TrackingError(DIED)
            self.has_tried = self.is_over = True
            self.journal.changed.notify_all()

    def _take(self, run_id: str | None, refusal: list[str] | None, **shared: Any) -> None:
        with self.journal.changed:
            if run_id != self.journal.facts.run_id:
                with suppress(OSError):  # a full disk: the run is found by its tag later
                    self.journal.describe(run_id=run_id)
            vars(self).update(shared)
            self.refusal = getattr(names, refusal[0])(refusal[1]) if refusal else None
            self.journal.changed.notify_all()

    def close(self) -> None:
        self._write(json.dumps(["close", None]))

    def stop(self) -> None:
        assert self._process.stdin
        self._has_stopped = True
        with suppress(OSError):
            self._process.stdin.close()
        if not self.has_tried:  # it may be importing still
            self._process.kill()
        self._process.wait()


@contextmanager
def sender_process(config: Mapping[str, Any]) -> Iterator[SenderProcess | None]:
    """A process that sends the new run of this configuration, which need not be checked yet. None
    where this process has imported MLflow, or will: to find an earlier run.
    """
    if "mlflow" in sys.modules or config.get("resume") or config.get("rerun"):
        yield None
        return
    process = SenderProcess()
    try:
        yield process
    finally:
        process.stop()
