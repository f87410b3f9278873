"""Pictures of a network: its filters, and an image on its way through the layers."""

import math
from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from lenet.training.plots.style import (
    BLUE,
    INK,
    MAX_CELL_TEXT,
    VERMILION,
    finite_range,
    show_image,
    to_floats,
)

SIGNED = "RdBu_r"
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
    for name, values in maps.items():
        layer = to_floats(values)[0]
        layers[name] = layer if layer.shape[1:].numel() > 1 else layer.flatten()
    sizes = [_panel_inches(name, layer, image.shape[-1]) for name, layer in layers.items()]
    space, top = 0.42, 0.75  # inches: between panels, for the titles
    width = sum(w + space for w, _ in sizes) + space
    height = max(h for _, h in sizes) + top + 0.5
    figure = Figure(figsize=(width, height))
    left = space
    for (name, layer), (w, h) in zip(layers.items(), sizes, strict=True):
        bottom = (height - top - h) / 2 + 0.2
        axes = figure.add_axes((left / width, bottom / height, w / width, h / height))
        axes.set(xticks=[], yticks=[])
        _draw_layer(axes, name, layer)
        shape = "×".join(map(str, layer.shape[1:]))
        shape = f"{len(layer)} @ {shape}" if shape else f"{len(layer)}"
        middle = (left + w / 2) / width
        figure.text(middle, 1 - 0.32 / height, name, ha="center", weight="bold", fontsize=12)
        figure.text(middle, 1 - 0.54 / height, shape, ha="center", fontsize=9, color=INK)
        left += w + space
    figure.axes[0].set_xlabel(label, fontsize=12)
    note = "blue: negative    white: zero    red: positive"
    figure.text(0.5, 0.12 / height, note, ha="center", fontsize=9, color=INK)
    return figure


def _panel_inches(name: str, layer: Tensor, image_side: int) -> tuple[float, float]:
    if name == "input":
        return 1.9, 1.9
    if name == "output":
        return 1.6, min(max(2.6, 0.13 * len(layer)), 4.3)
    if layer.ndim == 1:
        return 0.28, max(0.3, 0.032 * len(layer))
    # Maps get smaller as in the network, but not as much, or S4 could not be seen.
    cell = 0.33 + 0.46 * layer.shape[-1] / image_side
    columns = math.ceil(len(layer) / PER_COLUMN)
    return cell * columns, cell * math.ceil(len(layer) / columns)


def _draw_layer(axes: Axes, name: str, layer: Tensor) -> None:
    if name == "input":
        show_image(axes, layer, *finite_range(layer))
    elif name == "output":
        best, count = int(layer.argmax()), len(layer)
        colors = [VERMILION if k == best else BLUE for k in range(count)]
        axes.barh(range(count), layer.nan_to_num(0, 0, 0).tolist(), color=colors)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(count) if count <= MAX_CELL_TEXT else [best])
        axes.set_ylim(count - 0.4, -0.6)
        axes.tick_params(length=0, labelsize=9)
        axes.spines[:].set_visible(False)
    elif layer.ndim == 1:
        axes.imshow(layer[:, None].numpy(), SIGNED, norm=_signed_norm(layer), aspect="auto")
    else:
        _stack_maps(axes, layer)


def _stack_maps(axes: Axes, maps: Tensor) -> None:
    norm = _signed_norm(maps)
    high, wide = maps.shape[1:]
    gap = 0.1 * wide
    columns = math.ceil(len(maps) / PER_COLUMN)
    rows = math.ceil(len(maps) / columns)
    for i, values in enumerate(maps):
        column, row = divmod(i, rows)
        x, y = column * (wide + gap), row * (high + gap)
        box = (x, x + wide, y + high, y)
        axes.imshow(values.numpy(), SIGNED, norm=norm, extent=box)
        axes.add_patch(Rectangle((x, y), wide, high, fill=False, edgecolor=INK, linewidth=0.5))
    edge = gap / 2
    axes.set_xlim(-edge, columns * (wide + gap) - edge)
    axes.set_ylim(rows * (high + gap) - edge, -edge)
    axes.axis("off")


def _signed_norm(values: Tensor) -> CenteredNorm:
    return CenteredNorm(halfrange=max(map(abs, finite_range(values))) or 1.0)
