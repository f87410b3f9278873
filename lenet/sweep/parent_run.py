"""What MLflow knows of sweeps: a parent run, found again by its jobs, and its children."""

import os
import platform
import sys
import time
from collections.abc import Mapping

from lenet.tracking.client import (
    PARENT_TAG,
    PROCESS_TAG,
    Metric,
    MlflowClient,
    MlflowException,
    Run,
    RunTag,
    TrackingError,
    experiment_id_of,
    first_use_lock,
    reason,
)
from lenet.tracking.job import JOB_TAG
from lenet.tracking.provenance import is_alive
from lenet.tracking.read import points_of, search

SWEEP_TAG = "sweep.sha256"


class Sweep:
    """The parent run of a sweep, which is found again by the checksum of its jobs, or by its id.

    Raises: TrackingError where the store doesn't answer, or another process runs the sweep.
    """

    def __init__(
        self, client: MlflowClient, experiment: str, sha256: str = "", run_id: str = ""
    ) -> None:
        self.client = client
        self.experiment = experiment
        self.sha256 = sha256
        self.run_id = run_id or self._found()

    def _found(self) -> str:
        there = self.client.get_experiment_by_name(self.experiment)
        if not there:
            return ""
        wanted = f"tags.`{SWEEP_TAG}` = '{self.sha256}'"
        for run in self.client.search_runs([there.experiment_id], wanted, max_results=1):
            if process := _at_work(run):
                text = f"{run.info.run_id}: this sweep is running, in process {process}"
                raise TrackingError(text)
            return str(run.info.run_id)
        return ""

    def children(self, job_sha256: str | None = None) -> list[Run]:
        """The runs of its jobs so far, or of one of them, the newest last."""
        if not self.run_id:
            return []
        wanted = f"tags.`{PARENT_TAG}` = '{self.run_id}'"
        if job_sha256:
            wanted += f" and tags.`{JOB_TAG}` = '{job_sha256}'"
        experiment = self.client.get_run(self.run_id).info.experiment_id
        return list(search(self.client, [experiment], wanted))

    def settled(self, seconds: float = 60.0) -> list[Run]:
        """`children`, once the processes of one that was killed have stopped: each of them first
        saves where it is.
        """
        end = time.monotonic() + seconds
        runs = self.children()
        while any(map(_at_work, runs)) and time.monotonic() < end:
            time.sleep(0.2)
            runs = self.children()
        return runs

    def curve(self, run_id: str, metric: str) -> list[float]:
        """Its values in the order of steps."""
        return [value for _, value in points_of(self.client, run_id, metric)]

    def begin(self, name: str, tags: Mapping[str, str], patch: str = "") -> None:
        """Makes the run where there is none, and from here on it is this process's."""
        with first_use_lock(self.sha256):  # the same command may be given twice at once
            self.run_id = self._found()
            if self.run_id:
                self.client.update_run(self.run_id, "RUNNING")
                self.client.log_batch(self.run_id, tags=[RunTag(k, v) for k, v in tags.items()])
                return
            tags = {SWEEP_TAG: self.sha256, **tags}
            experiment_id = experiment_id_of(self.client, self.experiment)
            self.run_id = self.client.create_run(experiment_id, None, tags, name).info.run_id
        if patch:
            self.client.log_text(self.run_id, patch, "uncommitted.patch")

    def note(self, tags: Mapping[str, str], metrics: Mapping[str, float], step: int) -> None:
        """On the parent; a store that doesn't take them costs a warning."""
        now = int(time.time() * 1000)
        points = [Metric(key, value, now, step) for key, value in metrics.items()]
        try:
            self.client.log_batch(self.run_id, points, [], [RunTag(*tag) for tag in tags.items()])
        except MlflowException as error:
            print(f"Warning: {self.run_id} does not take notes ({reason(error)})", file=sys.stderr)

    def lost(self, why: str, job_sha256: str | None = None) -> None:
        """To be called when none of its jobs runs any more, or not that one: what still seems to
        was lost with its process, or its machine.
        """
        for run in self.children(job_sha256):
            if run.info.status == "RUNNING":
                self.client.set_tag(run.info.run_id, "error", why)
                self.client.set_terminated(run.info.run_id, "KILLED")

    def end(self, status: str) -> None:
        self.client.set_terminated(self.run_id, status)


def _at_work(run: Run) -> int | None:
    """The process of this machine, if it is another, that still works on it."""
    host, *process = run.data.tags.get(PROCESS_TAG, "").split()[:3] or [""]
    if run.info.status != "RUNNING" or host != platform.node() or not is_alive(*process):
        return None
    return int(process[0]) if int(process[0]) != os.getpid() else None


def quiet(client: MlflowClient, run: Run, seconds: float) -> Run:
    """The run once it has got no point for so long: a process may outlive its machine's
    connection to the cluster, which by then has begun the job again.
    """
    while run.info.status == "RUNNING":
        before = run
        time.sleep(seconds)
        run = client.get_run(run.info.run_id)
        if run.data.metrics == before.data.metrics:
            break
    return run
