"""A LeNet-5 step by step: each layer's formula and output, and the arithmetic of one number."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lenet.commands.demo.wiring import Layer, layers_of
from lenet.data.inputs import Inputs
from lenet.model.lenet5 import LeNet5, probabilities

TOLERANCE = 1e-4  # for float32 sums of 400 terms in another order

TEXTS = {
    "C1": "Each of the six maps looks for one small pattern, its filter, everywhere in the image. "
    "The number is high where the image looks like the filter, and low where it looks like the "
    "filter's negative.",
    "C3": "The same again, but each of these sixteen maps reads several maps of the layer before. "
    "It has a filter for each of them and adds up the results. So it finds patterns of patterns.",
    "dense layer": "Every unit reads all numbers of the layer before, each with its own weight. So "
    "it can tell which patterns appear together.",
    "output": "A score for each class. Softmax turns the scores into probabilities: e to the power "
    "of each score, divided by the sum over all classes.",
    "distances to bitmaps": "Each digit has a bitmap, a picture of 7x12 pixels that F6 should "
    "reproduce. The closer F6 comes to it, the higher the score.",
}
POOLING = (
    "Each map becomes half as wide and half as high: four numbers become one. The network still "
    "knows what was found, but only roughly where. So a digit that moves by a pixel looks nearly "
    "the same."
)
FORMULAS = {
    "convolution": "y[k, r, c] = f(b[k] + sum over m, i, j of w[k, m, i, j] x[m, r + i, c + j])",
    "average pooling": "y[k, r, c] = the mean of x[k, 2r, 2c] and its three neighbours",
    "max pooling": "y[k, r, c] = the largest of x[k, 2r, 2c] and its three neighbours",
    "subsampling": "y = f(coefficient of the map times the sum of the 2x2 block, plus a bias)",
    "dense layer": "y[u] = f(b[u] + sum over i of w[u, i] x[i])",
    "output": "y[k] = b[k] + sum over i of w[k, i] x[i]; p[k] = exp(y[k]) / sum of exp(y)",
    "distances to bitmaps": "y[k] = -sum over i of (x[i] - bitmap[k, i])²",
}


@dataclass(frozen=True)
class Term:
    """`weight` times `value`; `where` is the place of the value."""

    where: str
    weight: float
    value: float

    @property
    def product(self) -> float:
        return self.weight * self.value


@dataclass(frozen=True)
class Arithmetic:
    """How one number of a layer's output is calculated.

    The sum of the terms and `bias` is `total`; `function` of it is `result`. `network` is the
    network's own number. `words` replace the terms if these are not products.
    """

    where: str
    terms: list[Term]
    bias: float
    total: float
    function: str
    result: float
    network: float
    words: str = ""


@dataclass(frozen=True)
class Step:
    """One layer: its output for the digit, and the explanation. Shapes: output (M, H, W)."""

    layer: Layer
    output: Tensor
    shapes: str
    text: str
    formula: str
    arithmetic: Arithmetic

    @property
    def title(self) -> str:
        name = self.layer.name
        return "Output" if name == "output" else f"{name}: {self.layer.title.capitalize()}"


@dataclass(frozen=True)
class Explanation:
    """All layers for one digit. Shapes: image (H, W), pixels as the network reads them."""

    image: Tensor
    label: str
    inputs: Inputs
    steps: list[Step]
    probabilities: list[float]


@torch.no_grad()
def explain(model: nn.Module, image: Tensor, label: int, inputs: Inputs) -> Explanation:
    """Shapes: image (1, H, W), normalised.

    Raises: ValueError if the model is not a LeNet5 for grey images, or if a number by hand is not
    the network's.
    """
    layers = layers_of(model, image.shape[-1])
    if not layers or not isinstance(model, LeNet5):
        raise ValueError(
            f"expected a LeNet5 for grey images with 2x2 pooling, got {type(model).__name__}"
        )
    stages = model.eval().stages(image[None])
    outputs = {layer.name: stages[layer.name].reshape(*layer.shape) for layer in layers}
    outputs["input"] = image
    steps = [_step(layer, outputs[layer.source], outputs[layer.name]) for layer in layers]
    shares = probabilities(stages["output"][0]).tolist()
    return Explanation(image[0], inputs.classes[label], inputs, steps, shares)


def _step(layer: Layer, x: Tensor, y: Tensor) -> Step:
    is_scores = layer.name == "output" and layer.title == "dense layer"
    kind = "output" if is_scores else layer.title
    text = TEXTS.get(layer.name if kind == "convolution" else kind, POOLING)
    formula = FORMULAS[kind] + (f", f = {layer.function}" if layer.function else "")
    shapes = f"{_shape(x)} → {_shape(y)}"
    return Step(layer, y, shapes, text, formula, _arithmetic(layer, x, y))


def _arithmetic(layer: Layer, x: Tensor, y: Tensor) -> Arithmetic:
    """For the best class of the output; in other layers for a number that shows well."""
    index = int(y.argmax()) if layer.name == "output" else _index_that_shows_well(y)
    k, row, column = (int(i) for i in torch.unravel_index(torch.tensor(index), y.shape))
    place = f", row {row}, column {column}" if y.shape[1] > 1 else ""
    what = "class" if layer.name == "output" else "map" if place else "unit"
    values, weights = layer.block(x, k, row, column).tolist(), layer.weights[k].tolist()
    terms, bias, words = [], float(layer.bias[k]), ""
    if layer.rule == "largest":
        total = max(values)
        words = f"the largest of {', '.join(f'{v:.4f}' for v in values)}"
    elif layer.rule == "distance":
        total = -math.fsum((v - w) ** 2 for v, w in zip(values, weights, strict=True))
        words = "minus the sum of the squared differences of F6's 84 numbers and the digit's bitmap"
    else:
        names = _names_of_block(layer, x, k, row, column)
        terms = [Term(*each) for each in zip(names, weights, values, strict=True)]
        total = math.fsum([*(term.product for term in terms), bias])
    result = total
    if layer.activation:
        result = float(layer.activation(torch.tensor(total, dtype=torch.float64)))
    where, network = f"{layer.name}, {what} {k}{place}", float(y[k, row, column])
    check_by_hand(where, result, network)
    return Arithmetic(where, terms, bias, total, layer.function, result, network, words)


def check_by_hand(where: str, result: float, network: float) -> None:
    """Raises: ValueError if the number by hand is not the network's."""
    if not abs(result - network) <= TOLERANCE * max(1.0, abs(network)):  # nan is refused too
        raise ValueError(f"{where}: by hand {result:.6g}, the network has {network:.6g}")


def _names_of_block(layer: Layer, x: Tensor, k: int, row: int, column: int) -> Sequence[str]:
    if x.shape[1] == 1:
        return [f"{layer.source}, unit {i}" for i in layer.feeding[k]]
    top, left = row * layer.stride, column * layer.stride
    return [
        ("" if len(x) == 1 else f"map {m}, ") + f"row {top + i}, column {left + j}"
        for m in layer.feeding[k]
        for i in range(layer.size)
        for j in range(layer.size)
    ]


def _index_that_shows_well(x: Tensor) -> int:
    """The index of a number that is far from 0, and not where the activation is flat."""
    return int((x.abs() - 0.6 * x.abs().max()).abs().argmin())


def _shape(x: Tensor) -> str:
    return " x ".join(map(str, x.shape)) if x.shape[1] > 1 else str(len(x))
