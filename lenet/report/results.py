"""A sweep's runs in MLflow as pandas frames, for notebooks and for the report.

from lenet.report.results import load_sweep
load_sweep(PARENT_RUN_ID).groupby("optimizer.momentum")["val/accuracy"].agg(["mean", "count"])
"""

import ast
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lenet.tracking.read import Summary, read_family, read_points

SEED = "seed"
TRAIN = "lenet.dataset.train"  # the number of training images


@dataclass(frozen=True)
class Sweep:
    """A parent run, and a frame with a row for each child run in the order they started.

    `axes` are the columns of `runs` that the sweep varied, in the order they were given; `seed`
    may be one of them. `published` holds the entries for
    `lenet.report.published.compare_published`.
    """

    run_id: str
    name: str
    axes: list[str]
    objective: str | None
    published: list[dict[str, Any]]
    metrics: list[str]
    runs: pd.DataFrame
    val_size: int  # a twelfth of the smallest training set of these runs; 0 where none is recorded


def load_sweep(parent_run_id: str, uri: str | None = None) -> pd.DataFrame:
    """A frame with a row for each child run of a sweep.

    Columns: run_id, name, status, error, pruned, start (a time), then the axes, seconds, the last
    value of each metric, and the parameters, as numbers where they are numbers.

    Raises: TrackingError where the store can't be reached, or has no such run.
    """
    return read_sweep(parent_run_id, uri).runs


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
    parameters = sorted({name for child in children for name in child.params})
    facts = ["run_id", "name", "status", "error", "pruned", "start"]
    columns = dict.fromkeys([*facts, *axes, "seconds", *metrics, *parameters])
    rows = [_row(child, axes) for child in children]
    objective = parent.tags.get("lenet.sweep.objective", "none")
    return Sweep(
        run_id=parent.run_id,
        name=parent.name,
        axes=axes,
        objective=None if objective == "none" else objective,
        published=json.loads(parent.tags.get("lenet.sweep.published", "[]")),
        metrics=metrics,
        runs=pd.DataFrame(rows, columns=list(columns)),
        val_size=min((int(each.tags[TRAIN]) for each in children if TRAIN in each.tags), default=0)
        // 12,
    )


def _row(child: Summary, axes: Sequence[str]) -> dict[str, Any]:
    job = json.loads(child.tags.get("lenet.sweep.job", "{}"))
    end = (child.end - child.start) / 1000 if child.end else float("nan")
    return {
        **{name: parse_value(text) for name, text in child.params.items()},
        **child.metrics,
        "run_id": child.run_id,
        "name": child.name,
        "status": child.status,
        "error": child.tags.get("lenet.error", ""),
        "pruned": "lenet.pruned" in child.tags,
        "start": pd.Timestamp(child.start, unit="ms", tz="UTC"),
        "seconds": child.metrics.get("seconds/total", end),
        **{axis: _comparable(job.get(axis)) for axis in axes},
    }


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
