"""Pictures of images: samples, their distortions, and mistakes of a network."""

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lenet.data.batches import Distort
from lenet.training.evaluate import Score
from lenet.training.plots.style import message, show_image, to_floats

CELL = 1.25  # inches: an image of a grid, and the space around it
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
    return samples(torch.cat(rows), labels.repeat(len(rows)), classes, columns=len(labels))


def mistakes(images: Tensor, score: Score, classes: Sequence[str], num_samples: int = 32) -> Figure:
    """The images that the model got wrong, the surest first, with the probability it gave them."""
    wrong = (score.predicted != score.labels).nonzero().flatten()
    if not len(wrong):
        return message(f"No mistakes: all {score.count:,} images are classified correctly.")
    order = score.confidence[wrong].argsort(descending=True, stable=True)
    chosen = wrong[order[:num_samples]]
    arrow = "\n→ " if max(map(len, classes)) > LONG_NAME else " → "
    titles = []
    for i in chosen.tolist():
        truth, guess = classes[int(score.labels[i])], classes[int(score.predicted[i])]
        titles.append(f"{truth}{arrow}{guess}\n{float(score.confidence[i]):.1%}")
    part = f"the {len(chosen)} surest of" if len(chosen) < len(wrong) else "all"
    heading = f"Mistakes: {part} {len(wrong):,} in {score.count:,} images, truth → prediction"
    return _grid(images[chosen.to(images.device)], titles, columns=8, heading=heading)


def _grid(images: Tensor, titles: Sequence[str], columns: int, heading: str = "") -> Figure:
    rows = math.ceil(len(titles) / columns)
    lines = [line for title in titles for line in title.split("\n")]
    size = min(9.0, 120 * CELL / max(map(len, lines)))  # points: a glyph is about 0.6 wide
    height = CELL + 0.17 * (1 + titles[0].count("\n"))
    figure = Figure(figsize=(columns * CELL, rows * height + 0.4), layout="constrained")
    figure.suptitle(heading, fontsize=11)
    images = to_floats(images)
    low, high = float(images.min()), float(images.max())
    for i, (image, title) in enumerate(zip(images, titles, strict=True), 1):
        axes = figure.add_subplot(rows, columns, i)
        axes.set_title(title, fontsize=size, pad=3)
        show_image(axes, image, low, high)
    return figure
