"""How a trained network does on test images made worse. `python -m lenet evaluate RUN_ID`"""

import argparse
import contextlib
import copy
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from tqdm import tqdm

from lenet.cli import OUTPUT, RUN_ID, URI, answer, check_folder, one_line, path_of
from lenet.commands.corruptions import CORRUPTIONS, corrupted
from lenet.data.sets import Data
from lenet.native import equip
from lenet.sweep.parent_run import add_artifacts
from lenet.tracking.store import named
from lenet.training.evaluate import Score, evaluate

FOLDER = "robustness"  # of the run's artifacts


@dataclass(frozen=True)
class Result:
    """`severity` 0 is the test set as it is, `amount` in the corruption's own unit."""

    corruption: str
    severity: int
    amount: float
    score: Score


def results_of(model: nn.Module, data: Data, seed: int = 0) -> Iterator[Result]:
    """The test set as it is, then each corruption at each severity; seconds on MNIST."""

    def scored(corruption: str, severity: int, amount: float) -> Result:
        batches = copy.copy(data.test)
        if severity:
            batches.images = corrupted(data.test.images, corruption, severity, seed)
        return Result(
            *(corruption, severity, amount), evaluate(model, batches, nn.functional.cross_entropy)
        )

    yield scored("none", 0, 0.0)
    for name, (_, _, amounts) in CORRUPTIONS.items():
        for severity, amount in enumerate(amounts, 1):
            yield scored(name, severity, amount)


def table(results: Sequence[Result]) -> str:
    """Accuracy and calibration error, a row a corruption, a column a severity."""
    clean, *rest = results
    names = list(dict.fromkeys(result.corruption for result in rest))
    lines = [
        f"Test set of {clean.score.count:,} images: accuracy {clean.score.accuracy:.2%}, "
        f"expected calibration error {clean.score.calibration_error:.2%}"
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
    """As CSV."""
    lines = ["corruption,severity,amount,accuracy,calibration_error,loss"]
    for r in results:
        numbers = (r.score.accuracy, r.score.calibration_error, r.score.loss)
        cells = ",".join(f"{number:.6g}" for number in numbers)
        lines.append(f"{r.corruption},{r.severity},{r.amount:g},{cells}")
    return "\n".join(lines) + "\n"


# ---- The command -----------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> int:
    """Returns: 0, or 2 where the run, its network or its data can't be had."""
    parser = argparse.ArgumentParser(
        prog="python -m lenet evaluate",
        description="Tests a run's network on its test set, and on that set rotated, shifted, "
        "scaled, noisy, blurred and faint, at five severities each: accuracy and calibration error "
        "as a table, and as a table and a picture among the run's artifacts.",
        epilog="Example: python -m lenet evaluate 41a20018ee834d6487033a5dc7d6bcb4",
    )
    parser.add_argument("run_id", metavar="RUN_ID", help=RUN_ID)
    parser.add_argument("--uri", help=URI)
    parser.add_argument("--output", type=path_of, metavar="FOLDER", help=OUTPUT)
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of what is random; default: 0"
    )
    options = parser.parse_args(argv)
    return answer(lambda: _run(options.run_id, options.uri, options.output, options.seed))


def _run(run_id: str, uri: str | None, output: Path | None, seed: int) -> None:
    from lenet.commands.robustness_plots import robustness
    from lenet.tracking.resume import (  # slow to import: --help needs none of them
        load_data,
        load_trained,
    )

    if not 0 <= seed < 2**63:
        raise ValueError(f"--seed {seed}: expected 0 to {2**63 - 1}")
    if output:
        check_folder(output)
    run_id = named(run_id, uri)
    with contextlib.redirect_stdout(sys.stderr):
        data = load_data(run_id, uri)
        model, _ = load_trained(run_id, uri)
        equip(model)
    count = 1 + sum(len(amounts) for _, _, amounts in CORRUPTIONS.values())
    live = sys.stderr.isatty()
    bar = tqdm(results_of(model, data, seed), total=count, disable=not live, leave=False, ncols=90)
    results = list(bar)
    print(table(results))
    figure = robustness(results, data.test.images[0])
    with tempfile.TemporaryDirectory() as temporary:
        folder = output or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / "robustness.png", dpi=150)
        (folder / "robustness.csv").write_text(rows(results), encoding="utf-8")
        where = str(folder) if output else add_artifacts(run_id, folder, FOLDER, uri)
    print(f"Picture and table: {one_line(where)}")
