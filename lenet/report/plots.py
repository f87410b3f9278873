"""The figures of a sweep's report."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from lenet.config.metrics import is_share
from lenet.config.overrides import format_value, short_names
from lenet.report.effects import Effect
from lenet.report.published import Comparison, as_printed
from lenet.report.verdict import BEST, SAME, Verdict
from lenet.training.plots.style import BLUE, COLORS, INK, PALE, VERMILION

MOST_ROWS, MOST_CURVES, MOST_LINES = 25, 8, 400
MOST_MARKS = 7  # A number with more values gets marks at even distances.
LONGEST_LABEL = 46


def ranking(verdict: Verdict) -> Figure:
    """Mean and 95 % interval of each setting, best on top."""
    rows = verdict.settings[verdict.settings["n"] > 0].head(MOST_ROWS)
    figure, axes = _rows_figure(rows["label"])
    for y, row in enumerate(rows.itertuples()):
        good = row.verdict in (BEST, SAME)
        color = BLUE if good else INK
        axes.plot([row.low, row.high], [y, y], color=color, linewidth=1.4)
        filled = color if good else "white"
        axes.plot(row.mean, y, "o", color=color, markerfacecolor=filled, markersize=6)
    axes.set_xlabel(f"{verdict.metric}: mean and 95% interval")
    title = "filled: the best, and settings without a significant difference from it"
    axes.set_title(title, fontsize=9, loc="right")
    _percent(axes.xaxis, verdict.metric)
    return figure


def published(compared: Sequence[Comparison]) -> Figure:
    """The means of one metric with their 95 % intervals, and the published numbers."""
    name, numbers = as_printed(compared)
    figure, axes = _rows_figure([each.label for each in numbers])
    for y, each in enumerate(numbers):
        axes.plot([each.mean, each.published], [y, y], color=PALE, linewidth=1.2, zorder=1)
        axes.plot([each.low, each.high], [y, y], color=BLUE, linewidth=1.6)
    ours = [each.mean for each in numbers]
    theirs = [each.published for each in numbers]
    style: dict[str, Any] = {"linestyle": "", "markersize": 6}
    axes.plot(ours, range(len(ours)), marker="o", color=BLUE, label="measured", **style)
    style["markerfacecolor"] = "white"
    axes.plot(theirs, range(len(ours)), marker="D", color=VERMILION, label="published", **style)
    axes.set_xlabel(f"{name}: mean and 95% interval")
    if min(*ours, *theirs) > 0 and max(*ours, *theirs) > 5 * min(*ours, *theirs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    _percent(axes.xaxis, compared[0].metric)
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
        axes.plot(
            band.index, band["mean"], "o-", color=color, markersize=3, label=_shorten(row.label)
        )
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
    if not is_share(metric):
        axes.set_yscale("log" if values.min() > 0 else "linear")
        return
    low, high = float(values.quantile(0.1)), float(values.max())
    gap = max(high - low, 1e-4) * 0.1
    axes.set_ylim(max(0.0, low - gap), min(1.0, high + gap))


def effects(found: Sequence[Effect], metric: str) -> Figure:
    """For each value of each parameter: the mean over its runs, with the 95 % interval."""
    found = [effect for effect in found if len(effect.levels)]
    columns = min(3, len(found))
    rows = math.ceil(len(found) / columns)
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


def heat_map(verdict: Verdict) -> Figure:
    """The mean for each pair of values. A frame marks no significant difference from the best."""
    down, across = verdict.axes
    rows = verdict.settings[verdict.settings["n"] > 0]
    table = rows.pivot(index=down, columns=across, values="mean")
    good = rows.pivot(index=down, columns=across, values="verdict").isin([BEST, SAME])
    size = (2.6 + 0.85 * len(table.columns), 1.6 + 0.5 * len(table))
    figure = Figure(figsize=size, layout="compressed")
    axes = figure.subplots()
    # Otherwise one bad corner takes all the colours.
    worst = float(np.nanquantile(table, 0.1 if verdict.maximize else 0.9))
    bound: dict[str, Any] = {"vmin" if verdict.maximize else "vmax": worst}
    cmap = colormaps["cividis" if verdict.maximize else "cividis_r"].with_extremes(bad=PALE)
    image = axes.imshow(table, cmap=cmap, aspect="auto", **bound)
    middle = np.nanmean(image.get_clim())
    for (y, x), value in np.ndenumerate(table):
        color = "black" if (value > middle) == verdict.maximize else "white"
        text = f"{100 * value:.2f}" if is_share(verdict.metric) else f"{value:.4g}"
        if math.isfinite(value):
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color=color)
        if good.iat[y, x]:
            place, size = (x - 0.46, y - 0.46), (0.92, 0.92)
            axes.add_patch(Rectangle(place, *size, fill=False, edgecolor=VERMILION, linewidth=1.8))
    for axis, values in ((axes.xaxis, table.columns), (axes.yaxis, table.index)):
        texts = [_shorten(format_value(value)) for value in values]
        axis.set_ticks(range(len(texts)), texts, fontsize=9)
    names = short_names(verdict.axes)
    unit = ", percent" if is_share(verdict.metric) else ""
    title = f"{verdict.metric}{unit}; framed: no significant difference from the best"
    axes.set(xlabel=names[1], ylabel=names[0])
    axes.set_title(title, fontsize=10)
    axes.tick_params(length=0)
    return figure


def parallel_coordinates(verdict: Verdict) -> Figure:
    """A line for each setting through its values. Better settings are darker and on top."""
    rows = verdict.settings[verdict.settings["n"] > 0].head(MOST_LINES)
    names = [*short_names(verdict.axes), verdict.metric]
    figure = Figure(figsize=(1.9 * len(names) + 1.0, 4.6), layout="constrained")
    axes = figure.subplots()
    heights = []
    box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}
    for x, axis in enumerate([*verdict.axes, "mean"]):
        percent = axis == "mean" and is_share(verdict.metric)
        at, marks = _placed(rows[axis], percent)
        heights.append(at)
        axes.axvline(x, color=INK, linewidth=0.8, zorder=3)
        for y, text in marks:
            style: dict[str, Any] = {"va": "center", "color": INK, "bbox": box, "zorder": 3}
            axes.text(x + 0.03, y, _shorten(text)[:16], fontsize=8, **style)
    ranks = np.linspace(0, 1, len(rows))
    cmap = colormaps["viridis_r"]
    for line, rank in zip(reversed(np.transpose(heights)), ranks, strict=True):
        axes.plot(line, color=cmap(rank), alpha=0.75, linewidth=0.8 + 1.4 * rank)
    axes.set_xticks(range(len(names)), names, fontsize=9)
    axes.set(xlim=(-0.15, len(names) - 0.6), ylim=(-0.06, 1.06), yticks=[])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def _placed(column: pd.Series, percent: bool) -> tuple[Any, list[tuple[float, str]]]:
    """The height of each value, from 0 to 1, and the marks: (height, text)."""
    numbers = pd.to_numeric(column, errors="coerce").astype(float)
    if numbers.isna().any():
        codes, names = pd.factorize(column.map(format_value))
        step = 1 / max(1, len(names) - 1)
        return codes * step, [(place * step, name) for place, name in enumerate(names)]
    log = _spans_decades(numbers) and not percent
    scaled = np.log(numbers) if log else numbers
    low, span = scaled.min(), np.ptp(scaled)
    heights = (scaled - low) / (span or 1.0)
    marks = np.unique(heights)
    if percent or len(marks) > MOST_MARKS:
        marks = np.linspace(0, 1, 5)
    values = low + marks * span
    if log:
        values = np.exp(values)
    texts = [f"{100 * v:.2f}%" if percent else f"{v:.3g}" for v in values]
    return heights, list(zip(marks, texts, strict=True))


# ---- What several figures need ---------------------------------------------------------------


def _rows_figure(labels: Sequence[str]) -> tuple[Figure, Axes]:
    """A figure with a row for each label, the first on top."""
    figure = Figure(figsize=(9, 1.2 + 0.3 * len(labels)), layout="constrained")
    axes = figure.subplots()
    axes.set_yticks(range(len(labels)), [_shorten(label) for label in labels], fontsize=9)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    _style(axes, "x")
    return figure, axes


def _percent(axis: Any, metric: str) -> None:
    if is_share(metric):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))


def _shorten(text: str) -> str:
    return text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "…"


def _spans_decades(values: pd.Series) -> bool:
    numbers = values.astype(float)
    return bool(numbers.min() > 0 and numbers.max() / numbers.min() >= 10)


def _style(axes: Axes, grid: Literal["both", "x", "y"]) -> None:
    axes.grid(color=PALE, linewidth=0.6, axis=grid)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
