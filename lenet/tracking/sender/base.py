"""The sending of a run's journal, as the run sees it."""

import sys

from lenet.tracking.journal import Journal
from lenet.tracking.names import Outdated, TrackingError, send_command


class Sending:
    """Whoever writes a journal never waits for those who send it to the store at `uri`.

    They are a thread (`Sender`), or a process of its own (`SenderProcess`), which changes the
    values here under the journal's lock. `problem` says why nothing can be sent at the moment,
    `refusal` why no waiting will help.
    """

    journal: Journal
    uri: str

    def __init__(self) -> None:
        self.sent = [0, 0]  # how many entries of each queue MLflow has taken
        self.problem: str | None = None
        self.refusal: TrackingError | None = None
        self.marked_dead: list[str] = []  # a line about each run whose process has died
        self.page = ""  # the address of the run
        self.has_tried = self.has_begun = self.is_over = False

    @property
    def waiting(self) -> int:
        """How many entries MLflow does not have."""
        return len(self.journal.entries) - sum(self.sent)

    def close(self) -> None:
        """Ends the sending once everything is sent."""
        raise NotImplementedError

    def stop(self) -> None:
        """Sends nothing more after the request that is under way."""
        raise NotImplementedError

    def wait_for_run(self, seconds: float) -> bool:
        """Whether the store has the run, as soon as that is known or the time is over.

        Raises: TrackingError where the store refuses the run. Nothing is sent then.
        """
        with self.journal.changed:
            self.journal.changed.wait_for(lambda: self.has_tried, seconds)
            if self.refusal:
                self.stop()
                raise self.refusal
            if self.problem is None and not self.has_begun:
                self.problem = "no answer in time"
        return self.has_begun

    def finish(self, seconds: float) -> bool:
        """Whether everything is sent, as soon as that is known or the time is over."""
        self.close()
        with self.journal.changed:
            self.journal.changed.wait_for(lambda: self.is_over, seconds)
            return self.is_over and self.refusal is None

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
            print(f"MLflow run {facts.run_id}. To look at it:\n{self.page}", flush=True)
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
        print(*self.marked_dead, sep="\n", end="\n" if self.marked_dead else "")
