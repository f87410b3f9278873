"""A sweep's own MLflow run, and its children: the runs of the sweep's jobs."""

import os
import time
from collections.abc import Mapping
from typing import Any

from lenet.tracking.client import (
    ERROR_TAG,
    PARENT_TAG,
    PROCESS_TAG,
    TrackingError,
    experiment_id_of,
    find_experiment,
)
from lenet.tracking.job import JOB_TAG
from lenet.tracking.provenance import is_alive
from lenet.tracking.read import Summary, points_of, search
from lenet.tracking.variables import adopt_run, chosen_experiment, context_tags, given_run

SWEEP_TAG = "lenet.sweep.sha256"


class ParentRun:
    """The parent run of a sweep, found again by the checksum of its jobs, or by its id.

    Raises: TrackingError where the store doesn't answer, or another process runs the sweep.
    """

    def __init__(
        self, client: Any, experiment: str | int | None, sha256: str = "", run_id: str = ""
    ) -> None:
        self.client = client
        self.experiment = chosen_experiment(experiment)
        self.sha256 = sha256
        self.run_id = run_id or self._find()

    def _find(self) -> str:
        for run in self._search(f"tags.`{SWEEP_TAG}` = '{self.sha256}'"):
            if process := _working_process(run):
                raise TrackingError(f"{run.run_id}: this sweep is running, in process {process}")
            return run.run_id
        return ""

    def children(self, job_sha256: str | None = None) -> list[Summary]:
        """The runs of its jobs so far, or those of one job, newest last."""
        if not self.run_id:
            return []
        wanted = f"tags.`{PARENT_TAG}` = '{self.run_id}'"
        if job_sha256:
            wanted += f" and tags.`{JOB_TAG}` = '{job_sha256}'"
        return self._search(wanted)

    def wait_until_idle(self, seconds: float = 60.0) -> list[Summary]:
        """`children`, once the processes of a killed sweep have written their checkpoints."""
        end = time.monotonic() + seconds
        runs = self.children()
        while any(map(_working_process, runs)) and time.monotonic() < end:
            time.sleep(0.2)
            runs = self.children()
        return runs

    def curve(self, run_id: str, metric: str) -> list[float]:
        """The metric's values in the order of steps."""
        return [value for _, value in points_of(self.client, run_id, metric)]

    def begin(self, name: str, tags: Mapping[str, str], patch: str) -> None:
        """Creates the run, or marks it as running again; this process owns it from now on."""
        if self.run_id:
            self.client.update_run(self.run_id, "RUNNING")
            self._set_tags(tags)
            return
        tags = {**context_tags(), SWEEP_TAG: self.sha256, **tags}
        if given := given_run():
            self.run_id = adopt_run(self.client, given, tags)
        else:
            experiment_id = experiment_id_of(self.client, self.experiment)
            self.run_id = self.client.create_run(experiment_id, None, tags, name).info.run_id
        if patch:
            self.client.log_text(self.run_id, patch, "uncommitted.patch")

    def end(self, status: str) -> None:
        self.client.set_terminated(self.run_id, status)

    def note(self, tags: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        """Adds tags and metrics to the run."""
        self._set_tags(tags)
        for key, value in metrics.items():
            self.client.log_metric(self.run_id, key, value)

    def mark_killed(self, reason: str, job_sha256: str) -> None:
        """Ends the run of a job whose process or machine died before it could."""
        for run in self.children(job_sha256):
            if run.status == "RUNNING":
                self.client.set_tag(run.run_id, ERROR_TAG, reason)
                self.client.set_terminated(run.run_id, "KILLED")

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        for key, value in tags.items():
            self.client.set_tag(self.run_id, key, value)

    def _search(self, wanted: str) -> list[Summary]:
        """All runs of the experiment that match, oldest first."""
        there = find_experiment(self.client, self.experiment)
        runs = search(self.client, [there.experiment_id], wanted) if there else ()
        return [Summary.of(run) for run in runs]


def _working_process(run: Summary) -> int | None:
    """The id of another process of this machine that is still working on the run."""
    process = run.tags.get(PROCESS_TAG, "")
    if run.status != "RUNNING" or not is_alive(process):
        return None
    number = int(process.split()[1])
    return number if number != os.getpid() else None
