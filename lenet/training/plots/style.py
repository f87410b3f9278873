"""Colours and small helpers that all pictures share.

`Figure` is used directly, not through pyplot: no global state, no backend, no limit of open
figures.
"""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

# Source: Okabe and Ito, "Color universal design": colour-blind readers can tell them apart.
BLUE, VERMILION, PALE, INK = "#0072B2", "#D55E00", "#D3DAE0", "#444444"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D00", "#000000")
MAX_CELL_TEXT = 30  # classes; with more, the text of each can't be read


def to_floats(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu()


def message(text: str) -> Figure:
    figure = Figure(figsize=(6, 1.5))
    figure.text(0.5, 0.5, text, ha="center", va="center", fontsize=12, color=INK)
    return figure


def show_image(axes: Axes, image: Tensor, low: float, high: float) -> None:
    axes.set(xticks=[], yticks=[])
    if len(image) == 3:
        rgb = ((image - low) / ((high - low) or 1.0)).clamp(0, 1)
        axes.imshow(rgb.permute(1, 2, 0).numpy())  # (H, W, C)
    else:
        axes.imshow(image.mean(dim=0).numpy(), cmap="gray", vmin=low, vmax=high)
