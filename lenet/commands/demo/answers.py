"""A network's answers on a test set: which images it reads right, and with what confidence."""

import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from torch import Tensor, nn

from lenet.commands.demo.network import Network
from lenet.data.sets import load
from lenet.training.evaluate import evaluate


@dataclass(frozen=True)
class Answers:
    """The images of a test set, and a row for each: truth, guess, confidence, and whether the guess
    is right.

    Shapes: images uint8 (N, C, H, W).
    """

    images: Tensor
    rows: pd.DataFrame

    def select(self, filters: Mapping[str, int | bool | None], order: str) -> pd.DataFrame:
        """The rows with these values; a value of None lets all pass. `order` is `surest` or `least`
        for an order by confidence, or `set` for the order of the set.
        """
        rows = self.rows
        for column, value in filters.items():
            if value is not None:
                rows = rows[rows[column] == value]
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

        data = load_data(network.run_id, folder=network.data)
    else:
        data = load("mnist", os.environ.get("LENET_DATA", "data"), download=False)
    score = evaluate(network.model, data.test, nn.functional.cross_entropy)
    columns = {"truth": score.labels, "guess": score.predicted, "confidence": score.confidence}
    rows = pd.DataFrame({name: column.numpy() for name, column in columns.items()})
    rows["right"] = rows.truth == rows.guess
    return Answers(data.test.images, rows.rename_axis("index").reset_index())
