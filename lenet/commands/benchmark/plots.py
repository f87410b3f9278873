"""The benchmark's picture."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lenet.training.plots.style import COLORS, PALE


def plot(speeds: pd.DataFrame) -> Figure:
    """Images a second by batch size, a panel for each number of threads; bars span the rounds."""
    panels = speeds.groupby("threads")
    figure = Figure(figsize=(10.7, 5), layout="constrained")
    figure.suptitle("Training LeNet-5", fontsize=11)
    rows = figure.subplots(1, panels.ngroups, sharey=True, squeeze=False)[0]
    for axes, (threads, panel) in zip(rows, panels, strict=True):
        for color, (variant, own) in zip(
            COLORS, panel.groupby("variant", sort=False), strict=False
        ):
            rounds = own.groupby("batch").speed
            sizes = [f"{size:,}" for size in rounds.groups]
            axes.plot(sizes, rounds.median(), "o-", color=color, markersize=4, label=variant)
            axes.vlines(sizes, rounds.min(), rounds.max(), color=color, linewidth=5, alpha=0.35)
        axes.set_title(f"{threads} thread{'s' * (threads > 1)}", fontsize=11)
        axes.set(yscale="log", xlabel="batch size")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(color=PALE, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    rows[0].set_ylabel("images a second")
    rows[0].legend(frameon=False, fontsize=9)
    return figure
