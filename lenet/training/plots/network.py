"""Pictures of a network: its filters, and an image on its way through the layers."""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from lenet.training.plots.style import (
    BLUE,
    INK,
    MAX_CELL_TEXT,
    VERMILION,
    show_image,
    to_floats,
)

SIGNED = colormaps["RdBu_r"].with_extremes(bad="white")
PER_COLUMN = 8  # feature maps above one another


def filters(weight: Tensor) -> Figure:
    """The kernels of the first layer: a column for each map, a row for each input channel.

    Shapes: weight (maps, C, H, W).
    """
    weight = to_floats(weight)
    count, channels = weight.shape[:2]
    figure = Figure(figsize=(1.2 * count + 0.9, 1.2 * channels + 0.45), layout="constrained")
    grid = figure.subplots(channels, count, squeeze=False)
    norm = _signed_norm(weight)
    for channel, row in enumerate(grid):
        for column, axes in enumerate(row):
            shown = axes.imshow(weight[column, channel].numpy(), SIGNED, norm=norm)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(f"channel {channel}" if channels > 1 else "", fontsize=9)
    for column, axes in enumerate(grid[0]):
        axes.set_title(f"C1 map {column}", fontsize=10)
    figure.colorbar(shown, ax=grid, fraction=0.05, pad=0.02, label="weight")
    return figure


def feature_maps(maps: Mapping[str, Tensor], image: Tensor, label: str = "") -> Figure:
    """One image on its way through the network, left to right as in the paper's figure 2.

    Each layer has its own scale. The largest output has a colour of its own.

    Shapes: image (C, H, W) or (1, C, H, W); each layer (1, maps, H, W) or (1, units).
    """
    layers = {"input": to_floats(image).reshape(-1, *image.shape[-2:])}
    layers |= {name: to_floats(values)[0] for name, values in maps.items()}
    widths = [_width(name, layer, image.shape[-1]) for name, layer in layers.items()]
    size = (sum(widths) + 0.4 * len(widths), 5.7)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.12))
    panels = figure.subplots(1, len(layers), width_ratios=widths)
    for axes, (name, layer) in zip(panels, layers.items(), strict=True):
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        _draw_layer(axes, name, layer)
        shape = "×".join(map(str, layer.shape[1:]))
        axes.set_title(f"{name}\n{len(layer)}{' @ ' if shape else ''}{shape}", fontsize=10)
    panels[0].set_xlabel(label, fontsize=12)
    figure.supxlabel("blue: negative    white: zero    red: positive", fontsize=9, color=INK)
    return figure


def _width(name: str, layer: Tensor, image_side: int) -> float:
    """Inches. Maps get smaller as in the network, but not as much, or S4 could not be seen."""
    if name in ("input", "output"):
        return 1.9
    if layer.ndim == 1:
        return 0.4
    return math.ceil(len(layer) / PER_COLUMN) * (0.33 + 0.46 * layer.shape[-1] / image_side)


def _draw_layer(axes: Axes, name: str, layer: Tensor) -> None:
    if name == "input":
        show_image(axes, layer, float(layer.min()), float(layer.max()))
    elif name == "output":
        best, count = int(layer.argmax()), len(layer)
        colors = [VERMILION if k == best else BLUE for k in range(count)]
        axes.barh(range(count), layer.tolist(), color=colors)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(count) if count <= MAX_CELL_TEXT else [best])
        axes.set_ylim(count - 0.4, -0.6)
        axes.tick_params(length=0, labelsize=9)
    elif layer.ndim == 1:
        axes.imshow(layer[:, None].numpy(), SIGNED, norm=_signed_norm(layer), aspect="auto")
    else:
        axes.imshow(_tiled(layer).numpy(), SIGNED, norm=_signed_norm(layer))


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
