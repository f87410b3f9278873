"""Sends a run's journal to MLflow: during the training, or later."""

import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient

from lenet.config.record import masked
from lenet.tracking.client import REFUSALS, connect, is_passing, page_lines, reason, resolved
from lenet.tracking.deliver import (
    delete_twins,
    deliver,
    mark_dead_runs,
    start_run,
    stored_points,
)
from lenet.tracking.journal import FILES, RECORDS, Journal
from lenet.tracking.names import TrackingError
from lenet.tracking.sender.base import Sending
from lenet.tracking.turns import BEAT_SECONDS, beat, check_run, take_turn
from lenet.tracking.variables import start_monitor

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between two tries
BETWEEN = 1.0  # seconds between two batches: many small ones would slow the training down


class Sender(Sending, threading.Thread):
    """Sends what is appended to the journal, each queue in its order. After a failure it tries
    again, after longer and longer pauses. `is_training` is true while the run's process trains.
    """

    def __init__(
        self,
        journal: Journal,
        uri: str | None,
        may_exist: bool = False,
        is_training: bool = False,
    ) -> None:
        threading.Thread.__init__(self, daemon=True, name="sender")
        Sending.__init__(self)
        self.journal = journal
        self.uri = resolved(uri)
        self.may_exist = may_exist  # whether an earlier try may have created the run
        self.is_training = is_training
        self.stored_status = ""  # the run's in MLflow, before anything is sent
        self.on_change: Callable[[], None] = lambda: None
        self._client: MlflowClient | None = None
        self._monitor: SystemMetricsMonitor | None = None
        self._may_have_twin = False
        self._last_check = 0.0  # by the clock on the wall, which a sleeping laptop does not stop
        self._is_closing = False
        self._is_stopped = False

    def run(self) -> None:
        # Python's 5 ms are half of a training step, and this thread takes them after each call.
        sys.setswitchinterval(0.0005)
        try:
            self._send_until_done()
        finally:
            self.is_over = True
            self.tell()

    def tell(self) -> None:
        """Says that something has changed."""
        with self.journal.changed:
            self.journal.changed.notify_all()
        self.on_change()

    def _send_until_done(self) -> None:
        pause, changed = FIRST_PAUSE, self.journal.changed
        while not self._is_done():
            try:
                self._send()
                self.problem = self.refusal = None
                pause = FIRST_PAUSE
            except Exception as error:  # MLflow's, sqlalchemy's, requests', botocore's ...
                self._fail(error)
            self.has_tried = True
            self.tell()
            with changed:
                if self.refusal and self._is_closing:
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
            is_sent = self._client and not self.waiting and not self._may_have_twin
            return self._is_stopped or bool(is_sent and self._is_closing)

    def _send(self) -> None:
        if self._client is None:
            self._client = self._begin()
            self.has_begun = self.has_tried = True
            self.tell()
            with suppress(Exception):  # of other runs
                but = self.journal.facts.run_id
                self.marked_dead = mark_dead_runs(self._client, but)
        self._check_turn()
        problem = None
        for lane, with_status in ((RECORDS, False), (FILES, True), (RECORDS, True)):
            try:
                while (kind := self._next_kind(lane)) and not self._is_stopped:
                    if kind == "status" and not with_status:
                        break  # if possible a run ends after its files are there
                    self._check_turn()
                    self._send_next(lane)
            except Exception as error:
                problem = error
        if problem:
            raise problem
        if self._may_have_twin and self._is_closing:  # as late as possible
            delete_twins(self._client, self.journal)
            self._may_have_twin = False

    def _check_turn(self) -> None:
        """Once a minute: another process may have the turn after a laptop has slept for an hour."""
        if abs(time.time() - self._last_check) <= BEAT_SECONDS:
            return
        assert self._client
        run = check_run(self._client, self.journal.facts)
        self.page = page_lines(self.uri, run.info.experiment_id, run.info.run_id)
        if self.is_training and not self._is_closing:
            beat(self._client, run)
        self._last_check = time.time()

    def _next_kind(self, lane: int) -> str | None:
        sent, entries = self.sent[lane], self.journal.lanes[lane]
        return entries[sent][0] if sent < len(entries) else None

    def _begin(self) -> MlflowClient:
        # A database that was lost is not made anew: it would hold a part of the run.
        client = connect(self.uri, create=self.journal.facts.run_id is None)
        if self.journal.facts.run_id is None:
            run_id = start_run(client, self.journal, self.may_exist)
            self._may_have_twin = self.may_exist
            with suppress(OSError):  # a full disk: the run is found by its tag later
                self.journal.describe(run_id=run_id)
        facts = self.journal.facts
        run = check_run(client, facts)
        self.stored_status = run.info.status
        if facts.earlier:
            take_turn(client, run, facts.process)
            # After that, because until then another process may send some.
            self.journal.stored = stored_points(client, run.info.run_id)
        if self.is_training:
            self._monitor = start_monitor(run.info.run_id, self.uri, self.may_exist)
        return client

    def _send_next(self, lane: int) -> None:
        assert self._client
        entries = self.journal.lanes[lane][self.sent[lane] :]
        try:
            count = deliver(self._client, self.journal, entries)
        except REFUSALS as error:
            # A database that can't be opened may have a wrong address, but not once it has the run.
            is_away = getattr(error, "error_code", "") == "TEMPORARILY_UNAVAILABLE"
            if is_away or is_passing(error, self.uri):
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

    def close(self) -> None:
        with self.journal.changed:
            self._is_closing = True
            self.journal.changed.notify_all()
        if self._monitor:
            self._monitor.finish()
            self._monitor = None

    def stop(self) -> None:
        with self.journal.changed:
            self._is_stopped = True
            self.journal.changed.notify_all()
