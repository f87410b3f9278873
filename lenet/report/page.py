"""A report as one HTML file that needs no other file and no network."""

import base64
import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from lenet.cli import one_line
from lenet.config.overrides import short_names
from lenet.report import plots
from lenet.report.effects import UNSET
from lenet.report.findings import Findings
from lenet.report.published import Comparison, as_printed, by_metric
from lenet.report.results import SEED
from lenet.report.text import (
    cost_line,
    failures,
    format_difference,
    format_number,
    format_p,
    headline,
    lacking,
    verdict_sentences,
)
from lenet.report.verdict import BEST, SAME, Verdict

FOLDER = Path(__file__).parent
SCRIPT, STYLE = (
    (FOLDER / name).read_text(encoding="utf-8") for name in ("report.js", "report.css")
)
SETTINGS_ON_PAGE = 100


def page(found: Findings, curves: tuple[str, pd.DataFrame], address: Callable[[str], str]) -> str:
    """The HTML text. `curves` are a metric and its points; `address` gives the page of a run id."""
    verdict = found.verdict
    metric, points = curves
    settings = _settings(verdict)
    levels = [effect.levels for effect in found.effects if len(effect.levels)]
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    folder = jinja2.FileSystemLoader(FOLDER)
    templates = jinja2.Environment(autoescape=True, loader=folder, undefined=jinja2.StrictUndefined)
    return templates.get_template("report.html").render(
        title=one_line(found.sweep.name) or found.sweep.run_id,
        found=found,
        verdict=verdict,
        settings=settings,
        most=SETTINGS_ON_PAGE,
        scale=_scale([verdict.settings.head(SETTINGS_ON_PAGE)], verdict.metric),
        chart=plots.curves(points, verdict, metric) if len(points) else None,
        level_scale=_scale(levels, verdict.metric),
        trend=lambda effect: plots.trend(effect, verdict),
        grid=_grid(found, settings),
        compared=[_compared(each) for each in by_metric(found.compared)],
        failures=failures(found),
        headline=headline(found),
        cost=cost_line(found),
        sentences=list(verdict_sentences(found)),
        address=address,
        number=format_number,
        difference=format_difference,
        p_text=format_p,
        lacking=lacking,
        finite=math.isfinite,
        style=Markup(STYLE),
        script=Markup(SCRIPT),
        script_hash=f"sha256-{digest}",
    )


@dataclass(frozen=True)
class Setting:
    """A row of the verdict's settings, its place in them, and its runs: (id, seed, value).

    `shade` says how good it is, from 0 to 1 for the best.
    """

    place: int
    row: Any
    shade: float
    runs: list[tuple[str, Any, float]]

    @property
    def is_good(self) -> bool:
        """Whether it is the best, or has no significant difference from it."""
        return self.row.verdict in (BEST, SAME)


def _settings(verdict: Verdict) -> list[Setting]:
    runs: dict[str, list[tuple[str, Any, float]]] = {}
    columns = verdict.runs.sort_values(SEED)[["setting", "run_id", SEED, verdict.metric]]
    for key, *run in columns.itertuples(index=False):
        runs.setdefault(key, []).append(tuple(run))
    rows = zip(verdict.settings.itertuples(), plots.shades(verdict), strict=True)
    return [
        Setting(place, row, shade, runs.get(row.key, []))
        for place, (row, shade) in enumerate(rows, 1)
    ]


def _scale(frames: Sequence[pd.DataFrame], metric: str) -> plots.Scale:
    return plots.scale_of(
        [x for frame in frames for x in frame[["low", "mean", "high"]].to_numpy().flat], metric
    )


def _grid(found: Findings, settings: Sequence[Setting]) -> dict[str, Any] | None:
    """Two parameters with a few values each as a table of settings; None for other sweeps."""
    axes, levels = found.verdict.axes, {each.axis: each.levels for each in found.effects}
    if len(axes) != 2 or any(frame.empty for frame in levels.values()):
        return None
    values = found.verdict.settings[axes].astype(object)
    keys = values.where(values.notna(), UNSET).itertuples(index=False, name=None)
    cells = dict(zip(keys, settings, strict=True))
    down, across = (levels[axis] for axis in axes)
    return {
        "names": short_names(axes),
        "across": list(across["text"]),
        "rows": [
            (text, [cells.get((value, other)) for other in across["value"]])
            for value, text in zip(down["value"], down["text"], strict=True)
        ],
    }


def _compared(own: Sequence[Comparison]) -> tuple[str, str, Sequence[Comparison], plots.Scale]:
    """The metric, its name and numbers as papers print them, and a scale for them."""
    name, numbers = as_printed(own)
    metric = own[0].metric
    values = [value for each in numbers for value in (each.mean, each.published)]
    ends = [value for each in numbers for value in (each.low, each.high)]
    scale = plots.scale_of(
        values + ends, metric, log=plots.is_wide(values) and not any(end <= 0 for end in ends)
    )
    return metric, name, numbers, scale
