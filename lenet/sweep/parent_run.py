"""What MLflow knows of sweeps: a parent run, found again by its jobs, and its children."""

import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from lenet.config.record import masked
from lenet.tracking.job import JOB_TAG
from lenet.tracking.provenance import is_alive
from lenet.tracking.store import (
    PARENT_TAG,
    PROCESS_TAG,
    Patient,
    TrackingError,
    Unreachable,
    checked_id,
    connect,
    experiment_id_of,
    first_use_lock,
    is_passing,
    reason,
)

# isort: split
# After lenet.tracking.store, which sets what MLflow reads as it starts.
from mlflow import MlflowClient
from mlflow.entities import Metric, Run, RunTag
from mlflow.exceptions import MlflowException

SWEEP_TAG = "sweep.sha256"
READERS = 8  # requests under way at a time; a server answers them side by side


class Sweep:
    """The parent run of a sweep, which is found again by the checksum of its jobs, or by its id.

    Raises: TrackingError where the store doesn't answer, or another process runs the sweep.
    """

    def __init__(
        self, client: MlflowClient, experiment: str, sha256: str = "", run_id: str = ""
    ) -> None:
        self.client: Any = Patient(client)
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
        return _searched(self.client, experiment, wanted)

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
        points = self.client.get_metric_history(run_id, metric)
        return [p.value for p in sorted(points, key=lambda p: (p.step, p.timestamp))]

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


def median_seconds(client: MlflowClient, experiment: str, params: Mapping[str, str]) -> float:
    """Of the newest hundred finished runs with these parameters; nan where there is none."""
    there = client.get_experiment_by_name(experiment)
    if there is None:
        return math.nan
    wanted = ["attributes.status = 'FINISHED'"]
    wanted += [f"params.`{key}` = '{value}'" for key, value in params.items()]
    found = client.search_runs([there.experiment_id], " and ".join(wanted), max_results=100)
    times = [run.data.metrics.get("seconds/total", math.nan) for run in found]
    times = [seconds for seconds in times if not math.isnan(seconds)]
    return statistics.median(times) if times else math.nan


def _searched(client: MlflowClient, experiment_id: str, wanted: str) -> list[Run]:
    """All of them, the oldest first."""
    found: list[Run] = []
    token = None
    while True:
        page = client.search_runs(
            [experiment_id],
            wanted,
            max_results=1000,
            order_by=["attributes.start_time ASC"],
            page_token=token,
        )
        found += page
        token = page.token
        if not token:
            return found


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


# ---- Reading ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """A run as a search returns it: of each metric the newest value. Times in milliseconds."""

    run_id: str
    name: str
    status: str
    start: int
    end: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]


def read_family(run_id: str, uri: str | None = None) -> tuple[Summary, list[Summary]]:
    """A run and its children, first started first. Raises: TrackingError."""
    client = connect(uri, create=False)
    try:
        parent = client.get_run(checked_id(run_id))
        wanted = f"tags.`{PARENT_TAG}` = '{run_id}'"
        children = _searched(client, parent.info.experiment_id, wanted)
    except MlflowException as error:
        kind = Unreachable if is_passing(error, client.tracking_uri) else TrackingError
        raise kind(f"{run_id}: no such run ({reason(error)})") from None
    found = [_summary(run) for run in children]
    return _summary(parent), sorted(found, key=lambda child: (child.start, child.run_id))


def _summary(run: Run) -> Summary:
    info, data = run.info, run.data
    name, start = info.run_name or "", info.start_time or 0
    return Summary(
        *(info.run_id, name, info.status, start, info.end_time),
        *(data.params, data.tags, data.metrics),
    )


def read_points(
    run_ids: Sequence[str], metrics: Sequence[str], uri: str | None = None
) -> list[tuple[str, str, int, float]]:
    """(run_id, metric, step, value) of all points, in the order of the arguments and of steps.

    MLflow's client has no call for several runs at once, so this is one request a run and metric.

    Raises: TrackingError.
    """
    client = connect(uri, create=False)
    wanted = [(checked_id(run_id), metric) for run_id in run_ids for metric in metrics]
    try:
        with ThreadPoolExecutor(READERS) as pool:
            histories = pool.map(lambda pair: client.get_metric_history(*pair), wanted)
            return [
                (run_id, metric, point.step, point.value)
                for (run_id, metric), points in zip(wanted, histories, strict=True)
                for point in sorted(points, key=lambda p: (p.step, p.timestamp))
            ]
    except MlflowException as error:
        kind = Unreachable if is_passing(error, client.tracking_uri) else TrackingError
        raise kind(f"metrics: cannot be read ({reason(error)})") from None


def add_artifacts(run_id: str, folder: Path, where: str, uri: str | None = None) -> str:
    """Logs what lies in `folder` under `where`. Returns: the place. Raises: TrackingError."""
    client = connect(uri, create=False)
    try:
        client.log_artifacts(checked_id(run_id), str(folder), where)
        info = client.get_run(run_id).info
        if client.tracking_uri.startswith("http"):
            runs = f"{masked(client.tracking_uri)}/#/experiments/{info.experiment_id}/runs"
            return f"{runs}/{run_id}/artifacts/{where}"
        place = f"{info.artifact_uri}/{where}"
        return unquote(urlsplit(place).path) if place.startswith("file:") else place
    except (MlflowException, OSError) as error:
        passing = isinstance(error, MlflowException) and is_passing(error, client.tracking_uri)
        kind = Unreachable if passing else TrackingError
        raise kind(f"{run_id}: takes no artifacts ({reason(error)})") from None
