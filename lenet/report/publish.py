"""The report as files, and as artifacts of the sweep's run."""

import functools
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from lenet.config.overrides import format_value
from lenet.report.findings import Findings, analyze
from lenet.report.page import page
from lenet.report.plots import MOST_CURVES
from lenet.report.results import load_curves
from lenet.report.text import (
    SETTINGS_ON_SCREEN,
    failures,
    headline,
    ranking_rows,
    report_lines,
    verdict_sentences,
)
from lenet.report.verdict import BEST
from lenet.tracking.additions import add_artifacts, add_records
from lenet.tracking.client import resolved, run_page
from lenet.tracking.names import NOTE_TAG, TrackingError
from lenet.tracking.read import read_run

FOLDER = "report"  # among the artifacts of the sweep's run
VERDICT = "**Verdict.**"  # how a description begins that a report wrote
SCORES = ("val/accuracy", "val/loss", "test/accuracy", "test/loss")


def publish(
    parent_run_id: str,
    uri: str | None = None,
    metric: str | None = None,
    direction: str | None = None,
) -> str:
    """Logs the report on the sweep's run: the page and its data as artifacts, the verdict as
    the description, the best setting as parameters, its means as metrics.

    Returns: the text to print.
    Raises: ReportError, TrackingError.
    """
    found = analyze(parent_run_id, uri, metric, direction)
    with tempfile.TemporaryDirectory() as folder:
        write_files(found, Path(folder), uri)
        place = add_artifacts(parent_run_id, Path(folder), FOLDER, uri)
    lines = [*report_lines(found), f"Page: {place}/report.html"]
    setting, means = best_setting(found)
    note = read_run(parent_run_id, uri).tags.get(NOTE_TAG, VERDICT)
    is_users = not note.startswith(VERDICT)
    add_records(parent_run_id, uri, {} if is_users else {NOTE_TAG: description(found)}, means)
    try:
        add_records(parent_run_id, uri, params=setting)
    except TrackingError:  # MLflow's parameters can't change
        lines.append("The parameters of the sweep's run keep the best setting of the first report.")
    return "\n".join(lines)


def best_setting(found: Findings) -> tuple[dict[str, str], dict[str, float]]:
    """The best setting, or the first where none is called best, and the means over its runs."""
    verdict = found.verdict
    is_best = verdict.settings["verdict"] == BEST
    best = verdict.settings[is_best if is_best.any() else verdict.settings.index == 0].iloc[0]
    runs = verdict.runs[verdict.runs["setting"] == best["key"]]
    shared = {verdict.metric, *SCORES} & set(runs.columns)
    means = {name: float(runs[name].astype(float).mean()) for name in sorted(shared)}
    setting = {axis: format_value(best[axis]) for axis in verdict.axes}
    return setting, {name: mean for name, mean in means.items() if math.isfinite(mean)}


def description(found: Findings) -> str:
    """The verdict in Markdown."""
    head, *rows = ranking_rows(found, SETTINGS_ON_SCREEN)
    table = [head, ["---"] * len(head), *rows]
    lines = [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in table]
    sentences = " ".join([VERDICT, *verdict_sentences(found)])
    more = f"The artifact `{FOLDER}/report.html` shows more."
    return "\n".join([sentences, "", headline(found), "", *lines, "", more])


def write_files(found: Findings, folder: Path, uri: str | None = None) -> None:
    """Writes report.html, runs.csv and verdict.json to the folder."""
    (folder / "report.html").write_text(report_page(found, uri), encoding="utf-8")
    found.sweep.runs.to_csv(folder / "runs.csv", index=False)
    data = json.dumps(_data(found), indent=1, allow_nan=False)
    (folder / "verdict.json").write_text(data + "\n", encoding="utf-8")


def report_page(found: Findings, uri: str | None = None) -> str:
    """The page as HTML, with the curves of the best settings."""
    verdict = found.verdict
    metric = verdict.metric if verdict.metric.startswith("val/") else "train/loss"
    best = set(verdict.settings["key"].head(MOST_CURVES))
    run_ids = list(verdict.runs.loc[verdict.runs["setting"].isin(best), "run_id"])
    points = load_curves(found.sweep.run_id, [metric], run_ids, uri)
    address = functools.partial(run_page, resolved(uri), found.sweep.experiment_id)
    return page(found, (metric, points), address)


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
        "power": verdict.power and vars(verdict.power),
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
        "failed": [
            {"run_id": run_id, "name": name, "reason": reason}
            for run_id, name, reason in failures(found)
        ],
        "seconds": _finite(float(found.sweep.runs["seconds"].sum())),
    }


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{k: _finite(v) for k, v in row.items()} for row in frame.to_dict("records")]


def _finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
