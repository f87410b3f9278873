"""Where the marks of the report's pictures stand, in percent of the picture's width and height.

The page draws them: see report.html.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from matplotlib.ticker import Locator, LogLocator, MaxNLocator

from lenet.config.metrics import is_share
from lenet.report.effects import Effect
from lenet.report.text import format_number
from lenet.report.verdict import Verdict

MOST_CURVES = 8

Point = tuple[float, float]  # from the left and from the top


@dataclass(frozen=True)
class Scale:
    """The values from `low` to `high` along an axis. Numbers are shown as those of `metric`;
    epochs have whole numbers alone.
    """

    low: float
    high: float
    metric: str = ""
    log: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value, from 0 to 100."""
        place = math.log if self.log else float
        low, high = place(self.low), place(self.high)
        return round(100 * (place(value) - low) / (high - low), 2)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Round values with their places."""
        is_epoch = self.metric == "epoch"
        locator: Locator = MaxNLocator(4, integer=is_epoch, min_n_ticks=1 if is_epoch else 2)
        if self.log and self.high > 5 * self.low:
            locator = LogLocator(subs=(1, 2, 5) if self.high < 100 * self.low else (1,), numticks=9)
        values = [v for v in locator.tick_values(self.low, self.high) if self.low <= v <= self.high]
        as_percent = is_share(self.metric)
        return [(self(v), f"{100 * v:.4g}%" if as_percent else f"{v:.4g}") for v in values]


def scale_of(values: Iterable[float], metric: str = "", log: bool = False) -> Scale:
    """A scale on which all finite values have their place, with some room at both ends."""
    found = [float(value) for value in values if math.isfinite(value)]
    low, high = min(found, default=0.0), max(found, default=1.0)
    if log:
        room = max(high / low, 1.01) ** 0.05
        return Scale(low / room, high * room, metric, log=True)
    room = 0.05 * (high - low) or 0.05 * abs(high) or 0.05
    return Scale(low - room, high + room, metric)


def is_wide(values: Sequence[float]) -> bool:
    """Whether the values need a log scale to be told apart."""
    return max(values) > 5 * min(values) > 0


@dataclass
class Line:
    """A setting's line, with a text for each of its points. `band` goes around all its seeds."""

    place: int
    label: str
    points: list[Point] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    band: list[Point] = field(default_factory=list)


@dataclass(frozen=True)
class Chart:
    """Lines, or single points where `joined` is false, with the marks along both axes."""

    x: Scale
    y: Scale
    lines: list[Line]
    joined: bool = True


def curves(points: pd.DataFrame, verdict: Verdict, metric: str) -> Chart:
    """The mean over seeds at each epoch for the best settings, with the range of the seeds.

    A mean that is not finite has no point. Losses get a log scale. Of accuracies the first epochs
    may lie below the picture.
    """
    best = verdict.settings[verdict.settings["n"] > 0].head(MOST_CURVES)
    named = points.merge(verdict.runs[["run_id", "setting"]], on="run_id")
    finite = named.loc[np.isfinite(named["value"]), "value"]
    x = Scale(named["step"].min() - 0.5, named["step"].max() + 0.5, "epoch")
    if is_share(metric):
        y = scale_of([finite.quantile(0.1), finite.max()], metric)
    else:
        y = scale_of(finite, metric, log=bool(finite.min() > 0))
    lines = []
    for row in best.itertuples():
        line = Line(row.Index + 1, row.label)
        own = named[named["setting"] == row.key].groupby("step")["value"]
        bands = own.agg(["mean", "min", "max"])
        bands = bands[np.isfinite(bands).all(axis=1)]
        for step, *values in bands.itertuples():
            mean, low, high = (format_number(value, metric) for value in values)
            around = f" ({low} to {high})" if low != high else ""
            line.texts.append(f"{row.label}, epoch {step}: {mean}{around}")
        line.points, upper, lower = (
            [(x(step), 100 - y(value)) for step, value in bands[name].items()]
            for name in ("mean", "max", "min")
        )
        line.band = upper + lower[::-1]
        lines.append(line)
    return Chart(x, y, lines)


def trend(effect: Effect, verdict: Verdict) -> Chart:
    """Each setting's mean by the value of one parameter."""
    rows = verdict.settings[verdict.settings["n"] > 0]
    values, means = rows[effect.axis].astype(float), rows["mean"]
    x, y = scale_of(values, log=is_wide(values)), scale_of(means, verdict.metric)
    lines = []
    for row, value, mean in zip(rows.itertuples(), values, means, strict=True):
        text = f"{row.label}: {format_number(mean, verdict.metric)}"
        lines.append(Line(row.Index + 1, row.label, [(x(value), 100 - y(mean))], [text]))
    return Chart(x, y, lines, joined=False)


def shades(verdict: Verdict) -> pd.Series:
    """How good each setting's mean is, from 0 to 1 for the best. The worst tenth has 0, so that one
    bad corner does not take all the colours.
    """
    means = verdict.settings["mean"] * (1 if verdict.maximize else -1)
    low, high = means.quantile(0.1), means.max()
    return ((means - low) / ((high - low) or 1.0)).clip(0, 1).round(2)
