"""Pictures of how well a network does: losses by epoch, confusions, accuracies."""

import math
import textwrap
from collections.abc import Sequence

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from lenet.training.evaluate import Score
from lenet.training.plots.style import (
    BLUE,
    INK,
    MAX_CELL_TEXT,
    PALE,
    VERMILION,
    add_axes,
    line_height,
    message,
    text_width,
)
from lenet.training.progress import Epoch


def curves(history: Sequence[Epoch]) -> Figure:
    """Loss and accuracy by epoch.

    The loss axis is logarithmic where the losses span more than two decades.
    """
    if not history:
        return message("No epoch to show.")
    figure = Figure(figsize=(10, 4))
    left, right = (add_axes(figure, edge, 0.35, 4.2, 3.15) for edge in (0.7, 5.8))
    epochs = [epoch.epoch for epoch in history]
    losses = [epoch.loss for epoch in history]
    _line(left, epochs, losses, BLUE, "train")
    _line(right, epochs, [epoch.accuracy for epoch in history], BLUE, "train")
    scored = [(epoch.epoch, epoch.val) for epoch in history if epoch.val is not None]
    if scored:
        best_epoch, best = max(scored, key=lambda pair: pair[1].accuracy)
        val_epochs = [epoch for epoch, _ in scored]
        val_losses = [val.loss for _, val in scored]
        _line(left, val_epochs, val_losses, VERMILION, "validation")
        name = f"validation, best {best.accuracy:.2%} in epoch {best_epoch}"
        _line(right, val_epochs, [val.accuracy for _, val in scored], VERMILION, name)
        losses += val_losses
    if max(losses) > 100 * min(losses) > 0:
        left.set_yscale("log")
    left.set_ylabel("loss")
    right.set_ylabel("accuracy")
    right.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    for axes in (left, right):
        _epoch_axis(axes, epochs)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def training_loss(losses: Sequence[float]) -> Figure:
    """The tutorial's plot: the mean loss of each epoch."""
    figure = Figure(layout="constrained")
    axes = figure.subplots()
    epochs = range(1, len(losses) + 1)
    _line(axes, epochs, losses, BLUE, "Training Loss")
    axes.set(title="Training Loss over Epochs", ylabel="Loss")
    _epoch_axis(axes, epochs)
    axes.set_xlabel("Epoch")
    axes.legend(frameon=False)
    return figure


def _line(axes: Axes, x: Sequence[int], y: Sequence[float], color: str, name: str) -> None:
    # A line of one point can't be seen without its marker.
    axes.plot(x, y, color=color, marker="o", markersize=3, linewidth=1.6, label=name)


def _epoch_axis(axes: Axes, epochs: Sequence[int]) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if epochs:
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.grid(color=PALE, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def confusion_matrix(score: Score, classes: Sequence[str]) -> Figure:
    """Counts of truth (row) and prediction (column). Colour shows each error's share of its row."""
    counts, size = score.confusion, score.num_classes
    rates = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    highest = float(rates.fill_diagonal_(0).max()) or 0.01
    rates.fill_diagonal_(torch.nan)
    # Square root: one confusion in a thousand still shows beside one in ten.
    norm = PowerNorm(0.5, vmin=0, vmax=highest)
    side = min(max(0.42 * size, 5.3), 12.0)
    small = 9 if size <= 12 else 6.5
    longest = max(text_width(name, small) for name in classes)
    left, below = 0.3 + longest, 0.4 + (longest if longest > 0.2 else 0.1)
    heading = textwrap.fill(_worst_confusions(counts, classes), int(side / text_width("a", 10)))
    top = 0.12 + (1 + heading.count("\n")) * line_height(10)
    figure = Figure(figsize=(left + side + 1.2, top + side + below))
    axes = add_axes(figure, left, top, side, side)
    shown = axes.imshow(rates.numpy(), cmap=colormaps["OrRd"].with_extremes(bad=PALE), norm=norm)
    bar = add_axes(figure, left + side + 0.1, top + 0.1 * side, 0.04 * side, 0.8 * side)
    figure.colorbar(shown, cax=bar, format=PercentFormatter(xmax=1))
    bar.set_ylabel("errors: share of the true class")
    rotation = 90 if longest > 0.2 else 0
    axes.set_xticks(range(size), classes, fontsize=small, rotation=rotation)
    axes.set_yticks(range(size), classes, fontsize=small)
    axes.tick_params(length=0)
    axes.set(xlabel="prediction", ylabel="truth")
    axes.set_title(heading, fontsize=10)
    cells = (counts + torch.eye(size)).nonzero().tolist() if size <= MAX_CELL_TEXT else []
    for row, column in cells:
        dark = row != column and norm(float(rates[row, column])) > 0.6
        color, text = "white" if dark else INK, str(int(counts[row, column]))
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=small)
    return figure


def _worst_confusions(counts: Tensor, classes: Sequence[str]) -> str:
    errors = counts.clone().fill_diagonal_(0)
    cells = errors.flatten().argsort(descending=True, stable=True)[:2].tolist()
    worst = [divmod(cell, len(classes)) for cell in cells]
    parts = [f"{classes[r]} → {classes[c]} ({errors[r, c]:,})" for r, c in worst if errors[r, c]]
    return "Most often confused: " + ", ".join(parts) if parts else "No errors"


def class_accuracy(score: Score, classes: Sequence[str]) -> Figure:
    """A point for each class with its 95 % interval."""
    totals = score.confusion.sum(dim=1).tolist()
    left, height = 0.15 + max(text_width(name, 9) for name in classes), 0.36 * score.num_classes
    figure = Figure(figsize=(left + 7.8, 0.8 + height))
    axes = add_axes(figure, left, 0.3, 6.4, height)
    across = axes.get_yaxis_transform()  # x as a share of the axes, y as the row
    rows, shares, lows, highs = [], [], [], []
    for row, (share, total) in enumerate(zip(score.class_accuracy, totals, strict=True)):
        note = "no samples" if share is None else f"{share:.2%}   n = {total:,}"
        axes.text(1.015, row, note, transform=across, va="center", fontsize=9, color=INK)
        if share is not None:
            low, high = _wilson(share, total)
            rows.append(row)
            shares.append(100 * share)
            lows.append(100 * low)
            highs.append(100 * high)
    axes.hlines(rows, lows, highs, color=INK, linewidth=1)
    axes.plot(shares, rows, "o", color=BLUE)
    axes.axvline(100 * score.accuracy, color=VERMILION, linestyle="--", linewidth=1.2)
    axes.set_yticks(range(score.num_classes), classes, fontsize=9)
    axes.invert_yaxis()
    axes.set_xlabel("accuracy in percent, thin line: 95% interval")
    axes.set_title(f"All classes (dashed): {score.accuracy:.2%}, n = {score.count:,}", fontsize=11)
    axes.grid(axis="x", color=PALE, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    # Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    # Unlike share ± z·se, it has a width where every sample is right.
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return (centre - half) / (1 + z * z / count), (centre + half) / (1 + z * z / count)
