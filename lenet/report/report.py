"""The verdict on a sweep: on the screen, as a page, as data. `python -m lenet report RUN_ID`"""

import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from lenet.report import plots as sweep_plots
from lenet.report.effects import class_differences, main_effects
from lenet.report.page import page
from lenet.report.published import beside
from lenet.report.results import load_curves, read_sweep
from lenet.report.text import Findings, by_metric, failures, lines
from lenet.report.verdict import judge
from lenet.sweep import parent_run as sweep_store
from lenet.tracking.objective import is_maximized

FOLDER = "report"  # of the parent run's artifacts


class ReportError(ValueError):
    """A sweep of which nothing can be said: one line that says why."""


def make(parent_run_id: str, uri: str | None = None, metric: str | None = None) -> Findings:
    """Raises: ReportError where no run has an end to be judged; TrackingError where the store
    can't be reached or has no such run.
    """
    sweep = read_sweep(parent_run_id, uri)
    if sweep.runs.empty:
        raise ReportError(f"{parent_run_id}: is no sweep; no run has it for its parent")
    finished = sweep.runs[sweep.runs["status"] == "FINISHED"]
    if finished.empty:
        raise ReportError(f"{parent_run_id}: none of its {len(sweep.runs)} runs is finished")
    wanted = [metric] if metric else [sweep.objective, "val/accuracy", "test/accuracy"]
    scored = [m for m in wanted if m in sweep.metrics and finished[m].notna().all()]
    if not scored:
        some = ", ".join(m for m in sweep.metrics if m.startswith(("val/", "test/a")))
        missing = ", ".join(m for m in wanted if m)
        raise ReportError(
            f"{parent_run_id}: its finished runs don't all have {missing}; they have {some}"
        )
    maximize = is_maximized(scored[0])
    verdict = judge(sweep.runs, sweep.axes, scored[0], maximize)
    if verdict.runs.empty:
        raise ReportError(f"{parent_run_id}: {scored[0]} is nowhere a finite number")
    exploratory = scored[0].startswith("test/")
    compared = beside(sweep.runs, sweep.published)
    effects, classes = main_effects(verdict), class_differences(verdict)
    return Findings(sweep, verdict, effects, classes, exploratory, compared)


def report(
    parent_run_id: str, uri: str | None = None, metric: str | None = None, failed: bool = True
) -> str:
    """Makes the report and logs it on the sweep's run. Returns: what to print, with the `failed`
    runs or without.

    Raises: ReportError, TrackingError.
    """
    found = make(parent_run_id, uri, metric)
    with tempfile.TemporaryDirectory() as folder:
        write(found, Path(folder), uri)
        where = sweep_store.add_artifacts(parent_run_id, Path(folder), FOLDER, uri)
    return "\n".join([*lines(found, failed), f"Page: {where}/report.html"])


def write(found: Findings, folder: Path, uri: str | None = None) -> None:
    """Puts report.html, runs.csv and verdict.json there."""
    text = page(found, list(_figures(found, uri)))
    (folder / "report.html").write_text(text, encoding="utf-8")
    _defused(found.sweep.runs).to_csv(folder / "runs.csv", index=False)
    data = json.dumps(_data(found), indent=1, allow_nan=False)
    (folder / "verdict.json").write_text(data + "\n", encoding="utf-8")


def _figures(found: Findings, uri: str | None) -> Iterator[tuple[str, Figure]]:
    verdict = found.verdict
    yield "Ranking", sweep_plots.ranking(verdict)
    for compared in by_metric(found.compared):
        yield "Beside what was published", sweep_plots.beside(compared)
    metric = verdict.metric if verdict.metric.startswith("val/") else "train/loss"
    best = set(verdict.settings["key"].head(sweep_plots.MOST_CURVES))
    drawn = list(verdict.runs.loc[verdict.runs["setting"].isin(best), "run_id"])
    points = load_curves(found.sweep.run_id, [metric], drawn, uri)
    if not points.empty:
        yield (
            "Curves of the best settings, with the range of their seeds",
            sweep_plots.curves(points, verdict, metric),
        )
    if any(len(effect.levels) > 1 for effect in found.effects):
        yield "Main effects", sweep_plots.effects(found.effects, verdict.metric)
    if len(verdict.axes) == 2 and all(len(effect.levels) for effect in found.effects):
        yield "Both parameters", sweep_plots.heat_map(verdict)
    elif len(verdict.axes) >= 2:
        yield "All parameters", sweep_plots.parallel_coordinates(verdict)


def _defused(runs: pd.DataFrame) -> pd.DataFrame:
    """A spreadsheet runs what begins like a formula; a run's name is anybody's."""

    def defused(value: Any) -> Any:
        risky = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
        return f"'{value}" if risky else value

    return runs.map(defused).rename(columns=defused)


def _data(found: Findings) -> dict[str, Any]:
    verdict = found.verdict
    return {
        "run_id": found.sweep.run_id,
        "name": found.sweep.name,
        "metric": verdict.metric,
        "maximize": verdict.maximize,
        "exploratory": found.exploratory,
        "axes": verdict.axes,
        "best": verdict.best,
        "no_worse": verdict.no_worse,
        "comparisons": verdict.comparisons,
        "settings": _records(verdict.settings),
        "effects": [
            {"axis": e.axis, "share": _finite(e.share), "rho": _finite(e.rho)}
            | {"levels": _records(e.levels)}
            for e in found.effects
        ],
        "published": [{k: _finite(v) for k, v in vars(each).items()} for each in found.compared],
        "classes": {str(k): v for k, v in found.classes.to_dict().items()},
        "failed": [{"name": name, "reason": reason} for name, reason in failures(found)],
        "seconds": _finite(float(found.sweep.runs["seconds"].sum())),
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{k: _finite(v) for k, v in row.items()} for row in frame.to_dict("records")]


def _finite(value: Any) -> Any:
    """JSON has no nan."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
