"""A run's journal -> the tracking store: beside the training, or later by

python -m lenet send
python -m lenet send RUN_ID
"""

import os
import shlex
import shutil
import sys
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import cast

from lenet.config.record import masked
from lenet.tracking import store
from lenet.tracking.journal import FILES, RECORDS, Journal, JournalError, left
from lenet.tracking.store import PARENT_TAG, TrackingError

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between two tries
BETWEEN = 1.0  # seconds from one batch to the next, so that many small ones don't slow the training


class Sender(threading.Thread):
    """Sends what the journal gets, each lane in its order. A store that fails is asked again,
    after longer and longer pauses; whoever writes the journal never waits for it.

    `problem` is why nothing goes out at the moment; `refusal` the same where no waiting will help.
    """

    def __init__(self, journal: Journal, uri: str | None, again: bool = False) -> None:
        super().__init__(daemon=True, name="sender")
        self.journal = journal
        self.uri = store.resolved(uri)
        self.again = again  # whether an earlier try may have made the run
        self.problem: str | None = None
        self.refusal: TrackingError | None = None
        self.mended: list[str] = []
        self._client: store.MlflowClient | None = None
        self._training = False
        self._closing = False
        self._left = False
        self._begun = threading.Event()

    def run(self) -> None:
        # Of Python's 5 ms, which a step of the training takes half of, and waits after each call.
        sys.setswitchinterval(0.0005)
        pause = FIRST_PAUSE
        while True:
            with self.journal.changed:
                if self._left or (self._closing and self._client and not self.journal.waiting):
                    return
            try:
                self._send()
                self.problem = self.refusal = None
                pause = FIRST_PAUSE
            except Exception as error:  # MLflow's, sqlalchemy's, requests', botocore's ...
                self._failed(error)
            with self.journal.changed:
                self._begun.set()
                if self.refusal and (self._closing or not self._training):
                    return
                if self._closing:
                    self.journal.changed.wait(FIRST_PAUSE if self.problem else 0)
                elif self.problem:
                    self.journal.changed.wait_for(lambda: self._closing, pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                else:
                    self.journal.changed.wait_for(lambda: self._closing or self.journal.waiting)
                    self.journal.changed.wait_for(lambda: self._closing, BETWEEN)

    def _send(self) -> None:
        if self._client is None:
            self._begin()
        problem = None
        for lane, to_the_end in ((RECORDS, False), (FILES, True), (RECORDS, True)):
            try:
                while self._next(lane) and not self._left:
                    if self._next(lane) == "status" and not to_the_end:
                        break  # a run ends, where it can, with all of its files
                    self._send_next(lane)
            except Exception as error:
                problem = error
        if problem:
            raise problem

    def _next(self, lane: int) -> str | None:
        """The kind of entry that is to go out next."""
        sent, entries = self.journal.sent[lane], self.journal.lanes[lane]
        return entries[sent][0] if sent < len(entries) else None

    def _begin(self) -> None:
        client = cast(store.MlflowClient, store.Patient(store.connect(self.uri)))
        if self.journal.facts["run_id"] is None:
            run_id = store.start_run(client, self.journal, self.again)
            try:
                self.journal.describe(run_id=run_id)
            except OSError:  # in memory at least, and found by its tag later
                self.journal.facts["run_id"] = run_id
        self._client = client
        self._begun.set()
        with suppress(Exception):  # of other runs
            self.mended = store.mend_orphans(client, but=self.journal.facts["run_id"])

    def _send_next(self, lane: int) -> None:
        assert self._client
        with suppress(OSError):
            self.journal.sync()  # what MLflow has must not be lost here, or it would come twice
        waiting = self.journal.lanes[lane][self.journal.sent[lane] :]
        try:
            try:
                count = store.deliver(self._client, self.journal, waiting)
            except store.REFUSALS as error:
                if store.is_passing(error, self.uri):
                    raise
                # What two processes do at once may be refused the first of them.
                count = store.deliver(self._client, self.journal, waiting)
        except store.REFUSALS as error:
            if store.is_passing(error, self.uri):
                raise
            store.check_run(self._client, self.journal.facts["run_id"])
            count = 1  # this entry is wrong in itself; those behind it are not
            print(
                f"Warning: MLflow refuses {waiting[0][0]} ({store.reason(error)})",
                file=sys.stderr,
            )
        if not self._left:  # else the folder may be another process's by now
            with suppress(OSError):
                self.journal.mark_sent(lane, count)

    def _failed(self, error: Exception) -> None:
        self.problem, self.refusal = store.reason(error), None
        self.again = True
        if isinstance(error, TrackingError) and not store.is_passing(error, self.uri):
            self.refusal = error
        elif self._client is None and not store.is_passing(error, self.uri):
            self.refusal = TrackingError(f"tracking.uri={masked(self.uri)}: {self.problem}")

    def wait_for_run(self, seconds: float) -> bool:
        """Whether the run is in the store, once that is known or the time is over. From then on
        no refusal is the last.

        Raises: TrackingError where the store refuses it.
        """
        self._begun.wait(seconds)
        with self.journal.changed:
            if self.refusal:
                raise self.refusal
            self._training = True
            if self.problem is None and self.journal.facts["run_id"] is None:
                self.problem = "no answer in time"
        return self.journal.facts["run_id"] is not None

    def finish(self, seconds: float) -> bool:
        """Whether all was sent, once that is known or the time is over."""
        with self.journal.changed:
            self._closing = True
            self.journal.changed.notify_all()
        self.join(seconds)
        return not self.is_alive() and self.refusal is None

    def leave(self) -> None:
        """Lets no request follow the one that is under way."""
        with self.journal.changed:
            self._left = True
            self.journal.changed.notify_all()


def send(folder: Path, seconds: float) -> str:
    """Sends what a run left in its folder, which is gone after that; says how it went.

    Raises: JournalError where its process is alive; TrackingError where the store doesn't take it.
    """
    journal = Journal.open(folder)
    sender = Sender(journal, journal.facts["uri"], again=True)
    try:
        count = journal.waiting
        statuses = [value[0] for kind, value in journal.entries if kind == "status"]
        if not statuses or statuses[-1] == "RUNNING":
            journal.append("tags", {"error": "its process ended without setting a status"})
            journal.append("status", ["KILLED", int(time.time() * 1000)])
        sender.start()
        if not sender.finish(seconds):
            problem = sender.refusal or sender.problem or "no answer in time"
            raise TrackingError(f"{folder.name}: not sent ({problem})")
        done = f"Sent {count} records of run {journal.facts['run_id']} ({journal.facts['name']})"
    except BaseException:
        sender.leave()
        journal.close()
        raise
    journal.close(remove=True)
    return done


def send_family(run_ids: Collection[str], root: Path, seconds: float) -> None:
    """Sends what dead processes left of a sweep's runs, of which at least the sweep's own is named,
    so that the store knows how far each came. Warns of what it doesn't take.
    """
    for folder, facts in left(root):
        if facts["tags"].get(PARENT_TAG) in run_ids or facts["run_id"] in run_ids:
            try:
                send(folder, seconds)
            except JournalError:  # alive
                continue
            except TrackingError as error:
                print(f"Warning: {error}", file=sys.stderr)


def waiting_root(folder: str | Path | None) -> Path:
    """The folder of the runs' own folders; a relative one lies beside run.py."""
    return store.home() / Path(folder or os.environ.get("LENET_RUNS") or "outputs").expanduser()


def command(folder: Path) -> str:
    """What sends a run's folder later, as it is typed in a shell like this process's."""
    python = "python" if shutil.which("python") == sys.executable else shlex.quote(sys.executable)
    line = f"{python} -m lenet send {folder.name}"
    if waiting_root(None) != folder.parent:
        line += f" --folder {shlex.quote(str(folder.parent))}"
    if store.home() == store.ROOT != Path.cwd():
        line = f"cd {shlex.quote(str(store.ROOT))} && {line}"
    return line
