"""The benchmark's picture."""

from collections.abc import Sequence
from statistics import median

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lenet.commands.benchmark.training import Cell
from lenet.training.plots.style import BLUE, PALE, VERMILION

COLORS = {"eager": BLUE, "channels_last": "#CC79A7", "compile": "#009E73", "native": VERMILION}


def speeds(cells: Sequence[Cell], machine: str) -> Figure:
    """Images a second by batch size, a panel for each number of threads; bars span the rounds."""
    threads = list(dict.fromkeys(cell.threads for cell in cells))
    figure = Figure(figsize=(10.7, 5), dpi=150, layout="constrained")
    figure.suptitle(f"Training LeNet-5: {machine}", fontsize=9)
    panels = figure.subplots(1, len(threads), sharey=True, squeeze=False)[0]
    for axes, count in zip(panels, threads, strict=True):
        own = sorted((c for c in cells if c.threads == count), key=lambda cell: cell.batch)
        for variant, color in COLORS.items():
            rounds = {x: c.speeds[variant] for x, c in enumerate(own) if variant in c.speeds}
            middle = [median(values) for values in rounds.values()]
            axes.plot(list(rounds), middle, "o-", color=color, markersize=4, label=variant)
            low, high = ([pick(v) for v in rounds.values()] for pick in (min, max))
            axes.vlines(list(rounds), low, high, color=color, linewidth=5, alpha=0.35)
        axes.set_title(f"{count} thread{'s' * (count > 1)}", fontsize=11)
        axes.set(yscale="log", xlabel="batch size")
        axes.set_xticks(range(len(own)), [f"{cell.batch:,}" for cell in own])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(color=PALE, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("images a second")
    panels[0].legend(frameon=False, fontsize=9)
    return figure
