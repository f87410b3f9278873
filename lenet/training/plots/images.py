"""Pictures of images: samples, their distortions, and mistakes of a network."""

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lenet.data.batches import Distort
from lenet.training.evaluate import Score
from lenet.training.plots.style import (
    CELL,
    GAP,
    add_frames,
    as_shown,
    line_height,
    message,
    sheet,
    show_image,
    text_width,
    to_floats,
)

LONG_NAME = 5  # characters; a longer class name gets a line of its own


def samples(
    images: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    num_samples: int = 32,
    columns: int = 8,
) -> Figure:
    """The first images under the names of their classes, all on one scale of grey or colour.

    Shapes: images (N, C, H, W); three channels are shown as RGB, any other number as their mean.
    """
    names = [str(classes[label]) for label in labels[:num_samples].tolist()]
    return _grid(images[:num_samples], names, columns)


def distortions(
    images: Tensor, labels: Tensor, classes: Sequence[str], distort: Distort, times: int = 3
) -> Figure:
    """The first eight images, and below each one `times` random distortions of it."""
    images, labels = images[:8], labels[:8]
    generator = torch.Generator().manual_seed(0)
    rows = [images.float(), *(distort(images, generator) for _ in range(times))]
    titles = [str(classes[label]) for label in labels.tolist()]
    names = ["original", *(f"distorted, {k}" for k in range(1, times + 1))]
    return _grid(torch.cat(rows), titles * len(rows), len(titles), rows=names)


def mistakes(images: Tensor, score: Score, classes: Sequence[str], num_samples: int = 32) -> Figure:
    """The images that the model got wrong, the surest first, with the probability it gave them and
    their numbers in the set.
    """
    wrong = (score.predicted != score.labels).nonzero().flatten()
    if not len(wrong):
        return message(f"No mistakes: all {score.count:,} images are classified correctly.")
    order = score.confidence[wrong].argsort(descending=True, stable=True)
    chosen = wrong[order[:num_samples]]
    arrow = "\n→ " if max(map(len, classes)) > LONG_NAME else " → "
    titles = []
    for i in chosen.tolist():
        truth, guess = classes[int(score.labels[i])], classes[int(score.predicted[i])]
        titles.append(f"{truth}{arrow}{guess}\n{float(score.confidence[i]):.1%}  #{i}")
    part = f"the {len(chosen)} surest of" if len(chosen) < len(wrong) else "all"
    heading = f"Mistakes: {part} {len(wrong):,} in {score.count:,} images"
    heading += "\ntruth → prediction, its probability, #number of the test image"
    return _grid(images[chosen.to(images.device)], titles, columns=8, heading=heading)


def _grid(
    images: Tensor,
    titles: Sequence[str],
    columns: int,
    heading: str = "",
    rows: Sequence[str] = (),
) -> Figure:
    """`rows` are the names of the rows."""
    size = 9.0 * min(1.0, CELL / max(text_width(title, 9.0) for title in titles))  # points
    top = heading.count("\n") * line_height(11) + 0.3 if heading else 0.0
    left = 0.25 if rows else 0.0
    above = (1 + titles[0].count("\n")) * line_height(size) + GAP
    down, side = above + CELL, CELL - GAP
    count = math.ceil(len(titles) / columns)
    figure, axes = sheet(left + columns * CELL, top + count * down)
    axes.text(left + columns * CELL / 2, 0, heading, ha="center", va="top", fontsize=11)
    images = to_floats(images)
    low, high = float(images.min()), float(images.max())
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        x, y = left + i % columns * CELL, top + i // columns * down + above
        axes.text(x + side / 2, y - 0.04, title, ha="center", va="bottom", fontsize=size)
        shown = as_shown(image, low, high)
        show_image(axes, shown, x, y, side, side, cmap="gray", vmin=low, vmax=high)
    add_frames(axes)
    for row, name in enumerate(rows):
        y = row * down + above + side / 2
        axes.text(0, y, name, rotation=90, va="center", fontsize=9)
    return figure
