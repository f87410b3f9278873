"""A sweep's runs in MLflow as pandas frames, for notebooks and for the report.

from lenet.report.results import load_sweep
load_sweep(PARENT_RUN_ID).groupby("optimizer.momentum")["val/accuracy"].agg(["mean", "count"])
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lenet.tracking.client import SWEEP_KIND_TAG
from lenet.tracking.read import Summary, read_family, read_points

# Parameters that no result depends on: where records go, where a run comes from.
NO_AXES = ("tracking.", "checkpoint.", "resume", "rerun", "note", "tags.")
SEED = "seed"
WORDS = {"True": True, "False": False, "None": None}  # as str() writes them
MOST_DIGITS = 100  # A longer text is not a number that anyone swept over.


@dataclass(frozen=True)
class Sweep:
    """A parent run, and a frame with a row for each child run in the order they started.

    `axes` are the columns of `runs` that the sweep varied, in the order they were given; `seed`
    may be one of them. Where the tags that list them are missing, they are the parameters that
    differ. `published` holds the entries for `lenet.report.published.compare_published`.
    """

    run_id: str
    name: str
    kind: str
    axes: list[str]
    objective: str | None
    direction: str | None
    published: list[Any]
    metrics: list[str]
    runs: pd.DataFrame


def load_sweep(parent_run_id: str, uri: str | None = None) -> pd.DataFrame:
    """A frame with a row for each child run of a sweep.

    Columns: run_id, name, status, error, pruned, start (a time), then the axes, seconds, the last
    value of each metric, and the parameters, as numbers where they are numbers. Where two columns
    would have the same name, the later one says what it is: `name (parameter)`.

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
    jobs = [_job(child) for child in children]
    axes = _axes(parent, children, jobs)
    columns: dict[str, list[Any]] = {
        "run_id": [child.run_id for child in children],
        "name": [child.name for child in children],
        "status": [child.status for child in children],
        "error": [child.tags.get("error", "") for child in children],
        "pruned": ["pruned" in child.tags for child in children],
        "start": [pd.Timestamp(child.start, unit="ms", tz="UTC") for child in children],
    }

    def add(names: Iterable[str], kind: str, rows: Iterable[Mapping[str, Any]]) -> list[str]:
        rows, added = list(rows), []
        for name in names:
            column = name if name not in columns else f"{name} ({kind})"
            columns[column] = [row.get(name) for row in rows]
            added.append(column)
        return added

    both = [
        {a: _comparable(job.get(a, child.params.get(a))) for a in axes}
        for job, child in zip(jobs, children, strict=True)
    ]
    axis_columns = add(axes, "parameter", both)
    columns["seconds"] = [_seconds(child) for child in children]
    names = sorted({name for child in children for name in child.metrics})
    metrics = add(names, "metric", [child.metrics for child in children])
    others = sorted({name for child in children for name in child.params} - set(axes))
    typed_params = [{k: parse_value(v) for k, v in child.params.items()} for child in children]
    add(others, "parameter", typed_params)
    tags = parent.tags
    objective = tags.get("sweep.objective", "none")
    published = _json(tags.get("sweep.published"))
    return Sweep(
        run_id=parent.run_id,
        name=parent.name,
        kind=tags.get(SWEEP_KIND_TAG, ""),
        axes=axis_columns,
        objective=None if objective == "none" else objective,
        direction=tags.get("sweep.direction"),
        published=published if isinstance(published, list) else [],
        metrics=metrics,
        runs=pd.DataFrame(columns).infer_objects(),
    )


def _job(child: Summary) -> dict[str, Any]:
    job = _json(child.tags.get("sweep.job"))
    return job if isinstance(job, dict) else {}


def _axes(parent: Summary, children: Sequence[Summary], jobs: Sequence[dict]) -> list[str]:
    listed = _json(parent.tags.get("sweep.axes"))
    if isinstance(listed, list) and listed and any(jobs):
        # A continued sweep may have had other axes before; its jobs still name them.
        return list(dict.fromkeys([*map(str, listed), *(name for job in jobs for name in job)]))
    names = list(dict.fromkeys(name for child in children for name in child.params))
    varying = [n for n in names if len({child.params.get(n) for child in children}) > 1]
    return [name for name in varying if not name.startswith(NO_AXES)]


def _seconds(child: Summary) -> float:
    if "seconds/total" in child.metrics:
        return child.metrics["seconds/total"]
    return (child.end - child.start) / 1000 if child.end else float("nan")


def parse_value(text: str) -> Any:
    """The value that a parameter's text stands for: '0.5' -> 0.5, 'True' -> True, 'None' -> None.
    Other texts stay texts.
    """
    if text in WORDS:
        return WORDS[text]
    value = _json(text) if len(text) <= MOST_DIGITS else text
    return value if isinstance(value, int | float | bool) else text


def _comparable(value: Any) -> Any:
    """The value of an axis in a form that can be compared and grouped."""
    if isinstance(value, str):
        return parse_value(value)
    return json.dumps(value) if isinstance(value, list | dict) else value


def _json(text: str | None) -> Any:
    try:
        return json.loads(text or "null", parse_constant=str)
    except (ValueError, RecursionError):  # anybody can write a tag
        return None
