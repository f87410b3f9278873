"""A trained network as the page shows it: how its layers are wired, and what they make of an image.

All that leaves this module is plain lists and numbers, for JSON.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lenet.commands.predict import Classifier, is_weights, load_classifier, predict
from lenet.data.images import as_input
from lenet.model.layers import RBF, ConnectedConv2d, Subsample, feeding, function_of
from lenet.model.lenet5 import LeNet5

DIGITS = 4  # after the point, of what is shown


@dataclass(frozen=True)
class Layer:
    """Which numbers of `source`, the layer before, make one of this layer, and how.

    Map k at (row, column) reads the block of `size` rows and columns that begins at
    (`stride` row, `stride` column) of each map in `feeding[k]`; `weights[k]` has as many numbers.
    `rule` says how: `sum`, `function(bias[k] + the weights times the block)`; `largest`, the
    block's largest; `distance`, minus the sum of the squared differences.

    Shapes: shape (M, H, W); feeding[k] (F); weights[k] (F * size * size); bias (M).
    """

    name: str
    title: str
    source: str
    shape: Sequence[int]
    size: int
    stride: int
    feeding: list[list[int]]
    weights: list[list[float]]
    bias: list[float]
    rule: str
    function: str


@dataclass(frozen=True)
class Network:
    """`name` is for people; `run_id` is None for a file of weights. `layers` is empty for another
    network than LeNet-5.
    """

    name: str
    run_id: str | None
    classifier: Classifier
    layers: Sequence[Layer]

    def facts(self) -> dict[str, Any]:
        c = self.classifier
        return {
            "name": self.name,
            "run_id": self.run_id,
            "kind": type(c.module).__name__,
            "classes": list(c.inputs.classes),
            "image_size": c.inputs.image_size,
        }

    def wiring(self) -> dict[str, Any]:
        return self.facts() | {"layers": [asdict(layer) for layer in self.layers]}


def open_network(source: str, activation: str = "tanh", pooling: str = "avg") -> Network:
    """Of a run, a registered model, or a file of weights, as `lenet.commands.predict` takes them.

    Raises: ValueError, one line, where there is none, or it reads no grey images.
    """
    if is_weights(source):
        classifier = load_classifier(source, activation, pooling)
        name, run_id = source, None
    else:
        from lenet.tracking.read import read_run, resolve_run

        run_id = resolve_run(source)
        run, classifier = read_run(run_id), load_classifier(run_id)
        name = f"{run.name} ({run_id[:8]})"
        if points := run.metrics.get("test/accuracy"):
            name += f", {points[-1][1]:.2%}"
    predict(classifier, torch.zeros(1, 28, 28, dtype=torch.uint8))
    return Network(name, run_id, classifier, layers_of(classifier))


@torch.inference_mode()
def look(network: Network, image: Tensor) -> dict[str, Any]:
    """What the network makes of an image: what it reads (`input`), each layer's output under its
    name, and the probabilities; flat lists.

    Shapes: uint8 (H, W).
    Raises: ValueError where that is not finite.
    """
    c = network.classifier
    scores = predict(c, image[None])[0]
    inputs = as_input(image[None], c.inputs.image_size, c.inputs.mean, c.inputs.std)
    stages = {"input": inputs[0]}
    if network.layers and isinstance(c.module, LeNet5):
        stages |= {name: stage[0] for name, stage in c.module.stages(inputs).items()}
    return {
        "class": int(scores.argmax()),
        "probabilities": _plain(scores, 6),
        "stages": {name: _plain(stage) for name, stage in stages.items()},
    }


@torch.inference_mode()
def layers_of(classifier: Classifier) -> list[Layer]:
    """Of a LeNet5; none of another network."""
    model, side = classifier.module, classifier.inputs.image_size
    # Another layer would be shown as what it is not.
    if type(model) is not LeNet5 or not (_is_halving(model.pool1) and _is_halving(model.pool2)):
        return []
    shapes = {
        name: [*stage.shape[1:], 1, 1][:3]
        for name, stage in model.stages(torch.zeros(1, 1, side, side)).items()
    }
    function = function_of(model.activation)
    layers = [
        _convolution("C1", "input", shapes["C1"], model.conv1, function),
        _pooling("S2", "C1", shapes["S2"], model.pool1),
        _convolution("C3", "S2", shapes["C3"], model.conv2, function),
        _pooling("S4", "C3", shapes["S4"], model.pool2),
        _dense("C5", "S4", shapes["C5"], model.fc1, function, shapes["S4"]),
        _dense("F6", "C5", shapes["F6"], model.fc2, function, shapes["C5"]),
    ]
    if isinstance(model.fc3, RBF):
        title = "distances to bitmaps"
        every = [list(range(84))] * len(model.fc3.centres)
        weights = [_plain(centre) for centre in model.fc3.centres]
        bias = [0.0] * len(weights)
        wiring = (every, weights, bias, "distance", "")
        layers.append(Layer("output", title, "F6", shapes["output"], 1, 1, *wiring))
    else:
        layers.append(_dense("output", "F6", shapes["output"], model.fc3, "", shapes["F6"]))
    return layers


def _is_halving(layer: nn.Module) -> bool:
    if isinstance(layer, nn.AvgPool2d | nn.MaxPool2d):
        return (layer.kernel_size, layer.stride, layer.padding) == (2, 2, 0)
    return isinstance(layer, Subsample)


def _convolution(name: str, source: str, shape: Sequence[int], layer: Any, function: str) -> Layer:
    sources = [feeding(layer, k) for k in range(layer.out_channels)]
    dense = layer.dense_weight() if isinstance(layer, ConnectedConv2d) else layer.weight
    weights = [_plain(kernel[maps]) for maps, kernel in zip(sources, dense, strict=True)]
    wiring = (sources, weights, _plain(layer.bias), "sum", function)
    return Layer(name, "convolution", source, shape, layer.kernel_size[0], 1, *wiring)


def _pooling(name: str, source: str, shape: Sequence[int], layer: Any) -> Layer:
    maps = shape[0]
    weights, bias, rule, function = [[0.25] * 4] * maps, [0.0] * maps, "sum", ""
    title = "average pooling"
    if isinstance(layer, Subsample):
        weights = [[value] * 4 for value in _plain(layer.coefficient)]
        bias, function = _plain(layer.bias), function_of(layer.activation)
        title = "subsampling"
    elif isinstance(layer, nn.MaxPool2d):
        weights, rule, title = [[]] * maps, "largest", "max pooling"
    sources = [[k] for k in range(maps)]
    return Layer(name, title, source, shape, 2, 2, sources, weights, bias, rule, function)


def _dense(
    name: str,
    source: str,
    shape: Sequence[int],
    layer: nn.Linear,
    function: str,
    before: Sequence[int],
) -> Layer:
    every = [list(range(before[0]))] * shape[0]
    weights = [_plain(row) for row in layer.weight]
    wiring = (every, weights, _plain(layer.bias), "sum", function)
    return Layer(name, "dense layer", source, shape, before[1], 1, *wiring)


def _plain(values: Tensor, digits: int = DIGITS) -> list[float]:
    return [round(v, digits) for v in values.flatten().tolist()]
