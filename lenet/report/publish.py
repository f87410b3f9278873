"""The report as files, and as artifacts of the sweep's run."""

import io
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from lenet.report import plots
from lenet.report.findings import Findings, analyze
from lenet.report.page import page
from lenet.report.published import by_metric
from lenet.report.results import load_curves
from lenet.report.text import failures, report_lines
from lenet.tracking.read import add_artifacts

FOLDER = "report"  # among the artifacts of the sweep's run


def publish(
    parent_run_id: str,
    uri: str | None = None,
    metric: str | None = None,
    direction: str | None = None,
) -> str:
    """Logs the report on the sweep's run. Returns: the text to print.

    Raises: ReportError, TrackingError.
    """
    found = analyze(parent_run_id, uri, metric, direction)
    with tempfile.TemporaryDirectory() as folder:
        write_files(found, Path(folder), uri)
        place = add_artifacts(parent_run_id, Path(folder), FOLDER, uri)
    return "\n".join([*report_lines(found), f"Page: {place}/report.html"])


def write_files(found: Findings, folder: Path, uri: str | None = None) -> None:
    """Writes report.html, runs.csv and verdict.json to the folder."""
    text = page(found, _pictures(found, uri))
    (folder / "report.html").write_text(text, encoding="utf-8")
    found.sweep.runs.to_csv(folder / "runs.csv", index=False)
    data = json.dumps(_data(found), indent=1, allow_nan=False)
    (folder / "verdict.json").write_text(data + "\n", encoding="utf-8")


def _pictures(found: Findings, uri: str | None) -> Iterator[tuple[str, bytes]]:
    """Titles and PNG files."""
    for title, figure in _figures(found, uri):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        yield title, buffer.getvalue()


def _figures(found: Findings, uri: str | None) -> Iterator[tuple[str, Any]]:
    verdict = found.verdict
    yield "Ranking", plots.ranking(verdict)
    for comparisons in by_metric(found.compared):
        yield "Compared with published numbers", plots.published(comparisons)
    metric = verdict.metric if verdict.metric.startswith("val/") else "train/loss"
    best = set(verdict.settings["key"].head(plots.MOST_CURVES))
    run_ids = list(verdict.runs.loc[verdict.runs["setting"].isin(best), "run_id"])
    points = load_curves(found.sweep.run_id, [metric], run_ids, uri)
    if not points.empty:
        title = "Curves of the best settings, with the range of their seeds"
        yield title, plots.curves(points, verdict, metric)
    if any(len(effect.levels) > 1 for effect in found.effects):
        yield "Main effects", plots.effects(found.effects, verdict.metric)
    if len(verdict.axes) == 2 and all(len(effect.levels) for effect in found.effects):
        yield "Both parameters", plots.heat_map(verdict)
    elif len(verdict.axes) >= 2:
        yield "All parameters", plots.parallel_coordinates(verdict)


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
        "classes": {
            str(label): {k: _finite(v) for k, v in column.items()}
            for label, column in found.classes.to_dict().items()
        },
        "failed": [{"name": name, "reason": reason} for name, reason in failures(found)],
        "seconds": _finite(float(found.sweep.runs["seconds"].sum())),
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{k: _finite(v) for k, v in row.items()} for row in frame.to_dict("records")]


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
