"""Colours and small helpers that all pictures share.

`Figure` is used directly, not through pyplot: no global state, no backend, no limit of open
figures. A run's pictures have their places in inches: to let matplotlib find places for them takes
longer than to draw them.
"""

import textwrap
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox
from torch import Tensor, nn

from lenet.data.sets import Data
from lenet.model.lenet5 import count_parameters

# Source: Okabe and Ito, "Color universal design": colour-blind readers can tell them apart.
BLUE, VERMILION, PALE, INK = "#0072B2", "#D55E00", "#D3DAE0", "#444444"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D00", "#000000")
CELL, GAP = 1.25, 0.08  # inches: an image of a grid with the space around it, and that space
MAX_CELL_TEXT = 30  # classes; with more, the text of each can't be read


def small_print(run: str, data: Data, model: nn.Module) -> str:
    """The run, its data and its network, for `caption`."""
    network = f"{type(model).__name__}, {count_parameters(model):,} parameters"
    return f"{run}; {data.line()}; {network}"


def caption(figure: Figure, text: str) -> Figure:
    """The figure, with this small print below it."""
    lines = [textwrap.fill(line, int(19 * figure.get_figwidth())) for line in text.splitlines()]
    figure.text(0, 0, "\n".join(lines), va="top", fontsize=7, color=INK)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Writes the figure with its small print. The name of the file says the format."""
    small = [text.get_window_extent() for text in figure.texts]
    inches = Bbox.union([figure.bbox, *small]).transformed(figure.dpi_scale_trans.inverted())
    # Of pictures like ours zlib's level 1 makes files a tenth larger, in a third of the time.
    options: dict[str, Any] = {"pil_kwargs": {"compress_level": 1}} if path.suffix == ".png" else {}
    figure.savefig(path, dpi=150, bbox_inches=inches.padded(0.1), **options)


def to_floats(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu()


def message(text: str) -> Figure:
    figure = Figure(figsize=(6, 1.5))
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12, color=INK)
    return figure


def text_width(text: str, size: float) -> float:
    """Inches, roughly: a glyph is about 0.6 wide. `size` is in points."""
    return 0.6 * size / 72 * max(map(len, text.split("\n")))


def line_height(size: float) -> float:
    """Inches from one line of text to the next. `size` is in points."""
    return 1.2 * size / 72


def add_axes(figure: Figure, left: float, top: float, width: float, height: float) -> Axes:
    """Axes at a place in inches from the figure's upper left corner."""
    across, down = figure.get_size_inches()
    place = (left / across, 1 - (top + height) / down, width / across, height / down)
    return figure.add_axes(place)


def sheet(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of this size, and axes all over it whose coordinates are inches from its upper left
    corner.
    """
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def show_image(
    axes: Axes, image: Tensor, left: float, top: float, width: float, height: float, **how: Any
) -> AxesImage:
    """An image at a place of a `sheet`; `how` as for `imshow`. Shapes: image (H, W[, 3])."""
    place = (left, left + width, top + height, top)
    return axes.imshow(image.numpy(), extent=place, aspect="auto", **how)


def add_frames(axes: Axes) -> None:
    """A thin frame around each image of a `sheet`."""
    boxes = []
    for left, right, bottom, top in (image.get_extent() for image in axes.images):
        boxes.append(Rectangle((left, top), right - left, bottom - top))
    axes.add_collection(PatchCollection(boxes, facecolor="none", edgecolor="black", linewidth=0.8))


def as_shown(image: Tensor, low: float, high: float) -> Tensor:
    """Three channels as RGB, of any other number the mean. Shapes: (C, H, W) -> (H, W[, 3])."""
    if len(image) != 3:
        return image.mean(dim=0)
    return ((image - low) / ((high - low) or 1.0)).clamp(0, 1).permute(1, 2, 0)
