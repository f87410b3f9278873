"""A trained network as the page shows it: how its layers are wired, and what they compute.

Everything is in plain lists and numbers, for JSON.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lenet.commands.demo.wiring import Layer, layers_of
from lenet.commands.predict import Classifier, is_weights, load_classifier, predict
from lenet.data.images import as_input
from lenet.model.lenet5 import LeNet5

DIGITS = 4  # after the point


@dataclass(frozen=True)
class Network:
    """A network with the name that the page shows. `run_id` is None for a file of weights; `layers`
    is empty if the network is not a LeNet-5.
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
        return self.facts() | {"layers": [_json(layer) for layer in self.layers]}


def open_network(source: str, activation: str = "tanh", pooling: str = "avg") -> Network:
    """The network of a run, a registered model, or a file of weights, as `predict` takes them.

    Raises: ValueError if there is none, or if it does not read grey images.
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
    layers = layers_of(classifier.module, classifier.inputs.image_size)
    return Network(name, run_id, classifier, layers)


@torch.inference_mode()
def look(network: Network, image: Tensor) -> dict[str, Any]:
    """What the network computes for an image: its input, each layer's output under its name, and
    the probabilities, as flat lists.

    Shapes: uint8 (H, W).
    Raises: ValueError if an output is not finite.
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


def _json(layer: Layer) -> dict[str, Any]:
    names = ("name", "title", "source", "shape", "size", "stride", "feeding", "rule", "function")
    return {name: getattr(layer, name) for name in names} | {
        "weights": [_plain(weights) for weights in layer.weights],
        "bias": _plain(layer.bias),
    }


def _plain(values: Tensor, digits: int = DIGITS) -> list[float]:
    return [round(v, digits) for v in values.flatten().tolist()]
