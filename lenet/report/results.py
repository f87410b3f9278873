"""A sweep's runs in MLflow as pandas frames."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lenet.tracking.family import read_family
from lenet.tracking.job import DIFFERS_TAG
from lenet.tracking.read import Summary, read_points

SEED = "seed"
TRAIN = "lenet.dataset.train"  # the number of training images


@dataclass(frozen=True)
class Sweep:
    """A parent run, and a frame with a row for each child run in the order they started.

    Columns of `runs`: run_id, name, status, error, pruned, start (a time), then the axes, seconds,
    the last value of each metric, and the parameters, as numbers where they are numbers. `axes` are
    the columns that the sweep varied, in the order they were given; `seed` may be one of them.
    `published` holds the entries for `lenet.report.published.compare_published`. `shared` are the
    metrics that every finished run has recorded, if only as nan. `command` and `commit` are ''
    where they are not recorded.
    """

    run_id: str
    experiment_id: str
    name: str
    start: pd.Timestamp
    command: str
    commit: str
    axes: list[str]
    objective: str | None
    published: list[dict[str, Any]]
    metrics: list[str]
    parameters: list[str]
    shared: list[str]
    runs: pd.DataFrame
    val_size: int  # a twelfth of the smallest training set of these runs; 0 where none is recorded


def load_curves(
    parent_run_id: str,
    metrics: Sequence[str] = ("train/loss", "val/loss", "train/accuracy", "val/accuracy"),
    run_ids: Sequence[str] | None = None,
    uri: str | None = None,
) -> pd.DataFrame:
    """The points of all child runs, or of `run_ids`, as a frame: run_id, metric, step, value.

    Each run and metric is one request, so hundreds of runs take seconds; `run_ids` limits them.

    Raises: TrackingError.
    """
    if run_ids is None:
        run_ids = [child.run_id for child in read_family(parent_run_id, uri)[1]]
    points = read_points(run_ids, metrics, uri)
    frame = pd.DataFrame(points, columns=["run_id", "metric", "step", "value"])
    return frame.astype({"step": int, "value": float})


def read_sweep(parent_run_id: str, uri: str | None = None) -> Sweep:
    """Raises: TrackingError."""
    parent, children = read_family(parent_run_id, uri)
    axes = json.loads(parent.tags.get("lenet.sweep.axes", "[]"))
    metrics = sorted({name for child in children for name in child.metrics})
    finished = [child.metrics for child in children if child.status == "FINISHED"]
    parameters = sorted({name for child in children for name in child.params})
    facts = ["run_id", "name", "status", "error", "pruned", "start"]
    columns = dict.fromkeys([*facts, *axes, "seconds", *metrics, *parameters])
    rows = [_row(child, axes) for child in children]
    objective = parent.tags.get("lenet.sweep.objective", "none")
    return Sweep(
        run_id=parent.run_id,
        experiment_id=parent.experiment_id,
        name=parent.name,
        start=_time(parent.start),
        command=parent.tags.get("lenet.sweep.command", ""),
        commit=_commit(parent.tags),
        axes=axes,
        objective=None if objective == "none" else objective,
        published=json.loads(parent.tags.get("lenet.sweep.published", "[]")),
        metrics=metrics,
        parameters=parameters,
        shared=[name for name in metrics if all(name in each for each in finished)],
        runs=pd.DataFrame(rows, columns=list(columns)),
        val_size=min((int(each.tags[TRAIN]) for each in children if TRAIN in each.tags), default=0)
        // 12,
    )


def _row(child: Summary, axes: Sequence[str]) -> dict[str, Any]:
    job = json.loads(child.tags.get(DIFFERS_TAG, "{}"))
    end = (child.end - child.start) / 1000 if child.end else float("nan")
    return {
        **{name: parse_value(text) for name, text in child.params.items()},
        **child.metrics,
        "run_id": child.run_id,
        "name": child.name,
        "status": child.status,
        "error": child.tags.get("lenet.error", ""),
        "pruned": "lenet.pruned" in child.tags,
        "start": _time(child.start),
        "seconds": child.metrics.get("seconds/total", end),
        **{axis: _comparable(job.get(axis)) for axis in axes},
    }


def _time(milliseconds: int) -> pd.Timestamp:
    return pd.Timestamp(milliseconds, unit="ms", tz="UTC")


def _commit(tags: Mapping[str, str]) -> str:
    changed = ", with changes that are not committed"
    commit = tags.get("mlflow.source.git.commit", "")[:10]
    return commit and commit + changed * (tags.get("lenet.git.dirty") == "true")


def parse_value(text: str) -> Any:
    """The value that a parameter's text stands for: '0.5' -> 0.5, 'True' -> True, 'None' -> None.
    Other texts stay texts.
    """
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
    return value if isinstance(value, int | float | None) else text


def _comparable(value: Any) -> Any:
    """The value of an axis in a form that can be compared and grouped."""
    return json.dumps(value) if isinstance(value, list | dict) else value
