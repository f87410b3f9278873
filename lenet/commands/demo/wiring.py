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
    source: str
    shape: Sequence[int]
    parameters: int
    title: str
    size: int
    feeding: list[list[int]]
    weights: list[Tensor]
    bias: Tensor
    activation: nn.Module | None
    stride: int = 1
    rule: str = "sum"

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
    """The layers of a LeNet5 with 2x2 pooling; none of any other network."""
    if type(model) is not LeNet5:
        return []
    if not (_halves(model.pool1) and _halves(model.pool2)):
        return []
    image = torch.zeros(1, model.conv1.in_channels, image_size, image_size)
    outputs = {"input": image} | model.stages(image)
    shapes = {name: [*output.shape[1:], 1, 1][:3] for name, output in outputs.items()}
    steps = {
        "C1": (_convolution, model.conv1),
        "S2": (_pooling, model.pool1),
        "C3": (_convolution, model.conv2),
        "S4": (_pooling, model.pool2),
        "C5": (_dense, model.fc1),
        "F6": (_dense, model.fc2),
        "output": (_dense, model.fc3),
    }
    layers = []
    for source, (name, (fields_of, module)) in zip(shapes, steps.items(), strict=False):
        activation = None if name == "output" else model.activation
        # Pooling has an activation of its own.
        fields = {"activation": activation} | fields_of(module, shapes[source])
        parameters = sum(p.numel() for p in module.parameters())
        layers.append(Layer(name, source, shapes[name], parameters, **fields))
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
    maps, *_ = before
    fields = {"size": 2, "stride": 2, "feeding": [[k] for k in range(maps)], "activation": None}
    if isinstance(layer, Subsample):
        weights = layer.coefficient.view(maps, 1).expand(maps, 4)
        own = {"title": "subsampling", "bias": layer.bias, "activation": layer.activation}
    elif isinstance(layer, nn.MaxPool2d):
        weights = torch.zeros(maps, 0)
        own = {"title": "max pooling", "bias": torch.zeros(maps), "rule": "largest"}
    else:
        weights = torch.full((maps, 4), 0.25)
        own = {"title": "average pooling", "bias": torch.zeros(maps)}
    return {**fields, "weights": list(weights), **own}


def _dense(layer: Any, before: Sequence[int]) -> dict[str, Any]:
    maps, side, _ = before
    has_bitmaps = isinstance(layer, RBF)
    weights = layer.centres if has_bitmaps else layer.weight
    return {
        "title": "distances to bitmaps" if has_bitmaps else "dense layer",
        "size": side,
        "feeding": [list(range(maps))] * len(weights),
        "weights": list(weights),
        "bias": torch.zeros(len(weights)) if has_bitmaps else layer.bias,
        "rule": "distance" if has_bitmaps else "sum",
    }
