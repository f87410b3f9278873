"""The runs of a sweep: its own children, and finished runs from elsewhere that it reuses.

MLflow knows one parent for a run. So an artifact of the sweep's own run lists those that it reuses.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlflow.tracking import MlflowClient

from lenet.tracking.client import connect, find_experiment, translated
from lenet.tracking.job import DIFFERS_TAG, JOB_TAG
from lenet.tracking.names import PARENT_TAG, TrackingError
from lenet.tracking.read import PAGE, Summary, checked_id, fetched, search

REUSED = "reused.json"  # run id -> the values in which its job differs from the sweep's others
REUSED_TAG = "lenet.sweep.reused"  # how many there are
MOST_PARAMS = 40  # of one search: SQLite joins 64 tables at most


def read_family(run_id: str, uri: str | None = None) -> tuple[Summary, list[Summary]]:
    """A sweep's own run, and the runs of its jobs in the order they started.

    Raises: TrackingError.
    """
    client = connect(uri, create=False)
    with translated(client, f"{checked_id(run_id)}: no such run"):
        parent = Summary.of(client.get_run(run_id))
        there = [parent.experiment_id]
        found = list(map(Summary.of, search(client, there, f"tags.`{PARENT_TAG}` = '{run_id}'")))
        reused = read_reused(parent, uri)
        ids = list(map(checked_id, reused))
        for first in range(0, len(ids), PAGE):
            wanted = ", ".join(f"'{each}'" for each in ids[first : first + PAGE])
            for run in search(client, there, f"attributes.run_id IN ({wanted})"):
                each = Summary.of(run)
                tags = {**each.tags, DIFFERS_TAG: json.dumps(reused[each.run_id])}
                found.append(replace(each, tags=tags))
    return parent, sorted(found, key=lambda run: (run.start, run.run_id))


def read_reused(parent: Summary, uri: str | None = None) -> dict[str, dict[str, Any]]:
    """The runs that the sweep reuses: id -> values. Raises: TrackingError."""
    if REUSED_TAG not in parent.tags:
        return {}
    with fetched(parent.run_id, REUSED, uri) as path:
        if path is None:
            raise TrackingError(f"{parent.run_id}: the run has no artifact {REUSED}")
        return dict(json.loads(path.read_text(encoding="utf-8")))


def log_reused(
    client: MlflowClient, parent_id: str, reused: Mapping[str, Mapping[str, Any]]
) -> None:
    """Makes these the runs that the sweep reuses."""
    client.log_text(parent_id, json.dumps(reused, indent=0), REUSED)
    client.set_tag(parent_id, REUSED_TAG, str(len(reused)))


def finished_jobs(
    client: MlflowClient, experiment: str | int, params: Mapping[str, str]
) -> list[Summary]:
    """The finished runs of the experiment that have these parameters, the newest last."""
    there = find_experiment(client, experiment)
    if there is None:
        return []
    wanted = ["attributes.status = 'FINISHED'", f"tags.`{JOB_TAG}` LIKE '%'"]
    plain = [each for each in params.items() if re.fullmatch(r"[\w.+-]{1,250}", each[1])]
    wanted += [f"params.`{key}` = '{value}'" for key, value in plain[:MOST_PARAMS]]
    return list(map(Summary.of, search(client, [there.experiment_id], " and ".join(wanted))))
