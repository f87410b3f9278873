"""A network's answers on a test set: which images it reads right, and with what confidence."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lenet.commands.demo.network import Network
from lenet.data.sets import load
from lenet.training.evaluate import Score, evaluate


@dataclass(frozen=True)
class Walk:
    """A test set and the network's score on it. Shapes: images uint8 (N, 1, H, W)."""

    images: Tensor
    score: Score

    def select(
        self, truth: int | None, guess: int | None, right: bool | None, order: str
    ) -> Tensor:
        """Indices of the images that pass the filters; a filter of None lets all pass. `order` is
        `surest` or `least` for an order by confidence, or `set` for the order of the set.

        Shapes: -> int64 (M).
        """
        score = self.score
        chosen = torch.ones(score.count, dtype=torch.bool)
        if truth is not None:
            chosen &= score.labels == truth
        if guess is not None:
            chosen &= score.predicted == guess
        if right is not None:
            chosen &= (score.labels == score.predicted) == right
        index = chosen.nonzero().flatten()
        if order == "set":
            return index
        sureness = score.confidence[index]
        return index[sureness.argsort(descending=order == "surest", stable=True)]

    def rows(self, index: Tensor) -> list[dict[str, Any]]:
        score = self.score
        columns = (index, score.labels[index], score.predicted[index], score.confidence[index])
        keys = ("index", "truth", "guess", "confidence")
        rows: Sequence[Sequence[Any]] = [column.tolist() for column in columns]
        return [dict(zip(keys, row, strict=True)) for row in zip(*rows, strict=True)]


def walk(network: Network) -> Walk:
    """The network's answers on the test set of its run; for a file of weights, on MNIST on disk.

    Raises: ValueError if there is no such set, or it has a different number of classes.
    """
    c = network.classifier
    if network.run_id:
        from lenet.tracking.trained import load_data

        data = load_data(network.run_id)
    else:
        data = load("mnist", os.environ.get("LENET_DATA", "data"), download=False)
    if len(c.inputs.classes) != len(data.inputs.classes):
        raise ValueError(
            f"{data.name}: expected {len(c.inputs.classes)} classes, as the network has, found "
            f"{len(data.inputs.classes)}"
        )
    assert isinstance(c.module, nn.Module)
    score = evaluate(c.module, data.test, nn.functional.cross_entropy)
    return Walk(data.test.images, score)
