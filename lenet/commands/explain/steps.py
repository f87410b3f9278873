"""A LeNet-5 step by step: for each layer its formula, shapes and weights, its output for one digit,
and the arithmetic of one number of that output.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from lenet.model.layers import RBF, ConnectedConv2d, Subsample, feeding, function_of
from lenet.model.lenet5 import LeNet5, probabilities

TOLERANCE = 1e-4  # float32 sums of 400 terms in another order


class ExplainError(ValueError):
    """A network that can't be explained, or whose arithmetic does not come out: one line."""


@dataclass(frozen=True)
class Term:
    """`weight` times `value`, and where the value stands."""

    where: str
    weight: float
    value: float

    @property
    def product(self) -> float:
        return self.weight * self.value


@dataclass(frozen=True)
class Arithmetic:
    """One number of a layer's output: the terms' sum plus `bias` is `total`, and `total` put into
    the `function` is `result`. `network` is what the network itself has there.
    """

    where: str
    terms: list[Term]
    bias: float
    total: float
    function: str
    result: float
    network: float
    said: str = ""  # instead of a sum of products

    def checked(self) -> "Arithmetic":
        """Raises: ExplainError where it is not the network's number."""
        if not abs(self.result - self.network) <= TOLERANCE * max(1.0, abs(self.network)):
            raise ExplainError(
                f"{self.where}: by hand {self.result:.6g}, the network has {self.network:.6g}"
            )
        return self


@dataclass(frozen=True)
class Layer:
    """`maps` float (M, H, W) or `bars` float (U) are what it made of the digit; `weights` are
    pictures with their captions.
    """

    name: str
    title: str
    text: str
    formula: str
    shapes: str
    parameters: int
    arithmetic: Arithmetic
    maps: Tensor | None = None
    bars: Tensor | None = None
    weights: list[tuple[str, Tensor]] = field(default_factory=list)


@dataclass(frozen=True)
class Explained:
    """A digit's way through a network. Shapes: image (H, W), pixels as the network reads them."""

    image: Tensor
    label: str
    classes: Sequence[str]
    mean: float
    std: float
    layers: list[Layer]
    probabilities: list[float]
    parameters: int


@torch.no_grad()
def explain(
    model: nn.Module, image: Tensor, label: int, classes: Sequence[str], mean: float, std: float
) -> Explained:
    """Shapes: image (1, 32, 32) or another size of the network's, normalised.

    Raises: ExplainError where the model is no LeNet5 of one channel, or a number by hand is not
    the network's.
    """
    if type(model) is not LeNet5 or model.conv1.in_channels != 1:
        raise ExplainError(f"expected a LeNet5 for grey images, got {type(model).__name__}")
    model = model.eval()
    stages = {name: value[0] for name, value in model.stages(image[None]).items()}
    makers = (
        *((_convolution, "C1", "conv1", image), (_pooling, "S2", "pool1", stages["C1"])),
        *((_convolution, "C3", "conv2", stages["S2"]), (_pooling, "S4", "pool2", stages["C3"])),
        *((_dense, "C5", "fc1", stages["S4"]), (_dense, "F6", "fc2", stages["C5"])),
        (_output, "output", "fc3", stages["F6"]),
    )
    layers = [
        make(model, name, getattr(model, attribute), x, stages[name])
        for make, name, attribute, x in makers
    ]
    return Explained(
        image[0],
        classes[label],
        classes,
        mean,
        std,
        layers,
        probabilities(stages["output"]).tolist(),
        sum(layer.parameters for layer in layers),
    )


def _convolution(model: LeNet5, name: str, layer: Any, x: Tensor, y: Tensor) -> Layer:
    weight = layer.dense_weight() if isinstance(layer, ConnectedConv2d) else layer.weight
    sources = [feeding(layer, k) for k in range(len(weight))]
    k, row, column = _telling_place(y)

    def source(m: int) -> str:
        return "" if name == "C1" else f"map {m}, "

    terms = [
        Term(f"{source(m)}row {row + i}, column {column + j}", float(weight[k, m, i, j]), float(v))
        for m in sources[k]
        for i, values in enumerate(x[m, row : row + 5, column : column + 5])
        for j, v in enumerate(values)
    ]
    where = f"{name}, map {k}, row {row}, column {column}"
    arithmetic = _summed(where, terms, float(layer.bias[k]), model.activation, y[k, row, column])
    if name == "C1":
        text = (
            "Each of the six maps looks for one small pattern, its filter, at every place of the "
            "image. Where the image is like the filter the number is high, where it is like the "
            "filter's negative it is low."
        )
        weights = [(f"filter {k}", kernel[0]) for k, kernel in enumerate(weight)]
    else:
        text = (
            "Again every place is looked at, now at several of the maps before at once: each of "
            "these sixteen maps has a filter for every map that feeds it, and adds up what they "
            "find. So it looks for patterns of patterns."
        )
        weights = [
            (f"map {k}: fed by {', '.join(map(str, maps))}", torch.cat(list(kernel[maps]), dim=1))
            for k, (maps, kernel) in enumerate(zip(sources, weight, strict=True))
        ]
    formula = "y[k, r, c] = f(b[k] + sum over m, i, j of w[k, m, i, j] x[m, r + i, c + j])"
    return Layer(
        *(name, "Convolution", text, f"{formula}, f = {function_of(model.activation)}"),
        shapes=f"{_shape(x)} → {_shape(y)}",
        parameters=_count(layer),
        arithmetic=arithmetic,
        maps=y,
        weights=weights,
    )


