"""The benchmark's picture: speed by batch size, and where a step's time goes."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from lenet.commands.benchmark.report import PARTS, Cell, Report, Split, gflops, machine_line, ratio
from lenet.training.plots.style import BLUE, INK, PALE, VERMILION

# The rest of Okabe and Ito's palette; a colour is the same variant in every panel.
COLORS = {
    "tutorial": INK,
    "eager": BLUE,
    "channels_last": "#CC79A7",
    "compile": "#009E73",
    "native": VERMILION,
}
WIDTH, DPI = 10.7, 150  # inches, dots an inch: 1,600 pixels
LABEL = 0.095  # of the axes' height: a label's two lines


def overview(report: Report) -> Figure:
    """Images a second by batch size, a panel for each number of threads, with the spread of the
    rounds; under it the parts of a step, a panel for each batch size."""
    threads = list(dict.fromkeys(cell.threads for cell in report.cells))
    batches = list(dict.fromkeys(split.batch for split in report.splits))
    rows = [4.6, 3.7] if batches else [4.6]
    figure = Figure(figsize=(WIDTH, sum(rows) + 0.4), dpi=DPI, layout="constrained")
    title = f"Training LeNet-5: {machine_line(report.machine)}"
    figure.suptitle(title, fontsize=min(12, 120 * WIDTH / len(title)), weight="bold")
    top, *bottom = figure.subfigures(len(rows), height_ratios=rows, squeeze=False)[:, 0]
    panels = top.subplots(1, len(threads), sharey=True, squeeze=False)[0]
    limits = _limits([v for cell in report.cells for s in cell.speeds.values() for v in s])
    for axes, count in zip(panels, threads, strict=True):
        axes.set_title(f"{count} thread{'s' * (count > 1)}", fontsize=11)
        _speeds(axes, [cell for cell in report.cells if cell.threads == count], limits)
    panels[0].set_ylabel("images a second")
    if bottom:
        panels = bottom[0].subplots(1, len(batches), sharey=True, squeeze=False)[0]
        for axes, batch in zip(panels, batches, strict=True):
            _parts(axes, [split for split in report.splits if split.batch == batch])
    return figure


def _limits(speeds: Sequence[float]) -> tuple[float, float]:
    return 0.8 * min(speeds, default=1.0), 1.25 * max(speeds, default=1.0)


def _speeds(axes: Axes, cells: Sequence[Cell], limits: tuple[float, float]) -> None:
    cells = sorted(cells, key=lambda cell: cell.batch)
    low, high = limits
    ends = []
    for variant, color in COLORS.items():
        points = [(x, cell) for x, cell in enumerate(cells) if variant in cell.speeds]
        if not points:
            continue
        places = [x for x, _ in points]
        speeds = [cell.speeds[variant] for _, cell in points]
        middle = [median(values) for values in speeds]
        axes.plot(places, middle, color=color, marker="o", markersize=4.5, linewidth=1.8)
        reach = [min(values) for values in speeds], [max(values) for values in speeds]
        axes.vlines(places, *reach, color=color, linewidth=5, alpha=0.35)
        last = points[-1][1]
        share = ratio(gflops(last.speeds[variant]), last.sgemm)
        text = f"{variant}\n{middle[-1]:,.0f}/s, {share:.0%} of SGEMM"
        height = math.log(middle[-1] / low) / math.log(high / low)
        ends.append((height, places[-1], text, color))
    ends.sort()
    across = axes.get_xaxis_transform()  # y as a share of the axes
    edge = len(cells) - 0.8
    for (height, x, text, color), place in zip(ends, _apart([h for h, *_ in ends]), strict=True):
        axes.plot([x, edge], [height, place], color=color, linewidth=0.7, transform=across)
        axes.text(
            edge,
            place,
            " " + text.replace("\n", "\n "),
            color=color,
            fontsize=8.5,
            va="center",
            transform=across,
        )
    axes.set_yscale("log")
    axes.set(xlim=(-0.2, edge), ylim=limits, xlabel=f"batch size (figures: at {cells[-1].batch:,})")
    axes.set_xticks(range(len(cells)), [f"{cell.batch:,}" for cell in cells])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(color=PALE, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _apart(heights: Sequence[float]) -> list[float]:
    """Ascending heights, pushed off each other until a label fits on each."""
    places = list(heights)
    for _ in range(100):
        for lower, upper in pairwise(range(len(places))):
            lack = max(0.0, LABEL - (places[upper] - places[lower]))
            places[lower] -= lack / 2
            places[upper] += lack / 2
    return places


def _parts(axes: Axes, splits: Sequence[Split]) -> None:
    thick = 0.8 / len(splits)
    widest = max(split.typical[part] for split in splits for part in PARTS)
    heads = []
    for number, split in enumerate(splits):
        parts, color = split.typical, COLORS[split.variant]
        heads.append(f"{split.variant} {parts['step']:,.0f} µs")
        for row, part in enumerate(PARTS):
            place = row + (number - (len(splits) - 1) / 2) * thick
            axes.barh(place, parts[part], height=0.9 * thick, color=color)
            text = f" {parts[part]:,.0f}, {parts[part] / parts['step']:.0%}"
            if row == 0:
                text += f"  {split.variant}"
            axes.text(parts[part], place, text, va="center", color=color, fontsize=8.5)
    where = f"batch {splits[0].batch}, {splits[0].threads} thread{'s' * (splits[0].threads > 1)}"
    axes.set_title(f"A step at {where}\n{', '.join(heads)}", fontsize=11)
    axes.set_yticks(range(len(PARTS)), list(PARTS.values()))
    axes.set(xlim=(0, 1.35 * widest), ylim=(len(PARTS) - 0.5, -0.5), xlabel="µs, share of the step")
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)
