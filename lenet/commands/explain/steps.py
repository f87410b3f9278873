"""A LeNet-5 step by step: each layer's output, and the arithmetic of one of its numbers."""

import itertools
import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lenet.commands.demo.wiring import Layer, layers_of
from lenet.model.lenet5 import LeNet5

TOLERANCE = 1e-4  # for float32 sums of 400 terms in another order


class Term(NamedTuple):
    """`product` is `weight` times `value`; `where` is the place of the value."""

    where: str
    weight: float
    value: float
    product: float


@dataclass(frozen=True)
class Step:
    """A layer's output for an image, and its number at `place`, a map, row and column, by hand.

    Shapes: before, output (M, H, W).
    """

    layer: Layer
    before: Tensor
    output: Tensor
    place: tuple[int, int, int]

    @property
    def where(self) -> str:
        k, row, column = self.place
        if self.output.shape[1] > 1:
            return f"{self.layer.name}, map {k}, row {row}, column {column}"
        return f"{self.layer.name}, {'class' if self.layer.name == 'output' else 'unit'} {k}"

    @property
    def values(self) -> list[float]:
        """The numbers of the layer before that this number reads."""
        return self.layer.block(self.before, *self.place).tolist()

    @property
    def weights(self) -> list[float]:
        return self.layer.weights[self.place[0]].tolist()

    @property
    def bias(self) -> float:
        return self.layer.bias[self.place[0]].item()

    @property
    def terms(self) -> list[Term]:
        """The products that are added; none if the rule is not a sum."""
        if self.layer.rule != "sum":
            return []
        pairs = zip(self._names(), self.weights, self.values, strict=True)
        return [Term(name, weight, value, weight * value) for name, weight, value in pairs]

    def _names(self) -> list[str]:
        """A name for each of `values`."""
        layer, (k, row, column) = self.layer, self.place
        if self.before.shape[1] == 1:
            return [f"{layer.source}, unit {i}" for i in layer.feeding[k]]
        top, left = row * layer.stride, column * layer.stride
        rows, columns = range(top, top + layer.size), range(left, left + layer.size)
        block = itertools.product(layer.feeding[k], rows, columns)
        return [f"map {m}, row {i}, column {j}" for m, i, j in block]

    @property
    def total(self) -> float:
        """The number before the activation."""
        if self.layer.rule == "largest":
            return max(self.values)
        if self.layer.rule == "distance":
            return -(math.dist(self.values, self.weights) ** 2)
        return math.fsum([*(term.product for term in self.terms), self.bias])

    @property
    def by_hand(self) -> float:
        total = torch.tensor(self.total, dtype=torch.float64)
        return (self.layer.activation(total) if self.layer.activation else total).item()

    @property
    def in_network(self) -> float:
        return self.output[self.place].item()


@torch.no_grad()
def explain(model: nn.Module, image: Tensor) -> list[Step]:
    """What each layer of a network computes for an image.

    Shapes: image (1, H, W), normalised.
    Raises: ValueError if the model is not a LeNet5 for grey images, or if a number by hand is not
    the network's.
    """
    layers = layers_of(model, image.shape[-1])
    if not layers or not isinstance(model, LeNet5) or model.conv1.in_channels != 1:
        raise ValueError(
            f"expected a LeNet5 for grey images with 2x2 pooling, got {type(model).__name__}"
        )
    stages = model.eval().stages(image[None])
    outputs = {layer.name: stages[layer.name].reshape(*layer.shape) for layer in layers}
    outputs["input"] = image
    steps = []
    for layer in layers:
        output = outputs[layer.name]
        index = output.argmax() if layer.name == "output" else _index_that_shows_well(output)
        k, row, column = (int(i) for i in torch.unravel_index(index, output.shape))
        steps.append(Step(layer, outputs[layer.source], output, (k, row, column)))
        check_by_hand(steps[-1])
    return steps


def check_by_hand(step: Step) -> None:
    """Raises: ValueError if the number by hand is not the network's."""
    by_hand, expected = step.by_hand, step.in_network
    if not abs(by_hand - expected) <= TOLERANCE * max(1.0, abs(expected)):  # nan is refused too
        raise ValueError(f"{step.where}: by hand {by_hand:.6g}, the network has {expected:.6g}")


def _index_that_shows_well(x: Tensor) -> Tensor:
    """The index of a number that is far from 0, and not where the activation is flat."""
    return (x.abs() - 0.6 * x.abs().max()).abs().argmin()
