"""A trained network as the page shows it: how its layers are wired, and what they compute.

Everything is in plain lists and numbers, for JSON.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lenet.commands.demo.wiring import Layer, layers_of
from lenet.commands.predict import is_weights, load_network, predict
from lenet.data.images import as_input
from lenet.data.inputs import Inputs
from lenet.model.lenet5 import LeNet5

DIGITS = 4  # after the point


@dataclass(frozen=True, eq=False)  # so that a cache can have it as a key
class Network:
    """A network with the name that the page shows. `run_id` is None for a file of weights; `layers`
    is empty if the network is not a LeNet-5; `data` is where the files of its set are.
    """

    name: str
    run_id: str | None
    model: nn.Module
    inputs: Inputs
    layers: Sequence[Layer]
    data: Path | None = None

    def facts(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "run_id": self.run_id,
            "kind": type(self.model).__name__,
            "classes": self.inputs.classes,
            "image_size": self.inputs.image_size,
            "channels": self.inputs.in_channels,
        }

    def wiring(self) -> dict[str, Any]:
        return self.facts() | {"layers": [_json(layer) for layer in self.layers]}

    @torch.inference_mode()
    def look(self, image: Tensor) -> dict[str, Any]:
        """What the network computes for an image: its input, each layer's output under its name,
        and the probabilities, as flat lists.

        Shapes: uint8 (H, W) or (C, H, W).
        Raises: ValueError if an output is not finite.
        """
        shares = predict(self.model, self.inputs, image[None])[0]
        x = as_input(image[None], self.inputs.image_size, self.inputs.mean, self.inputs.std)
        stages = {"input": x}
        if self.layers and isinstance(self.model, LeNet5):
            stages |= self.model.stages(x)
        return {
            "class": int(shares.argmax()),
            "probabilities": _plain(shares, 6),
            "stages": {name: _plain(stage) for name, stage in stages.items()},
        }


def open_network(
    source: str, activation: str = "tanh", pooling: str = "avg", data: Path | None = None
) -> Network:
    """The network of a run, a registered model, or a file of weights, as `predict` takes them.

    Raises: ValueError if there is none, or if it does not read images of its set.
    """
    name, run_id = source, None
    if not is_weights(source):
        from lenet.tracking.read import read_run, resolve_run

        source = run_id = resolve_run(source)
        run = read_run(run_id)
        name = f"{run.name} ({run_id[:8]})"
        if accuracy := run.metrics.get("test/accuracy"):
            name += f", {accuracy:.2%}"
    model, inputs = load_network(source, activation, pooling)
    shape = (1, inputs.in_channels, inputs.form.height, inputs.form.width)
    blank = torch.zeros(shape, dtype=torch.uint8)
    predict(model, inputs, blank)
    return Network(name, run_id, model, inputs, layers_of(model, inputs.image_size), data)


def _json(layer: Layer) -> dict[str, Any]:
    names = ("name", "title", "source", "shape", "size", "stride", "feeding", "rule", "function")
    return {name: getattr(layer, name) for name in names} | {
        "weights": [_plain(weights) for weights in layer.weights],
        "bias": _plain(layer.bias),
    }


def _plain(values: Tensor, digits: int = DIGITS) -> list[float]:
    return [round(v, digits) for v in values.flatten().tolist()]
