"""The report as files, and as artifacts of the sweep's run."""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from lenet.report.findings import Findings, analyze
from lenet.report.page import page
from lenet.report.plots import curve_metric, pictures, runs_with_curves
from lenet.report.results import load_curves
from lenet.report.text import failures, report_lines
from lenet.tracking.read import add_artifacts

FOLDER = "report"  # among the artifacts of the sweep's run


def publish(
    parent_run_id: str,
    uri: str | None = None,
    metric: str | None = None,
    with_failures: bool = True,
) -> str:
    """Logs the report on the sweep's run. Returns: the text to print.

    Raises: ReportError, TrackingError.
    """
    found = analyze(parent_run_id, uri, metric)
    with tempfile.TemporaryDirectory() as folder:
        write_files(found, Path(folder), uri)
        place = add_artifacts(parent_run_id, Path(folder), FOLDER, uri)
    return "\n".join([*report_lines(found, with_failures), f"Page: {place}/report.html"])


def write_files(found: Findings, folder: Path, uri: str | None = None) -> None:
    """Writes report.html, runs.csv and verdict.json to the folder."""
    metrics, run_ids = [curve_metric(found.verdict)], runs_with_curves(found.verdict)
    points = load_curves(found.sweep.run_id, metrics, run_ids, uri)
    text = page(found, pictures(found, points))
    (folder / "report.html").write_text(text, encoding="utf-8")
    _without_formulas(found.sweep.runs).to_csv(folder / "runs.csv", index=False)
    data = json.dumps(_data(found), indent=1, allow_nan=False)
    (folder / "verdict.json").write_text(data + "\n", encoding="utf-8")


def _without_formulas(runs: pd.DataFrame) -> pd.DataFrame:
    """A spreadsheet runs text that begins like a formula, and anybody can name a run."""

    def quote(value: Any) -> Any:
        is_risky = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
        return f"'{value}" if is_risky else value

    return runs.map(quote).rename(columns=quote)


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
    """JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
