"""Scores of a network on a test set and on distorted copies of it."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from lenet.commands.evaluate.corruptions import CORRUPTIONS, corrupted
from lenet.data.sets import Data
from lenet.training.evaluate import Score, evaluate


@dataclass(frozen=True)
class Result:
    """The score of one copy. Severity 0 is the unchanged test set; `amount` is in the unit of the
    corruption.
    """

    corruption: str
    severity: int
    amount: float
    score: Score


def results_of(model: nn.Module, data: Data, seed: int = 0) -> Iterator[Result]:
    """The unchanged test set, then each corruption at each severity. It takes seconds on MNIST."""

    def scored(corruption: str, severity: int, amount: float) -> Result:
        batches = copy.copy(data.test)
        if severity:
            batches.images = corrupted(data.test.images, corruption, severity, seed)
        score = evaluate(model, batches, nn.functional.cross_entropy)
        return Result(corruption, severity, amount, score)

    yield scored("none", 0, 0.0)
    for name, (_, _, amounts) in CORRUPTIONS.items():
        for severity, amount in enumerate(amounts, 1):
            yield scored(name, severity, amount)


def table(results: Sequence[Result]) -> str:
    """Accuracy and calibration error: a row for each corruption, a column for each severity."""
    clean, *rest = results
    names = list(dict.fromkeys(result.corruption for result in rest))
    score = clean.score
    lines = [
        f"Test set of {score.count:,} images: accuracy {score.accuracy:.2%}, "
        f"expected calibration error {score.calibration_error:.2%}"
    ]
    for title, values in (
        ("Accuracy", [r.score.accuracy for r in rest]),
        ("Expected calibration error", [r.score.calibration_error for r in rest]),
    ):
        lines.append(f"\n{title:<26}" + "".join(f"{k:>9}" for k in range(1, 6)) + "     mean")
        for name in names:
            own = [v for r, v in zip(rest, values, strict=True) if r.corruption == name]
            cells = "".join(f"{value:>9.2%}" for value in [*own, sum(own) / len(own)])
            lines.append(f"{f'  {name}':<26}{cells}")
        lines.append(f"{'  all':<26}{'':45}{sum(values) / len(values):>9.2%}")
    lines.append("\nSeverities 1 to 5:")
    for name, (_, unit, amounts) in CORRUPTIONS.items():
        lines.append(f"  {name:<9} {', '.join(f'{a:g}' for a in amounts)} {unit}")
    return "\n".join(lines)


def rows(results: Sequence[Result]) -> str:
    """The scores as CSV, a row for each result."""
    lines = ["corruption,severity,amount,accuracy,calibration_error,loss"]
    for r in results:
        numbers = (r.score.accuracy, r.score.calibration_error, r.score.loss)
        cells = ",".join(f"{number:.6g}" for number in numbers)
        lines.append(f"{r.corruption},{r.severity},{r.amount:g},{cells}")
    return "\n".join(lines) + "\n"
