"""Pictures of images: samples, their distortions, and mistakes of a network."""

import math
from collections.abc import Sequence

import torch
from matplotlib.figure import Figure
from torch import Tensor

from lenet.data.batches import Distort
from lenet.training.evaluate import Score
from lenet.training.plots.style import LONG_NAME, finite_range, message, show_image, to_floats

CELL, GAP = 1.1, 0.12  # inches: an image of a grid, and the space around it


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
    return samples(torch.cat(rows), labels.repeat(len(rows)), classes)


def mistakes(images: Tensor, score: Score, classes: Sequence[str], num_samples: int = 32) -> Figure:
    """The images that the model got wrong, the surest first, with the probability it gave them.

    Raises: ValueError where the score is of another number of images.
    """
    if len(images) != score.count:
        raise ValueError(f"images: the score is of {score.count}, got {len(images)}")
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
    if not titles:
        return message("No image to show.")
    columns = min(columns, len(titles))
    rows = math.ceil(len(titles) / columns)
    lines = [line for title in titles for line in title.split("\n")]
    size = min(9.0, 120 * CELL / max(map(len, lines)))  # points: a glyph is about 0.6 wide
    under = CELL + GAP + 0.17 * (1 + max(title.count("\n") for title in titles))
    width = max(columns * (CELL + GAP) + GAP, 5.5 if heading else 0.0)
    height = rows * under + GAP + (0.3 if heading else 0.0)
    figure = Figure(figsize=(width, height))
    indent = (width - columns * (CELL + GAP) + GAP) / 2
    images = to_floats(images)
    low, high = finite_range(images)
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = divmod(i, columns)
        left, bottom = indent + column * (CELL + GAP), (rows - 1 - row) * under + GAP
        axes = figure.add_axes((left / width, bottom / height, CELL / width, CELL / height))
        axes.set_title(title, fontsize=size, pad=3)
        show_image(axes, image, low, high)
    figure.text(0.5, 1 - 0.22 / height, heading, ha="center", fontsize=11)
    return figure
