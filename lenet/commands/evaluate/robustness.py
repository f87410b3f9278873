"""Scores of a network on a test set and on distorted copies of it."""

import copy
from collections.abc import Iterator
from typing import Any

import pandas as pd
from torch import nn

from lenet.commands.evaluate.corruptions import CORRUPTIONS, corrupted
from lenet.data.sets import Data
from lenet.training.evaluate import evaluate


def score_copies(model: nn.Module, data: Data, seed: int = 0) -> Iterator[dict[str, Any]]:
    """The score of the unchanged test set, then of each corruption at severities 1 to 5.

    `amount` is in the unit of the corruption.
    """
    wanted = [("none", 0, 0.0)]
    for name, (_, _, amounts) in CORRUPTIONS.items():
        wanted += [(name, severity, amount) for severity, amount in enumerate(amounts, 1)]
    for name, severity, amount in wanted:
        batches = copy.copy(data.test)
        if severity:
            batches.images = corrupted(data.test.images, name, severity, seed)
        score = evaluate(model, batches, nn.functional.cross_entropy)
        yield {
            "corruption": name,
            "severity": severity,
            "amount": amount,
            "accuracy": score.accuracy,
            "calibration_error": score.calibration_error,
            "loss": score.loss,
        }


def table(scores: pd.DataFrame) -> str:
    """Accuracy and calibration error: a row for each corruption, a column for each severity."""
    clean, rest = scores.iloc[0], scores[scores.severity > 0]
    lines = [
        f"Unchanged test set: accuracy {clean.accuracy:.2%}, "
        f"expected calibration error {clean.calibration_error:.2%}"
    ]
    for column, title in (
        ("accuracy", "Accuracy"),
        ("calibration_error", "Expected calibration error"),
    ):
        cells = rest.pivot(index="corruption", columns="severity", values=column)
        cells = cells.loc[list(CORRUPTIONS)].assign(mean=cells.mean(axis=1))
        text = cells.to_string(float_format="{:.2%}".format, index_names=False)
        lines += [f"\n{title} by severity:", text, f"mean of all: {rest[column].mean():.2%}"]
    lines.append("\nSeverities 1 to 5:")
    for name, (_, unit, amounts) in CORRUPTIONS.items():
        lines.append(f"  {name:<9} {', '.join(f'{a:g}' for a in amounts)} {unit}")
    return "\n".join(lines)
