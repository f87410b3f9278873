"""Sends a run's journal to MLflow: in a thread during the training, or later."""

import os
import shlex
import shutil
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from lenet.config.record import masked
from lenet.tracking.client import (
    HEARTBEAT_TAG,
    REFUSALS,
    ROOT,
    TrackingError,
    connect,
    home,
    is_passing,
    reason,
    resolved,
)
from lenet.tracking.deliver import deliver, mark_dead_runs, start_run
from lenet.tracking.journal import FILES, RECORDS, Journal
from lenet.tracking.provenance import process_identity
from lenet.tracking.turns import BEAT_SECONDS, Outdated, check_run, take_turn

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between two tries
BETWEEN = 1.0  # seconds between two batches: many small ones would slow the training down


class Sender(threading.Thread):
    """Sends what is appended to the journal, each queue in its order. After a failure it tries
    again, after longer and longer pauses. Whoever writes the journal never waits for it.

    `problem` says why nothing can be sent at the moment, `refusal` why no waiting will help.
    """

    def __init__(self, journal: Journal, uri: str | None, may_exist: bool = False) -> None:
        super().__init__(daemon=True, name="sender")
        self.journal = journal
        self.uri = resolved(uri)
        self.may_exist = may_exist  # whether an earlier try may have created the run
        self.sent = [0, 0]  # how many entries of each queue MLflow has taken
        self.problem: str | None = None
        self.refusal: TrackingError | None = None
        self.marked_dead: list[str] = []  # other runs, whose processes have died
        self._client: MlflowClient | None = None
        self._last_check = 0.0  # by the clock on the wall, which a sleeping laptop does not stop
        self._is_training = False
        self._is_closing = False
        self._is_stopped = False
        self._has_tried = threading.Event()

    @property
    def waiting(self) -> int:
        """How many entries MLflow does not have."""
        return len(self.journal.entries) - sum(self.sent)

    def run(self) -> None:
        # Python's 5 ms are half of a training step, and this thread takes them after each call.
        sys.setswitchinterval(0.0005)
        pause, changed = FIRST_PAUSE, self.journal.changed
        while not self._is_done():
            try:
                self._send()
                self.problem = self.refusal = None
                pause = FIRST_PAUSE
            except Exception as error:  # MLflow's, sqlalchemy's, requests', botocore's ...
                self._fail(error)
            with changed:
                self._has_tried.set()
                if self.refusal and (self._is_closing or not self._is_training):
                    return
                if self._is_closing:
                    changed.wait(FIRST_PAUSE if self.problem else 0)
                elif self.problem:
                    changed.wait_for(lambda: self._is_closing, pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                else:
                    changed.wait_for(lambda: self._is_closing or self.waiting, BEAT_SECONDS)
                    changed.wait_for(lambda: self._is_closing, BETWEEN)

    def _is_done(self) -> bool:
        with self.journal.changed:
            is_sent = self._is_closing and self._client and not self.waiting
            return self._is_stopped or bool(is_sent)

    def _send(self) -> None:
        if self._client is None:
            self._client = self._begin()
            self._has_tried.set()
            with suppress(Exception):  # of other runs
                but = self.journal.facts.run_id
                self.marked_dead = mark_dead_runs(self._client, but)
        if abs(time.time() - self._last_check) > BEAT_SECONDS:
            # Its turn may be over: a laptop that slept for an hour has been taken for dead.
            self._beat(self._client, check_run(self._client, self.journal.facts))
            self._last_check = time.time()
        problem = None
        for lane, with_status in ((RECORDS, False), (FILES, True), (RECORDS, True)):
            try:
                while (kind := self._next_kind(lane)) and not self._is_stopped:
                    if kind == "status" and not with_status:
                        break  # if possible a run ends after its files are there
                    self._send_next(lane)
            except Exception as error:
                problem = error
        if problem:
            raise problem

    def _next_kind(self, lane: int) -> str | None:
        sent, entries = self.sent[lane], self.journal.lanes[lane]
        return entries[sent][0] if sent < len(entries) else None

    def _begin(self) -> MlflowClient:
        # A database that was lost is not made anew: it would hold a part of the run.
        client = connect(self.uri, create=self.journal.facts.run_id is None)
        if self.journal.facts.run_id is None:
            run_id = start_run(client, self.journal, self.may_exist)
            with suppress(OSError):  # a full disk: the run is found by its tag later
                self.journal.describe(run_id=run_id)
        take_turn(client, self.journal.facts)
        return client

    def _beat(self, client: MlflowClient, run: Run) -> None:
        """Gives a sign of life, if this process trains. It also corrects the status of a run that
        another process took for dead.
        """
        if self._is_closing or self.journal.facts.process != process_identity():
            return
        client.set_tag(run.info.run_id, HEARTBEAT_TAG, str(int(time.time())))
        if run.info.status != "RUNNING":
            client.update_run(run.info.run_id, "RUNNING")

    def _send_next(self, lane: int) -> None:
        assert self._client
        entries = self.journal.lanes[lane][self.sent[lane] :]
        try:
            count = deliver(self._client, self.journal, entries)
        except REFUSALS as error:
            if is_passing(error, self.uri):
                raise
            check_run(self._client, self.journal.facts)
            count = 1  # MLflow refuses this entry; the next ones may be fine
            print(f"Warning: MLflow refuses {entries[0][0]} ({reason(error)})", file=sys.stderr)
        with self.journal.changed:
            self.sent[lane] += count

    def _fail(self, error: Exception) -> None:
        self.problem, self.refusal = reason(error), None
        self.may_exist = True
        if is_passing(error, self.uri):
            return
        if isinstance(error, TrackingError):
            self.refusal = error
        elif self._client is None:
            self.refusal = TrackingError(f"tracking.uri={masked(self.uri)}: {self.problem}")

    def wait_for_run(self, seconds: float) -> bool:
        """Whether the store has the run, as soon as that is known or the time is over. After this
        call a refusal no longer ends the thread.

        Raises: TrackingError where the store refuses the run.
        """
        self._has_tried.wait(seconds)
        with self.journal.changed:
            if self.refusal:
                raise self.refusal
            self._is_training = True
            if self.problem is None and self._client is None:
                self.problem = "no answer in time"
        return self._client is not None

    def finish(self, seconds: float) -> bool:
        """Whether everything is sent, as soon as that is known or the time is over."""
        with self.journal.changed:
            self._is_closing = True
            self.journal.changed.notify_all()
        self.join(seconds)
        return not self.is_alive() and self.refusal is None

    def finish_run(self, seconds: float) -> bool:
        """Waits until everything is sent, up to `seconds` for a store that fails; says where the
        run is; closes the journal. Returns: whether MLflow or the journal has every record.
        """
        is_sent = False
        try:
            is_sent = self.finish(1.0)
            if not is_sent and self.problem:
                print(
                    f"Waiting up to {seconds:.0f} s for the tracking server ({self.problem}); "
                    "Ctrl-C to leave it ...",
                    file=sys.stderr,
                )
            is_sent = is_sent or self.finish(seconds)
        finally:
            self.stop()
            try:
                self._print_end(is_sent)
            finally:
                self.journal.close(remove=is_sent)
        return is_sent or self.journal.is_whole

    def _print_end(self, is_sent: bool) -> None:
        facts, folder = self.journal.facts, self.journal.folder
        if is_sent:
            end = "compare runs with: mlflow ui"
            print(f"MLflow run {facts.run_id} ({facts.name}); {end}", flush=True)
        elif isinstance(self.refusal, Outdated):
            print(f"Warning: {self.refusal}; nothing more is sent of {folder}", file=sys.stderr)
        else:
            why = self.refusal or self.problem or "it is slow"
            kept = "They are safe" if self.journal.is_whole else "Those that the disk took are"
            print(
                f"MLflow has not taken {self.waiting} records of this run ({why}). "
                f"{kept} in {folder}; once the server is back:\n  {send_command(folder)}",
                file=sys.stderr,
            )
        for run_id in self.marked_dead:
            print(f"The process of run {run_id} has died; resume={run_id} continues the run")

    def stop(self) -> None:
        """Sends nothing more after the request that is under way."""
        with self.journal.changed:
            self._is_stopped = True
            self.journal.changed.notify_all()


def waiting_root(folder: str | Path | None) -> Path:
    """The folder that holds the runs' folders. A relative one is taken from where run.py lies."""
    return home() / Path(folder or os.environ.get("LENET_RUNS") or "outputs").expanduser()


def send_command(folder: Path) -> str:
    """The command that sends a run's folder later, for a shell like this process's."""
    python = "python" if shutil.which("python") == sys.executable else shlex.quote(sys.executable)
    line = f"{python} -m lenet send {folder.name}"
    if waiting_root(None) != folder.parent:
        line += f" --folder {shlex.quote(str(folder.parent))}"
    if home() == ROOT != Path.cwd():
        line = f"cd {shlex.quote(str(ROOT))} && {line}"
    return line
