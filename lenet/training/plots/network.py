"""Pictures of a network: its filters, and an image on its way through the layers."""

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from torch import Tensor

from lenet.training.plots.style import (
    BLUE,
    CELL,
    GAP,
    INK,
    MAX_CELL_TEXT,
    VERMILION,
    add_axes,
    add_frames,
    as_shown,
    sheet,
    show_image,
    to_floats,
)

SIGNED = colormaps["RdBu_r"].with_extremes(bad="white")
PER_COLUMN = 8  # feature maps above one another
TITLE, HEIGHT, SPACE = 0.4, 4.9, 0.3  # inches: above the layers, of a layer, between two layers


def filters(weight: Tensor) -> Figure:
    """The kernels of the first layer: a column for each map, a row for each input channel.

    Shapes: weight (maps, C, H, W).
    """
    weight = to_floats(weight)
    count, channels = weight.shape[:2]
    left, top = 0.25 if channels > 1 else 0.0, 0.25
    width, height = count * CELL, channels * CELL - GAP
    figure, axes = sheet(left + width + 1.1, top + height + GAP)
    norm = _signed_norm(weight)
    for column, maps in enumerate(weight):
        x = left + column * CELL
        axes.text(x + CELL / 2, top - 0.05, f"C1 map {column}", ha="center", fontsize=10)
        for channel, kernel in enumerate(maps):
            place = (x, top + channel * CELL, CELL - GAP, CELL - GAP)
            shown = show_image(axes, kernel, *place, cmap=SIGNED, norm=norm)
    add_frames(axes)
    for channel in range(channels if channels > 1 else 0):
        y = top + channel * CELL + CELL / 2
        axes.text(0, y, f"channel {channel}", rotation=90, va="center", fontsize=9)
    bar = add_axes(figure, left + width + 0.05, top, 0.1, height)
    figure.colorbar(shown, cax=bar, label="weight")
    return figure


def feature_maps(maps: Mapping[str, Tensor], image: Tensor, label: str = "") -> Figure:
    """One image on its way through the network, left to right as in the paper's figure 2.

    Each layer has its own scale. The largest output has a colour of its own.

    Shapes: image (C, H, W) or (1, C, H, W); each layer (1, maps, H, W) or (1, units).
    """
    layers = {"input": to_floats(image).reshape(-1, *image.shape[-2:])}
    layers |= {name: to_floats(values)[0] for name, values in maps.items()}
    widths = [_width(name, layer, image.shape[-1]) for name, layer in layers.items()]
    width = sum(widths) + SPACE * (len(layers) - 1)
    figure, axes = sheet(width, TITLE + HEIGHT + 0.35)
    left = 0.0
    for wide, (name, layer) in zip(widths, layers.items(), strict=True):
        high = HEIGHT
        if name == "output":
            _draw_outputs(add_axes(figure, left, TITLE, wide, HEIGHT), layer)
        else:
            shown, how = _as_image(name, layer)
            high = min(HEIGHT, wide * len(shown) / shown.shape[1]) if layer.ndim > 1 else HEIGHT
            show_image(axes, shown, left, TITLE + (HEIGHT - high) / 2, wide, high, **how)
        shape = "×".join(map(str, layer.shape[1:]))
        text = f"{name}\n{len(layer)}{' @ ' if shape else ''}{shape}"
        top = TITLE + (HEIGHT - high) / 2 - 0.06
        axes.text(left + wide / 2, top, text, ha="center", va="bottom", fontsize=10)
        if name == "input":
            below = TITLE + (HEIGHT + high) / 2 + 0.06
            axes.text(left + wide / 2, below, label, ha="center", va="top", fontsize=12)
        left += wide + SPACE
    colors = "blue: negative    white: zero    red: positive"
    below = TITLE + HEIGHT + 0.1
    axes.text(width / 2, below, colors, ha="center", va="top", fontsize=9, color=INK)
    return figure


def _width(name: str, layer: Tensor, image_side: int) -> float:
    """Inches. Maps get smaller as in the network, but not as much, or S4 could not be seen."""
    if name in ("input", "output"):
        return 2.0
    if layer.ndim == 1:
        return 0.45
    return math.ceil(len(layer) / PER_COLUMN) * (0.33 + 0.46 * layer.shape[-1] / image_side)


def _as_image(name: str, layer: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """A layer as one image, and the colours of its numbers, as `imshow` takes them."""
    if name == "input":
        low, high = float(layer.min()), float(layer.max())
        return as_shown(layer, low, high), {"cmap": "gray", "vmin": low, "vmax": high}
    tiled = layer[:, None] if layer.ndim == 1 else _tiled(layer)
    return tiled, {"cmap": SIGNED, "norm": _signed_norm(layer)}


def _draw_outputs(axes: Axes, outputs: Tensor) -> None:
    best, count = int(outputs.argmax()), len(outputs)
    colors = [VERMILION if k == best else BLUE for k in range(count)]
    axes.barh(range(count), outputs.tolist(), color=colors)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set(xticks=[], ylim=(count - 0.4, -0.6))
    axes.set_yticks(range(count) if count <= MAX_CELL_TEXT else [best])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=9)


def _tiled(maps: Tensor) -> Tensor:
    """The maps in columns as one image, with gaps of NaN. Shapes: (maps, H, W) -> (H', W')."""
    columns = math.ceil(len(maps) / PER_COLUMN)
    rows = math.ceil(len(maps) / columns)
    gap = 1 + maps.shape[-1] // 10
    maps = F.pad(maps, (0, gap, 0, gap), value=torch.nan)
    blank = torch.full_like(maps[:1], torch.nan).expand(columns * rows - len(maps), -1, -1)
    tiles = torch.cat([maps, blank]).unflatten(0, (columns, rows))
    return torch.cat([torch.cat([*column], dim=0) for column in tiles], dim=1)[:-gap, :-gap]


def _signed_norm(values: Tensor) -> CenteredNorm:
    return CenteredNorm(halfrange=float(values.abs().max()) or 1.0)