def _pooling(model: LeNet5, name: str, layer: Any, x: Tensor, y: Tensor) -> Layer:
    k, row, column = _telling_place(y)
    block = x[k, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten().tolist()
    where = f"{name}, map {k}, row {row}, column {column}"
    network = float(y[k, row, column])
    places = [f"row {2 * row + i}, column {2 * column + j}" for i in (0, 1) for j in (0, 1)]
    weights: list[tuple[str, Tensor]] = []
    if isinstance(layer, Subsample):
        coefficient, bias = float(layer.coefficient[k]), float(layer.bias[k])
        terms = [Term(p, coefficient, v) for p, v in zip(places, block, strict=True)]
        arithmetic = _summed(where, terms, bias, layer.activation, y[k, row, column])
        formula = "y = f(coefficient of the map times the sum of the 2x2 block, plus a bias)"
    elif isinstance(layer, nn.MaxPool2d):
        said = f"the largest of {', '.join(f'{v:.4f}' for v in block)}"
        arithmetic = Arithmetic(where, [], 0.0, max(block), "", max(block), network, said)
        formula = "y[k, r, c] = the largest of x[k, 2r, 2c] and its three neighbours"
    elif isinstance(layer, nn.AvgPool2d):
        terms = [Term(p, 0.25, v) for p, v in zip(places, block, strict=True)]
        total = math.fsum(term.product for term in terms)
        arithmetic = Arithmetic(where, terms, 0.0, total, "", total, network)
        formula = "y[k, r, c] = the mean of x[k, 2r, 2c] and its three neighbours"
    else:
        raise ExplainError(f"{name}: there is no explanation of {layer}")
    text = (
        "Each map becomes half as wide and half as high: four numbers become one. What was found "
        "stays, where exactly it was is forgotten, so that a digit moved by a pixel looks alike."
    )
    return Layer(
        *(name, "Pooling", text, formula),
        shapes=f"{_shape(x)} → {_shape(y)}",
        parameters=_count(layer),
        arithmetic=arithmetic.checked(),
        maps=y,
        weights=weights,
    )


def _dense(model: LeNet5, name: str, layer: Any, x: Tensor, y: Tensor) -> Layer:
    unit = _telling(y)
    values, before = x.flatten(), "S4" if name == "C5" else "C5"
    terms = [
        Term(f"{before}, unit {i}", float(w), float(v))
        for i, (w, v) in enumerate(zip(layer.weight[unit], values, strict=True))
    ]
    bias, where = float(layer.bias[unit]), f"{name}, unit {unit}"
    text = (
        "Every unit reads all numbers of the layer before, each with its own weight: which of the "
        "patterns are there together?"
    )
    return Layer(
        *(name, "Dense layer", text),
        f"y[u] = f(b[u] + sum over i of w[u, i] x[i]), f = {function_of(model.activation)}",
        shapes=f"{len(values)} → {len(y)}",
        parameters=_count(layer),
        arithmetic=_summed(where, terms, bias, model.activation, y[unit]),
        bars=y,
        weights=[("all weights, a row a unit", layer.weight)],
    )


def _output(model: LeNet5, name: str, layer: Any, x: Tensor, y: Tensor) -> Layer:
    best = int(y.argmax())
    where = f"output, class {best}"
    if isinstance(layer, RBF):
        centre = layer.centres[best]
        total = -math.fsum((float(a) - float(b)) ** 2 for a, b in zip(x, centre, strict=True))
        said = "minus the sum of the squared differences of F6's 84 numbers and the digit's bitmap"
        arithmetic = Arithmetic(where, [], 0.0, total, "", total, float(y[best]), said)
        text = (
            "Each digit has a picture of 7x12 pixels that F6 should show: the nearer, the higher."
        )
        formula = "y[k] = -sum over i of (x[i] - bitmap[k, i])²"
        weights = [(str(k), c.view(12, 7)) for k, c in enumerate(layer.centres)]
    elif isinstance(layer, nn.Linear):
        terms = [
            Term(f"F6, unit {i}", float(w), float(v))
            for i, (w, v) in enumerate(zip(layer.weight[best], x, strict=True))
        ]
        arithmetic = _summed(where, terms, float(layer.bias[best]), None, y[best])
        text = (
            "A score for each class. Softmax makes probabilities of them: e to the power of each, "
            "divided by the sum of all."
        )
        formula = "y[k] = b[k] + sum over i of w[k, i] x[i]; p[k] = exp(y[k]) / sum of exp(y)"
        weights = [("all weights, a row a class", layer.weight)]
    else:
        raise ExplainError(f"output: there is no explanation of {layer}")
    return Layer(
        *(name, "Output", text, formula),
        shapes=f"{len(x)} → {len(y)}",
        parameters=_count(layer),
        arithmetic=arithmetic.checked(),
        bars=y,
        weights=weights,
    )


def _summed(
    where: str, terms: list[Term], bias: float, activation: nn.Module | None, network: Tensor
) -> Arithmetic:
    total = math.fsum([*(term.product for term in terms), bias])
    result, function = total, ""
    if activation is not None:
        result = float(activation(torch.tensor(total, dtype=torch.float64)))
        function = function_of(activation)
    return Arithmetic(where, terms, bias, total, function, result, float(network)).checked()


def _telling(x: Tensor) -> int:
    """The place of a number that is far from 0, and not where the activation is flat."""
    return int((x.abs() - 0.6 * x.abs().max()).abs().argmin())


def _telling_place(maps: Tensor) -> tuple[int, int, int]:
    k, rest = divmod(_telling(maps), maps[0].numel())
    return k, *divmod(rest, maps.shape[2])


def _shape(x: Tensor) -> str:
    return " x ".join(map(str, x.shape))


def _count(layer: nn.Module) -> int:
    own = [p for name, p in layer.named_parameters() if not name.startswith("activation.")]
    return sum(p.numel() for p in own)
