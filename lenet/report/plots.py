"""The figures of a sweep's report."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from lenet.report.effects import Effect
from lenet.report.published import Comparison, as_printed
from lenet.report.verdict import BEST, SAME, Verdict, format_value, is_share, short_names
from lenet.training.plots.style import BLUE, COLORS, INK, PALE, VERMILION

MOST_ROWS, MOST_CURVES, MOST_LINES = 25, 8, 400
MOST_MARKS = 7  # A number with more values gets marks at even distances.
LONGEST_LABEL = 46


def _percent(axis: Any, metric: str) -> None:
    if is_share(metric):
        digits = FuncFormatter(lambda value, _: f"{100 * value:.4g}%")
        axis.set_major_formatter(digits)


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def ranking(verdict: Verdict) -> Figure:
    """Mean and 95 % interval of each setting, best on top."""
    rows = verdict.settings[verdict.settings["n"] > 0].head(MOST_ROWS)
    figure = Figure(figsize=(9, 1.0 + 0.28 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows.itertuples()):
        good = row.verdict in (BEST, SAME)
        color = BLUE if good else INK
        if math.isfinite(row.low):
            axes.plot([row.low, row.high], [y, y], color=color, linewidth=1.4)
        filled = color if good else "white"
        axes.plot(row.mean, y, "o", color=color, markerfacecolor=filled, markersize=6)
    axes.set_yticks(range(len(rows)), [_shorten(label) for label in rows["label"]], fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel(f"{verdict.metric}: mean and 95% interval")
    title = "filled: the best, and settings without a significant difference from it"
    axes.set_title(title, fontsize=9, loc="right")
    _percent(axes.xaxis, verdict.metric)
    _style(axes, "x")
    return figure


def published(compared: Sequence[Comparison]) -> Figure:
    """The means of one metric with their 95 % intervals, and the published numbers."""
    name, numbers = as_printed(compared)
    figure = Figure(figsize=(9, 1.2 + 0.32 * len(numbers)), layout="constrained")
    axes = figure.subplots()
    for y, each in enumerate(numbers):
        axes.plot([each.mean, each.published], [y, y], color=PALE, linewidth=1.2, zorder=1)
        if math.isfinite(each.low):
            axes.plot([each.low, each.high], [y, y], color=BLUE, linewidth=1.6)
    rows = range(len(numbers))
    ours = [each.mean for each in numbers]
    axes.plot(ours, rows, "o", color=BLUE, markersize=6, label="measured, 95% interval")
    theirs = [each.published for each in numbers]
    axes.plot(
        *(theirs, rows, "D"),
        color=VERMILION,
        markerfacecolor="white",
        markersize=6,
        label="published",
    )
    axes.set_yticks(rows, [_shorten(each.label) for each in numbers], fontsize=9)
    axes.set_ylim(len(numbers) - 0.4, -0.6)
    axes.set_xlabel(name)
    everything = [*ours, *theirs]
    if min(everything) > 0 and max(everything) > 5 * min(everything):
        axes.set_xscale("log")
        ticks = [t * 10**e for e in range(-4, 3) for t in (1, 2, 5)]
        ends = [each.low for each in numbers if each.low > 0]
        low, high = 0.8 * min(*everything, *ends), 1.25 * max(everything)
        axes.set_xticks([t for t in ticks if low <= t <= high])
        axes.set_xlim(low, high)
        axes.xaxis.set_minor_locator(NullLocator())
    if is_share(compared[0].metric):
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
    else:
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    _style(axes, "x")
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def curves(points: pd.DataFrame, verdict: Verdict, metric: str) -> Figure:
    """The mean over seeds at each epoch for the best settings, with the range of the seeds."""
    best = verdict.settings[verdict.settings["n"] > 0].head(MOST_CURVES)
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    axes = figure.subplots()
    named = points.merge(verdict.runs[["run_id", "setting"]], on="run_id")
    for color, row in zip(COLORS, best.itertuples(), strict=False):
        own = named[named["setting"] == row.key].groupby("step")["value"]
        band = own.agg(["mean", "min", "max"])
        axes.plot(band.index, band["mean"], color=color, linewidth=1.6, label=_shorten(row.label))
        low, high = band["min"], band["max"]
        axes.fill_between(band.index, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set(xlabel="epoch", ylabel=metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _zoom(axes, named["value"], metric)
    _percent(axes.yaxis, metric)
    _style(axes, "both")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _zoom(axes: Axes, values: pd.Series, metric: str) -> None:
    """Losses get a log scale. For accuracies the first epochs may lie outside the picture."""
    finite = values[np.isfinite(values)]
    if finite.empty:
        return
    if not is_share(metric):
        if finite.min() > 0:
            axes.set_yscale("log")
        return
    low = float(finite.quantile(0.1))
    high = float(finite.max())
    gap = max(high - low, 1e-4) * 0.1
    axes.set_ylim(max(0.0, low - gap), min(1.0, high + gap))


def effects(found: Sequence[Effect], metric: str) -> Figure:
    """For each value of each parameter: the mean over its runs, with the 95 % interval."""
    found = [effect for effect in found if len(effect.levels)]
    columns = min(3, max(1, len(found)))
    rows = max(1, -(-len(found) // columns))
    figure = Figure(figsize=(3.4 * columns + 0.6, 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, effect in zip(grid.flat, found, strict=False):
        _draw_effect(axes, effect)
        _percent(axes.yaxis, metric)
    for axes in list(grid.flat)[len(found) :]:
        axes.set_visible(False)
    for row in grid:
        row[0].set_ylabel(metric)
    return figure


def _draw_effect(axes: Axes, effect: Effect) -> None:
    levels = effect.levels
    numeric = effect.is_numeric and len(levels) > 1
    log = numeric and _spans_decades(levels["value"])
    x = levels["value"].astype(float) if log else range(len(levels))
    if log:
        axes.set_xscale("log")
    errors = [levels["mean"] - levels["low"], levels["high"] - levels["mean"]]
    line = "o-" if numeric else "o"
    axes.errorbar(x, levels["mean"], np.nan_to_num(errors), fmt=line, color=BLUE, capsize=3)
    texts = [_shorten(text) for text in levels["text"]]
    steep = max(map(len, texts)) * len(texts) > 34
    turned: dict[str, Any] = {"rotation": 35, "ha": "right"} if steep else {}
    axes.set_xticks(list(x), texts, fontsize=8, **turned)
    axes.xaxis.set_minor_locator(NullLocator())
    share = "" if math.isnan(effect.share) else f"  ({effect.share:.0%} of the variance)"
    axes.set_title(f"{effect.name}{share}", fontsize=10)
    _style(axes, "y")


def _spans_decades(values: pd.Series) -> bool:
    numbers = values.astype(float)
    return bool(numbers.min() > 0 and numbers.max() / numbers.min() >= 10)


def heat_map(verdict: Verdict) -> Figure:
    """The mean for each pair of values. A frame marks no significant difference from the best."""
    across, down = verdict.axes[1], verdict.axes[0]
    rows = verdict.settings[verdict.settings["n"] > 0]
    order = {axis: _ordered(rows[axis]) for axis in (across, down)}
    table = np.full((len(order[down]), len(order[across])), np.nan)
    good = []
    for row in rows.to_dict("records"):
        at = (
            order[down].index(format_value(row[down])),
            order[across].index(format_value(row[across])),
        )
        table[at] = row["mean"]
        if row["verdict"] in (BEST, SAME):
            good.append(at)
    figure = Figure(
        figsize=(2.6 + 0.85 * table.shape[1], 1.6 + 0.5 * table.shape[0]), layout="compressed"
    )
    axes = figure.subplots()
    low = float(np.nanquantile(table, 0.1))  # Otherwise one bad corner takes all the colours.
    cmap = colormaps["cividis" if verdict.maximize else "cividis_r"].with_extremes(bad=PALE)
    image = axes.imshow(table, cmap=cmap, aspect="auto", vmin=low if verdict.maximize else None)
    middle = np.nanmean(image.get_clim())
    for (y, x), value in np.ndenumerate(table):
        if math.isfinite(value):
            color = "black" if (value > middle) == verdict.maximize else "white"
            text = f"{100 * value:.2f}" if is_share(verdict.metric) else f"{value:.4g}"
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color=color)
    for y, x in good:
        axes.plot(*_frame(x, y), color=VERMILION, linewidth=1.8)
    names = short_names(verdict.axes)
    axes.set_xticks(range(table.shape[1]), [_shorten(text) for text in order[across]], fontsize=9)
    axes.set_yticks(range(table.shape[0]), [_shorten(text) for text in order[down]], fontsize=9)
    unit = ", percent" if is_share(verdict.metric) else ""
    axes.set(xlabel=names[1], ylabel=names[0])
    axes.set_title(
        f"{verdict.metric}{unit}; framed: no significant difference from the best", fontsize=10
    )
    axes.tick_params(length=0)
    return figure


def _ordered(values: pd.Series) -> list[str]:
    """The distinct values as texts: numbers by size, words in the order they came."""
    distinct = list(dict.fromkeys(values))
    if all(isinstance(value, int | float) for value in distinct):
        distinct.sort()
    return list(dict.fromkeys(map(format_value, distinct)))


def _frame(x: int, y: int) -> tuple[list[float], list[float]]:
    d = 0.46
    return [x - d, x + d, x + d, x - d, x - d], [y - d, y - d, y + d, y + d, y - d]


def parallel_coordinates(verdict: Verdict) -> Figure:
    """A line for each setting through its values. Better settings are darker and on top."""
    rows = verdict.settings[verdict.settings["n"] > 0].head(MOST_LINES)
    axes_of = [*verdict.axes, verdict.metric]
    names = [*short_names(verdict.axes), verdict.metric]
    figure = Figure(figsize=(1.9 * len(axes_of) + 1.0, 4.6), layout="constrained")
    axes = figure.subplots()
    places, ticks = [], []
    for axis in axes_of:
        column = rows["mean"] if axis == verdict.metric else rows[axis]
        at, texts = _placed(column, is_share(axis) and axis == verdict.metric)
        places.append(at)
        ticks.append(texts)
    ranks = np.linspace(1, 0, len(rows)) if len(rows) > 1 else np.ones(1)
    lines = np.array(places).T
    cmap = colormaps["viridis_r"]
    for line, rank in reversed(list(zip(lines, ranks, strict=True))):
        width = 0.8 + 1.4 * rank
        axes.plot(range(len(axes_of)), line, color=cmap(rank), alpha=0.75, linewidth=width)
    box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}
    for x, texts in enumerate(ticks):
        axes.axvline(x, color=INK, linewidth=0.8)
        for y, text in texts:
            axes.text(
                x + 0.03, y, _shorten(text)[:16], fontsize=8, va="center", color=INK, bbox=box
            )
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.set(xlim=(-0.15, len(names) - 0.6), ylim=(-0.06, 1.06), yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _placed(column: pd.Series, percent: bool) -> tuple[list[float], list[tuple[float, str]]]:
    """The height of each value, from 0 to 1, and the marks: (height, text)."""
    values = list(column)
    if all(isinstance(value, int | float | np.number) for value in values):
        numbers = np.array(values, float)
        log = _spans_decades(column) and not percent
        scaled = np.log(numbers) if log else numbers
        low, high = float(scaled.min()), float(scaled.max())
        at = (scaled - low) / ((high - low) or 1.0)
        few = np.unique(at)
        marks = few if len(few) <= MOST_MARKS and not percent else np.linspace(0, 1, 5)
        raw = [low + m * (high - low) for m in marks]
        raw = [math.exp(r) for r in raw] if log else raw
        texts = [f"{100 * r:.2f}%" if percent else f"{r:.3g}" for r in raw]
        return list(at), list(zip(map(float, marks), texts, strict=True))
    names = list(dict.fromkeys(map(format_value, values)))
    height = {name: i / max(1, len(names) - 1) for i, name in enumerate(names)}
    return [height[format_value(value)] for value in values], [
        (y, name) for name, y in height.items()
    ]


def _style(axes: Axes, grid: Literal["both", "x", "y"]) -> None:
    axes.grid(color=PALE, linewidth=0.6, axis=grid)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
