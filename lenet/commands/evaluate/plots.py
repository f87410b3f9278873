"""The picture of `evaluate`: scores by severity. It is returned, neither shown nor saved."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from lenet.commands.evaluate.corruptions import CORRUPTIONS, corrupted
from lenet.training.plots.style import COLORS, INK

LARGER = 1  # a seed with which `scale` makes the example larger, as the numbers above it say


def robustness(scores: pd.DataFrame, image: Tensor) -> Figure:
    """Accuracy and calibration error by severity, and one image at each severity.

    Shapes: image uint8 (C, H, W).
    """
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    halves: Any = figure.subfigures(1, 2)
    left, right = halves
    upper, lower = left.subplots(2, 1, sharex=True)
    _curves(upper, scores, "accuracy")
    _curves(lower, scores, "calibration_error")
    lower.set_xlabel("severity (0: the unchanged test set)")
    upper.legend(frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    _examples(right, image)
    return figure


def _curves(axes: Axes, scores: pd.DataFrame, column: str) -> None:
    for color, name in zip(COLORS, CORRUPTIONS, strict=False):
        values = scores[scores.corruption.isin(["none", name])][column]
        axes.plot(range(len(values)), values, "o-", color=color, markersize=4, label=name)
    axes.set_ylabel(column.replace("_", " "))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)


def _examples(figure: SubFigure, image: Tensor) -> None:
    columns = 1 + max(len(amounts) for _, _, amounts in CORRUPTIONS.values())
    grid = figure.subplots(len(CORRUPTIONS), columns)
    for row, (name, (_, unit, amounts)) in zip(grid, CORRUPTIONS.items(), strict=True):
        for severity, axes in enumerate(row):
            shown = corrupted(image[None], name, severity, LARGER)[0] if severity else image
            # All have one scale; otherwise a change of contrast could not be seen.
            axes.imshow(shown.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
            axes.set(xticks=[], yticks=[])
            amount = f"{amounts[severity - 1]:g}" if severity else "unchanged"
            axes.set_title(amount, fontsize=8, color=INK, pad=2)
        row[0].set_ylabel(f"{name}\n{unit}", fontsize=8)
