"""A network's answers on a test set: which images it reads right, and with what confidence."""

import functools
import os
from dataclasses import dataclass

import pandas as pd
from torch import Tensor, nn

from lenet.commands.demo.network import Network
from lenet.data.sets import load
from lenet.training.evaluate import evaluate


@dataclass(frozen=True)
class Answers:
    """The images of a test set, and for each a row with its index, truth, guess and confidence.

    Shapes: images uint8 (N, 1, H, W).
    """

    images: Tensor
    rows: pd.DataFrame

    @property
    def accuracy(self) -> float:
        return float((self.rows.truth == self.rows.guess).mean())

    def select(
        self, truth: int | None, guess: int | None, right: bool | None, order: str
    ) -> pd.DataFrame:
        """The rows that pass the filters; a filter of None lets all pass. `order` is `surest` or
        `least` for an order by confidence, or `set` for the order of the set.
        """
        rows = self.rows
        if truth is not None:
            rows = rows[rows.truth == truth]
        if guess is not None:
            rows = rows[rows.guess == guess]
        if right is not None:
            rows = rows[(rows.truth == rows.guess) == right]
        if order == "set":
            return rows
        return rows.sort_values("confidence", ascending=order == "least", kind="stable")


@functools.cache
def answers_of(network: Network) -> Answers:
    """The network's answers on the test set of its run; for a file of weights, on MNIST on disk.

    Raises: ValueError if there is no such set.
    """
    if network.run_id:
        from lenet.tracking.trained import load_data

        data = load_data(network.run_id)
    else:
        data = load("mnist", os.environ.get("LENET_DATA", "data"), download=False)
    score = evaluate(network.model, data.test, nn.functional.cross_entropy)
    columns = {"truth": score.labels, "guess": score.predicted, "confidence": score.confidence}
    rows = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
    return Answers(data.test.images, rows.rename_axis("index").reset_index())
