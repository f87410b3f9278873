"""Records -> matplotlib Figures; never shows, never saves.

`Figure` is used directly, not through pyplot: no global state, no backend, no open-figure limit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import CenteredNorm, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

if TYPE_CHECKING:
    from lenet.data.sets import Data, Distort
    from lenet.model.lenet5 import LeNet5
    from lenet.training.evaluate import Score
    from lenet.training.loop import Epoch

# Okabe and Ito's palette and ColorBrewer's maps: told apart by colour-blind readers.
BLUE, VERMILION, PALE, INK = "#0072B2", "#D55E00", "#D3DAE0", "#444444"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D00", "#000000")
# Source: Okabe and Ito, "Color universal design": told apart by the colour-blind, too.
SIGNED = "RdBu_r"
CELL, GAP = 1.1, 0.12  # inches: an image of a grid, and the space around it
MAX_CELL_TEXT = 30  # classes; above that the counts of a confusion matrix can't be read
MAX_MARKERS = 30  # points; a line of one point can't be seen without its marker
LONG_NAME = 5  # characters; longer names are put on a line of their own
PER_COLUMN = 8  # feature maps stacked above one another


def curves(history: "Sequence[Epoch]") -> Figure:
    """Loss and accuracy by epoch; what is not finite is a gap, and epochs without validation too.

    The loss axis is logarithmic where the losses span more than two decades.
    """
    if not history:
        return _message("No epoch to show.")
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    epochs = [epoch.epoch for epoch in history]
    scored = [(epoch.epoch, epoch.val) for epoch in history if epoch.val is not None]
    losses = [epoch.loss for epoch in history]
    val_losses = [val.loss for _, val in scored]
    _line(left, epochs, losses, BLUE, "train")
    _line(right, epochs, [epoch.accuracy for epoch in history], BLUE, "train")
    if scored:
        best_epoch, best = max(scored, key=lambda pair: pair[1].accuracy)
        val_epochs = [epoch for epoch, _ in scored]
        _line(left, val_epochs, val_losses, VERMILION, "validation")
        name = f"validation, best {best.accuracy:.2%} in epoch {best_epoch}"
        _line(right, val_epochs, [val.accuracy for _, val in scored], VERMILION, name)
    finite = [loss for loss in losses + val_losses if math.isfinite(loss)]
    if not finite:
        left.text(0.5, 0.5, "no finite loss", transform=left.transAxes, ha="center", color=INK)
    elif min(finite) > 0 and max(finite) / min(finite) > 100:
        left.set_yscale("log")
    left.set_ylabel("loss")
    right.set_ylabel("accuracy")
    right.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    for axes in (left, right):
        _epoch_axis(axes, epochs)
        axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def confusion_matrix(score: "Score", classes: Sequence[str]) -> Figure:
    """Counts, row = truth, column = prediction; colour is for the errors, by share of their row.

    Raises: ValueError where `classes` does not name every class of the score.
    """
    counts = score.confusion.cpu()
    size = _check_names(counts, classes)
    rates = counts / counts.sum(dim=1, keepdim=True).clamp(min=1)
    rates.fill_diagonal_(torch.nan)
    # Square root: one confusion in a thousand still shows beside one in ten.
    norm = PowerNorm(0.5, vmin=0, vmax=_finite_range(rates)[1] or 0.01)
    side = min(max(0.42 * size, 6.0), 13.0)
    figure = Figure(figsize=(side + 0.8, side), layout="compressed")
    axes = figure.subplots()
    shown = axes.imshow(rates.numpy(), cmap=colormaps["OrRd"].with_extremes(bad=PALE), norm=norm)
    bar = figure.colorbar(shown, ax=axes, fraction=0.04, pad=0.02, format=PercentFormatter(xmax=1))
    bar.set_label("errors: share of the true class")
    small = 9 if size <= 12 else 6.5
    # A glyph is about 0.6 of its size wide; the cells together take 0.7 of the figure.
    steep = max(map(len, classes)) * 0.6 * small / 72 > 0.7 * side / size
    axes.set_xticks(range(size), classes, fontsize=small, rotation=90 if steep else 0)
    axes.set_yticks(range(size), classes, fontsize=small)
    axes.tick_params(length=0)
    axes.set(xlabel="prediction", ylabel="truth")
    figure.suptitle(_worst_confusions(counts, classes), fontsize=10)
    cells = (counts + torch.eye(size)).nonzero().tolist() if size <= MAX_CELL_TEXT else []
    for row, column in cells:
        dark = row != column and norm(float(rates[row, column])) > 0.6
        color, text = "white" if dark else INK, str(int(counts[row, column]))
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=small)
    return figure


def _worst_confusions(counts: Tensor, classes: Sequence[str]) -> str:
    errors = counts.clone().fill_diagonal_(0)
    most = 2 if max(map(len, classes)) > LONG_NAME else 3
    cells = errors.flatten().argsort(descending=True, stable=True)[:most].tolist()
    worst = [divmod(cell, len(classes)) for cell in cells]
    parts = [f"{classes[r]} → {classes[c]} ({errors[r, c]:,})" for r, c in worst if errors[r, c]]
    return "Most often confused: " + ", ".join(parts) if parts else "No errors"


def class_accuracy(score: "Score", classes: Sequence[str]) -> Figure:
    """A bar a class with its 95 % interval; the axis starts where its label says.

    Raises: ValueError where `classes` does not name every class of the score.
    """
    size = _check_names(score.confusion, classes)
    totals = score.confusion.sum(dim=1).tolist()
    figure = Figure(figsize=(8, 1.3 + 0.3 * size), layout="constrained")
    axes = figure.subplots()
    across = axes.get_yaxis_transform()  # x as a share of the axes, y as the row
    shares = [share for share in score.class_accuracy if share is not None]
    start = _axis_start(100 * min(shares, default=0.0))
    for row, (share, total) in enumerate(zip(score.class_accuracy, totals, strict=True)):
        if share is None:
            axes.text(0.01, row, "no samples", transform=across, va="center", color=INK)
            continue
        axes.barh(row, 100 * share - start, left=start, height=0.72, color=BLUE, alpha=0.55)
        low, high = _wilson(share, total)
        axes.plot([100 * low, 100 * high], [row, row], color=INK, linewidth=1)
        note = f"{share:.2%}   n = {total:,}"
        axes.text(1.015, row, note, transform=across, va="center", fontsize=9, color=INK)
    axes.axvline(100 * score.accuracy, color=VERMILION, linestyle="--", linewidth=1.2)
    axes.set_yticks(range(size), classes, fontsize=9)
    axes.set(xlim=(start, 100), ylim=(size - 0.4, -0.6))
    zoomed = f"; the axis starts at {start}%" if start else ""
    axes.set_xlabel(f"accuracy in percent, thin line: 95% interval{zoomed}")
    axes.set_title(f"All classes (dashed): {score.accuracy:.2%}, n = {score.count:,}", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _axis_start(lowest: float) -> int:
    """Percent, a round number: a fifth of the axis or more lies under the lowest bar."""
    below = lowest - (100 - lowest) / 4
    step = 1 if below > 90 else 5
    return max(0, step * math.floor((below - 0.1) / step))


def _wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    # Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    # Unlike share ± z·se it keeps its width where every sample is right.
    centre = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return (centre - half) / (1 + z * z / count), (centre + half) / (1 + z * z / count)


def samples(
    images: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    num_samples: int = 32,
    columns: int = 8,
) -> Figure:
    """The first images under their true classes, all on the scale of the least and largest pixel.

    Shapes: images (N, C, H, W), three channels shown as RGB, any other number as their mean.
    """
    names = [str(classes[label]) for label in labels[:num_samples].tolist()]
    return _grid(images[:num_samples], names, columns)


def distortions(
    images: Tensor, labels: Tensor, classes: Sequence[str], distort: "Distort", times: int = 3
) -> Figure:
    """The first eight images as they are, and below each what it became when drawn again."""
    images, labels = images[:8], labels[:8]
    generator = torch.Generator().manual_seed(0)
    rows = [images.float(), *(distort(images, generator) for _ in range(times))]
    return samples(torch.cat(rows), labels.repeat(len(rows)), classes)


def mistakes(
    images: Tensor, score: "Score", classes: Sequence[str], num_samples: int = 32
) -> Figure:
    """What the model got wrong, surest first: image, truth -> prediction, probability of that.

    Raises: ValueError where the score is of another number of images.
    """
    if len(images) != score.count:
        raise ValueError(f"images: the score is of {score.count}, got {len(images)}")
    wrong = (score.predicted != score.labels).nonzero().flatten()
    if not len(wrong):
        return _message(f"No mistakes: all {score.count:,} images are classified correctly.")
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


def filters(weight: Tensor) -> Figure:
    """The kernels of the first layer: a column a map, a row an input channel, zero white.

    Shapes: weight (maps, C, H, W).
    """
    weight = _plain(weight)
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

    Each layer has its own scale; the largest output has a colour of its own.

    Shapes: image (C, H, W) or (1, C, H, W); maps (1, maps, H, W) or (1, units), a layer each.
    """
    layers = {"input": _plain(image).reshape(-1, *image.shape[-2:])}
    for name, values in maps.items():
        layer = _plain(values)[0]
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
    # Maps shrink on the page as in the network, though less, or S4 couldn't be seen.
    cell = 0.33 + 0.46 * layer.shape[-1] / image_side
    columns = math.ceil(len(layer) / PER_COLUMN)
    return cell * columns, cell * math.ceil(len(layer) / columns)


