"""A sweep's own MLflow run, and its children: the runs of the sweep's jobs."""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from lenet.sweeps.jobs import Job
from lenet.tracking.client import Run, experiment_id_of, find_experiment, page_lines
from lenet.tracking.family import log_reused, read_reused
from lenet.tracking.job import JOB_TAG
from lenet.tracking.names import (
    ERROR_TAG,
    PARENT_TAG,
    PROCESS_TAG,
    Outdated,
    TrackingError,
    chosen_experiment,
    given_run,
)
from lenet.tracking.provenance import is_alive, process_identity
from lenet.tracking.read import Summary, points_of, search
from lenet.tracking.turns import BEAT_SECONDS, beat, last_turn, take_turn
from lenet.tracking.variables import adopt_run, context_tags

SWEEP_TAG = "lenet.sweep.sha256"


class ParentRun:
    """The parent run of a sweep, found again by the checksum of its jobs, or by its id.

    Raises: TrackingError where the store doesn't answer, or another process runs the sweep.
    """

    latest: ClassVar["ParentRun | None"] = None  # of those that this process began

    def __init__(
        self, client: Any, experiment: str | int | None, sha256: str = "", run_id: str = ""
    ) -> None:
        self.client = client
        self.experiment = chosen_experiment(experiment)
        self.sha256 = sha256
        self.run_id = run_id
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)
        if not run_id and (found := self._same_sweep()):
            self.run_id = found[0].info.run_id
            _check_is_free(found[0])

    def _same_sweep(self) -> list[Run]:
        return self._search(f"tags.`{SWEEP_TAG}` = '{self.sha256}'")

    def children(self, job_sha256: str | None = None) -> list[Summary]:
        """The runs of its jobs so far, or those of one job, newest last."""
        if not self.run_id:
            return []
        wanted = f"tags.`{PARENT_TAG}` = '{self.run_id}'"
        if job_sha256:
            wanted += f" and tags.`{JOB_TAG}` = '{job_sha256}'"
        return [Summary.of(run) for run in self._search(wanted)]

    def wait_until_idle(self, seconds: float = 60.0) -> list[Summary]:
        """`children`, once the processes of a killed sweep have written their checkpoints."""
        end = time.monotonic() + seconds
        runs = self.children()
        while any(map(_has_process, runs)) and time.monotonic() < end:
            time.sleep(0.2)
            runs = self.children()
        return runs

    def curve(self, run_id: str, metric: str) -> list[float]:
        """The metric's values in the order of steps."""
        return [value for _, value in points_of(self.client, run_id, metric)]

    def begin(self, name: str, tags: Mapping[str, str], patch: str) -> None:
        """Creates the run, or marks it as running again; this process owns it from now on.

        Raises: TrackingError where another process was faster.
        """
        ParentRun.latest = self
        process = process_identity()
        if self.run_id:
            self._take([before := self.client.get_run(self.run_id)], process)
            self._set_tags(tags)
            if ERROR_TAG in before.data.tags:  # of its end before this one
                self.client.delete_tag(self.run_id, ERROR_TAG)
        else:
            tags = {**context_tags(), SWEEP_TAG: self.sha256, **tags}
            if given := given_run():
                self.run_id = adopt_run(self.client, given, tags, process)
            else:
                self._create(name, tags, process)
        if patch:  # as the tags, it is that of the last process
            self.client.log_text(self.run_id, patch, "uncommitted.patch")
        beat(self.client, self.client.get_run(self.run_id))
        self._heart.start()

    def _create(self, name: str, tags: Mapping[str, str], process: str) -> None:
        """Of processes that create a run of the same sweep, one at least sees the other's run.
        Each needs a turn at all that it sees, in the same order, so one of them gets the sweep.
        """
        experiment_id = experiment_id_of(self.client, self.experiment)
        self.run_id = self.client.create_run(experiment_id, None, tags, name).info.run_id
        try:
            self._take(sorted(self._same_sweep(), key=lambda run: run.info.run_id), process)
        except TrackingError:
            self.client.delete_run(self.run_id)
            raise

    def _take(self, runs: Sequence[Run], process: str) -> None:
        for run in runs:
            try:
                if last_turn(run.data.params)[1]:
                    _check_is_free(run)
                take_turn(self.client, run, process)
            except Outdated:
                _check_is_free(self.client.get_run(run.info.run_id))
                raise

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(Exception):  # a server that fails for a moment
                beat(self.client, self.client.get_run(self.run_id))

    @property
    def page(self) -> str:
        """Where a browser shows it."""
        info = self.client.get_run(self.run_id).info
        return page_lines(self.client.tracking_uri, info.experiment_id, self.run_id)

    def end(self, status: str) -> None:
        self._ended.set()
        self._heart.join()  # it may be about to say that the run is alive
        self.client.set_terminated(self.run_id, status)

    def note(self, tags: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """Adds tags and metrics to the run."""
        self._set_tags(tags)
        for key, value in metrics.items():
            self.client.log_metric(self.run_id, key, value)

    def reuse(self, jobs: Sequence[Job]) -> None:
        """Counts the runs of these jobs, which are done elsewhere, as runs of this sweep."""
        if not jobs:
            return
        now = {str(job.run_id): dict(job.differs) for job in jobs}
        before = Summary.of(self.client.get_run(self.run_id))
        kept = read_reused(before, self.client.tracking_uri).items()
        again = list(now.values())
        log_reused(self.client, self.run_id, {k: v for k, v in kept if v not in again} | now)

    def mark_killed(self, reason: str, job_sha256: str) -> None:
        """Ends the run of a job whose process or machine died before it could."""
        for run in self.children(job_sha256):
            if run.status == "RUNNING":
                self.client.set_tag(run.run_id, ERROR_TAG, reason)
                self.client.set_terminated(run.run_id, "KILLED")

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self.client.set_tag(self.run_id, key, value)

    def _search(self, wanted: str) -> list[Run]:
        """All runs of the experiment that match, oldest first."""
        there = find_experiment(self.client, self.experiment)
        return list(search(self.client, [there.experiment_id], wanted)) if there else []


def _check_is_free(run: Run) -> None:
    """Raises: TrackingError where another process runs the sweep."""
    found = Summary.of(run)
    host, number, *_ = (found.holder or found.tags.get(PROCESS_TAG, "? ?")).split()
    if found.is_worked_on and found.holder != process_identity():
        raise TrackingError(f"{found.run_id}: this sweep is running, in process {number} on {host}")


def _has_process(run: Summary) -> bool:
    """Whether a process of this machine is still working on the run."""
    return run.status == "RUNNING" and bool(is_alive(run.tags.get(PROCESS_TAG, "")))
