"""How long the jobs of a sweep will take, by earlier runs."""

import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import pairwise

from mlflow.tracking import MlflowClient

from lenet.tracking.client import find_experiment
from lenet.tracking.names import PARENT_TAG, PROCESS_TAG
from lenet.tracking.read import Summary

NEWEST = 100  # finished runs that are looked at


def expected_seconds(
    client: MlflowClient,
    experiment: str | int,
    like: Mapping[str, str],
    jobs: Sequence[Mapping[str, str]],
) -> float:
    """The mean over the jobs, each given by its parameters; nan if no earlier run tells.

    A job takes as long as the median of the runs that share the most parameters with it, among the
    newest ones that have those in `like`. A run outside of a sweep also starts a process, so it
    counts only where there is no other.
    """
    there = find_experiment(client, experiment)
    if there is None:
        return math.nan
    wanted = ["attributes.status = 'FINISHED'"]
    wanted += [f"params.`{key}` = '{value}'" for key, value in like.items()]
    found = client.search_runs([there.experiment_id], " and ".join(wanted), max_results=NEWEST)
    taken = seconds_of([Summary.of(run) for run in found])
    if not taken:
        return math.nan

    def expected(job: Mapping[str, str]) -> float:
        shared = [len(job.items() & run.params.items()) for run, _ in taken]
        most = max(shared)
        return statistics.median(s for n, (_, s) in zip(shared, taken, strict=True) if n == most)

    return statistics.fmean(map(expected, jobs))


def seconds_of(runs: Sequence[Summary]) -> list[tuple[Summary, float]]:
    """The runs of sweeps, or else all, each with its seconds until the next one could start.

    A worker starts its next job when the records of the last one are sent. The time of a worker's
    last job ends before that.
    """
    inside = [run for run in runs if PARENT_TAG in run.tags] or runs
    by_worker: dict[str, list[Summary]] = {}
    for run in sorted(inside, key=lambda run: run.start):
        by_worker.setdefault(run.tags.get(PROCESS_TAG, run.run_id), []).append(run)
    found = []
    for own in by_worker.values():
        found += [(run, (after.start - run.start) / 1000) for run, after in pairwise(own)]
        if "seconds/total" in own[-1].metrics:
            found.append((own[-1], own[-1].metrics["seconds/total"]))
    return found
