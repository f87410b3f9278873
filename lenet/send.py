"""A run's journal -> the tracking store: beside the training, or later by

python -m lenet.send
python -m lenet.send RUN_ID
"""

import argparse
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lenet import store
from lenet.journal import Journal, JournalError, left
from lenet.store import TrackingError

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two tries


class Sender(threading.Thread):
    """Sends what the journal gets, in order. A store that fails is asked again, after longer and
    longer pauses; whoever writes the journal never waits for it.

    `problem` is why nothing goes out at the moment; `refusal` why nothing ever will.
    """

    def __init__(self, journal: Journal, uri: str | None, again: bool = False) -> None:
        super().__init__(daemon=True, name="sender")
        self.journal = journal
        self.uri = uri
        self.again = again  # whether an earlier try may have made the run
        self.problem: str | None = None
        self.refusal: TrackingError | None = None
        self.mended: list[str] = []
        self._client: store.MlflowClient | None = None
        self._closing = False
        self._begun = threading.Event()

    def run(self) -> None:
        pause = FIRST_PAUSE
        while self.refusal is None:
            with self.journal.changed:
                if self._closing and self._is_done():
                    return
            try:
                self._send()
                self.problem, pause = None, FIRST_PAUSE
            except Exception as error:  # MLflow's, sqlalchemy's, requests', botocore's ...
                self._failed(error)
            finally:
                self._begun.set()
            with self.journal.changed:
                if self.problem:
                    self.journal.changed.wait(1.0 if self._closing else pause)
                    pause = min(2 * pause, LONGEST_PAUSE)
                elif self._is_done() and not self._closing:
                    self.journal.changed.wait()

    def _is_done(self) -> bool:
        return self.journal.sent == len(self.journal.entries) and bool(self._client)

    def _send(self) -> None:
        if self._client is None:
            client = store.connect(self.uri)
            if self.journal.facts["run_id"] is None:
                run_id = store.start_run(client, self.journal, self.again)
                with suppress(OSError):  # in memory at least, and found by its tag later
                    self.journal.describe(run_id=run_id)
            self._client = client
            self._begun.set()
            self.mended = store.mend_orphans(client, but=self.journal.facts["run_id"])
        while self.journal.sent < len(self.journal.entries):
            with suppress(OSError):
                self.journal.sync()  # what MLflow has must not be lost here, or it would come twice
            waiting = self.journal.entries[self.journal.sent :]
            try:
                count = store.deliver(self._client, self.journal, waiting)
            except store.MlflowException as error:
                if store.is_passing(error, self._client.tracking_uri) or not self._has_run():
                    raise
                count = 1  # this entry is wrong in itself; those behind it are not
                print(
                    f"Warning: MLflow refuses {waiting[0][0]} ({store.reason(error)})",
                    file=sys.stderr,
                )
            with suppress(OSError):
                self.journal.mark_sent(self.journal.sent + count)

    def _has_run(self) -> bool:
        """Whether the run is there and takes records: who deleted it wants no more of them."""
        assert self._client
        try:
            run = self._client.get_run(self.journal.facts["run_id"])
        except store.MlflowException as error:
            if store.is_passing(error, self._client.tracking_uri):
                raise
            return False
        return bool(run.info.lifecycle_stage == "active")

    def _failed(self, error: Exception) -> None:
        uri = self._client.tracking_uri if self._client else self.uri or store.own_uri()
        self.problem = store.reason(error)
        self.again = True
        if not store.is_passing(error, uri):
            named = isinstance(error, TrackingError)
            text = str(error) if named else f"tracking.uri={uri}: {self.problem}"
            self.refusal = TrackingError(text)

    def wait_for_run(self, seconds: float) -> bool:
        """Whether the run is in the store, once that is known or the time is over.

        Raises: TrackingError where the store refuses it.
        """
        self._begun.wait(seconds)
        if self.refusal:
            raise self.refusal
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


def send(folder: Path, seconds: float) -> str:
    """Sends what a run left in its folder, which is gone after that; says how it went.

    Raises: JournalError where its process is alive; TrackingError where the store doesn't take it.
    """
    journal = Journal.open(folder)
    try:
        count = len(journal.entries) - journal.sent
        statuses = [value[0] for kind, value in journal.entries if kind == "status"]
        if not statuses or statuses[-1] == "RUNNING":
            journal.append("tags", {"error": "its process ended without setting a status"})
            journal.append("status", ["KILLED", int(time.time() * 1000)])
        sender = Sender(journal, journal.facts["uri"], again=True)
        sender.start()
        if not sender.finish(seconds):
            problem = sender.refusal or sender.problem or "no answer in time"
            raise TrackingError(f"{folder.name}: not sent ({problem})")
        done = f"Sent {count} records of run {journal.facts['run_id']} ({journal.facts['name']})"
    except BaseException:
        journal.close()
        raise
    journal.close(remove=True)
    return done


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m lenet.send",
        description="Sends the records that the tracking server did not take while their runs "
        "were training. What was sent before is not doubled.",
        epilog="Example: python -m lenet.send",
    )
    parser.add_argument("runs", metavar="RUN_ID", nargs="*", help="default: all that wait")
    parser.add_argument("--folder", type=Path, default=None, help="where they wait")
    parser.add_argument("--wait", type=float, default=60.0, help="seconds for each (default: 60)")
    options = parser.parse_args(argv)
    root = waiting_root(options.folder)
    there = {facts["id"]: folder for folder, facts in left(root)}
    there |= {facts["run_id"]: folder for folder, facts in left(root) if facts.get("run_id")}
    status = 0
    for run_id in options.runs or [facts["id"] for _, facts in left(root)]:
        try:
            if run_id not in there:
                raise JournalError(f"{run_id[:80]!r}: no such run waits in {root}")
            print(send(there[run_id], options.wait))
        except (JournalError, TrackingError) as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
    if not options.runs and not there:
        print(f"Nothing waits in {root}.")
    return status


def waiting_root(folder: str | Path | None) -> Path:
    """The folder of the runs' own folders; a relative one lies beside run.py."""
    import os

    return store.home() / Path(folder or os.environ.get("LENET_RUNS") or "outputs").expanduser()


if __name__ == "__main__":
    sys.exit(main())