def _draw_layer(axes: Axes, name: str, layer: Tensor) -> None:
    if name == "input":
        _show(axes, layer, *_finite_range(layer))
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


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu()


def _message(text: str) -> Figure:
    figure = Figure(figsize=(6, 1.5))
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12, color=INK)
    return figure


def _check_names(confusion: Tensor, classes: Sequence[str]) -> int:
    if len(classes) != len(confusion):
        raise ValueError(f"classes: the score has {len(confusion)}, got {len(classes)} names")
    return len(classes)


def _finite_range(values: Tensor) -> tuple[float, float]:
    finite = values[values.isfinite()]
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)


def _signed_norm(values: Tensor) -> CenteredNorm:
    return CenteredNorm(halfrange=max(map(abs, _finite_range(values))) or 1.0)


def _line(axes: Axes, x: Sequence[int], y: Sequence[float], color: str, name: str) -> None:
    gaps = [value if math.isfinite(value) else math.nan for value in y]
    marker = "o" if sum(map(math.isfinite, y)) <= MAX_MARKERS else ""
    axes.plot(x, gaps, color=color, marker=marker, markersize=4, linewidth=1.6, label=name)


def _epoch_axis(axes: Axes, epochs: Sequence[int]) -> None:
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if epochs:
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    axes.grid(color=PALE, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _show(axes: Axes, image: Tensor, low: float, high: float) -> None:
    axes.set(xticks=[], yticks=[])
    if len(image) == 3:
        rgb = ((image - low) / ((high - low) or 1.0)).clamp(0, 1).nan_to_num()
        axes.imshow(rgb.permute(1, 2, 0).numpy())  # (H, W, C)
    else:
        axes.imshow(image.mean(dim=0).numpy(), cmap="gray", vmin=low, vmax=high)


def _grid(images: Tensor, titles: Sequence[str], columns: int, heading: str = "") -> Figure:
    if not titles:
        return _message("No image to show.")
    columns = min(columns, len(titles))
    rows = math.ceil(len(titles) / columns)
    lines = [line for title in titles for line in title.split("\n")]
    size = min(9.0, 120 * CELL / max(map(len, lines)))  # points: a glyph is about 0.6 wide
    under = CELL + GAP + 0.17 * (1 + max(title.count("\n") for title in titles))
    width = max(columns * (CELL + GAP) + GAP, 5.5 if heading else 0.0)
    height = rows * under + GAP + (0.3 if heading else 0.0)
    figure = Figure(figsize=(width, height))
    indent = (width - columns * (CELL + GAP) + GAP) / 2
    images = _plain(images)
    low, high = _finite_range(images)
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = divmod(i, columns)
        left, bottom = indent + column * (CELL + GAP), (rows - 1 - row) * under + GAP
        axes = figure.add_axes((left / width, bottom / height, CELL / width, CELL / height))
        axes.set_title(title, fontsize=size, pad=3)
        _show(axes, image, low, high)
    figure.text(0.5, 1 - 0.22 / height, heading, ha="center", fontsize=11)
    return figure


def gallery(
    model: "LeNet5", data: "Data", history: "Sequence[Epoch]", score: "Score"
) -> Iterator[tuple[str, Figure]]:
    """A run's pictures by name, each made when it is asked for."""
    test = data.test
    yield "curves", curves(history)
    yield "confusion_matrix", confusion_matrix(score, data.inputs.classes)
    yield "class_accuracy", class_accuracy(score, data.inputs.classes)
    first = data.train.images[:16].cpu(), data.train.labels[:16], data.inputs.classes
    yield "samples", samples(*first)
    if data.train.distort:
        yield "distortions", distortions(*first, data.train.distort)
    yield "mistakes", mistakes(test.images.cpu(), score, data.inputs.classes, num_samples=16)
    if hasattr(model, "conv1"):
        yield "filters", filters(model.conv1.weight)
    if hasattr(model, "stages"):
        with torch.no_grad():
            maps = model.eval().stages(next(iter(test))[0][:1])
        yield (
            "feature_maps",
            feature_maps(maps, test.images[0], data.inputs.classes[test.labels[0]]),
        )
