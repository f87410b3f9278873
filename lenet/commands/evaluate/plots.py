"""The picture of `evaluate`: scores by severity. It is returned, neither shown nor saved."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from lenet.commands.evaluate.corruptions import CORRUPTIONS, corrupted
from lenet.commands.evaluate.robustness import Result
from lenet.training.plots.style import COLORS, INK


def robustness(results: Sequence[Result], image: Tensor) -> Figure:
    """Accuracy and calibration error by severity, and one image at each severity.

    Shapes: image uint8 (C, H, W).
    """
    figure = Figure(figsize=(11, 6.2), layout="constrained")
    halves: Any = figure.subfigures(1, 2)
    left, right = halves
    upper, lower = left.subplots(2, 1, sharex=True)
    clean = results[0].score
    for color, name in zip(COLORS, CORRUPTIONS, strict=False):
        scores = [clean, *(r.score for r in results if r.corruption == name)]
        for axes, values in (
            (upper, [s.accuracy for s in scores]),
            (lower, [s.calibration_error for s in scores]),
        ):
            axes.plot(range(len(values)), values, "o-", color=color, markersize=4, label=name)
    _percent(upper, "accuracy")
    _percent(lower, "calibration error")
    lower.set_xlabel("severity (0: the unchanged test set)")
    upper.legend(frameon=False, fontsize=9, ncols=3, loc="lower left", bbox_to_anchor=(0, 1))
    _examples(right, image)
    return figure


def _percent(axes: Axes, name: str) -> None:
    axes.set_ylabel(name)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)


def _examples(figure: SubFigure, image: Tensor) -> None:
    columns = 1 + max(len(amounts) for _, _, amounts in CORRUPTIONS.values())
    grid = figure.subplots(len(CORRUPTIONS), columns)
    for row, (name, (_, unit, amounts)) in zip(grid, CORRUPTIONS.items(), strict=True):
        for severity, axes in enumerate(row):
            shown = corrupted(image[None], name, severity)[0] if severity else image
            # All have one scale; otherwise a change of contrast could not be seen.
            axes.imshow(shown.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=255)
            axes.set_xticks([])
            axes.set_yticks([])
            amount = f"{amounts[severity - 1]:g}" if severity else unit
            axes.set_title(amount, fontsize=8, color=INK, pad=2)
        row[0].set_ylabel(name, fontsize=9)
