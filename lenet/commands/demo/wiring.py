"""How each number of a LeNet-5 is computed from the layer before, for `demo` and `explain`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lenet.model.layers import RBF, ConnectedConv2d, Subsample, feeding, function_of
from lenet.model.lenet5 import LeNet5


@dataclass(frozen=True)
class Layer:
    """Which numbers of the layer before, `source`, make one number of this layer, and how.

    Map k at (row, column) reads the block of `size` rows and columns that begins at
    (`stride` row, `stride` column) of each map in `feeding[k]`. `weights[k]` has a weight for each
    number of that block. `rule` is one of

    * `sum`: `activation(bias[k] + weights[k] times the block)`, with `function` as its formula
    * `largest`: the largest number of the block
    * `distance`: minus the sum of the squared differences of block and weights

    Shapes: shape (M, H, W); feeding[k] (F); weights[k] (F * size * size); bias (M).
    """

    name: str
    title: str
    source: str
    shape: Sequence[int]
    size: int
    stride: int
    feeding: list[list[int]]
    weights: list[Tensor]
    bias: Tensor
    rule: str
    activation: nn.Module | None
    parameters: int

    @property
    def function(self) -> str:
        return function_of(self.activation) if self.activation else ""

    def block(self, before: Tensor, k: int, row: int, column: int) -> Tensor:
        """The numbers of `source` that make the one at (k, row, column).

        Shapes: before (M, H, W) -> (F * size * size).
        """
        top, left = row * self.stride, column * self.stride
        maps = before[self.feeding[k]]
        return maps[:, top : top + self.size, left : left + self.size].flatten()


@torch.no_grad()
def layers_of(model: object, image_size: int) -> list[Layer]:
    """The layers of a LeNet5 for grey images with 2x2 pooling; none of any other network."""
    if type(model) is not LeNet5 or model.conv1.in_channels != 1:
        return []
    if not (_halves(model.pool1) and _halves(model.pool2)):
        return []
    stages = model.stages(torch.zeros(1, 1, image_size, image_size))
    shapes = {name: [*stage.shape[1:], 1, 1][:3] for name, stage in stages.items()}
    parts = (
        *((_convolution, "C1", model.conv1), (_pooling, "S2", model.pool1)),
        *((_convolution, "C3", model.conv2), (_pooling, "S4", model.pool2)),
        *((_dense, "C5", model.fc1), (_dense, "F6", model.fc2), (_dense, "output", model.fc3)),
    )
    layers, source = [], "input"
    for make, name, layer in parts:
        fields = make(layer, shapes.get(source, [1, image_size, image_size]))
        # Pooling has an activation of its own, and the output has none.
        activation = None if name == "output" else model.activation
        fields = {"activation": activation, "stride": 1, "rule": "sum"} | fields
        fields["parameters"] = _count(layer)
        layers.append(Layer(name, source=source, shape=shapes[name], **fields))
        source = name
    return layers


def _halves(layer: nn.Module) -> bool:
    if isinstance(layer, nn.AvgPool2d | nn.MaxPool2d):
        return (layer.kernel_size, layer.stride, layer.padding) == (2, 2, 0)
    return isinstance(layer, Subsample)


def _convolution(layer: Any, before: Sequence[int]) -> dict[str, Any]:
    sources = [feeding(layer, k) for k in range(layer.out_channels)]
    dense = layer.dense_weight() if isinstance(layer, ConnectedConv2d) else layer.weight
    return {
        "title": "convolution",
        "size": layer.kernel_size[0],
        "feeding": sources,
        "weights": [kernel[maps].flatten() for maps, kernel in zip(sources, dense, strict=True)],
        "bias": layer.bias,
    }


def _pooling(layer: Any, before: Sequence[int]) -> dict[str, Any]:
    maps = before[0]
    title, weights, bias = "average pooling", torch.full((maps, 4), 0.25), torch.zeros(maps)
    if isinstance(layer, Subsample):
        title, bias = "subsampling", layer.bias
        weights = layer.coefficient.view(maps, 1).expand(maps, 4)
    elif isinstance(layer, nn.MaxPool2d):
        title, weights = "max pooling", torch.zeros(maps, 0)
    return {
        "title": title,
        "size": 2,
        "stride": 2,
        "feeding": [[k] for k in range(maps)],
        "weights": list(weights),
        "bias": bias,
        "rule": "largest" if isinstance(layer, nn.MaxPool2d) else "sum",
        "activation": layer.activation if isinstance(layer, Subsample) else None,
    }


def _dense(layer: Any, before: Sequence[int]) -> dict[str, Any]:
    has_bitmaps = isinstance(layer, RBF)
    weights = layer.centres if has_bitmaps else layer.weight
    return {
        "title": "distances to bitmaps" if has_bitmaps else "dense layer",
        "size": before[1],
        "feeding": [list(range(before[0]))] * len(weights),
        "weights": list(weights),
        "bias": torch.zeros(len(weights)) if has_bitmaps else layer.bias,
        "rule": "distance" if has_bitmaps else "sum",
    }


def _count(layer: nn.Module) -> int:
    own = [p for name, p in layer.named_parameters() if not name.startswith("activation.")]
    return sum(p.numel() for p in own)
