"""Test a run's network on its test set and on distorted copies of that set.

The copies are rotated, shifted, scaled, noisy, blurred or faint, at five severities each. Accuracy
and calibration error are printed, and logged as a table and a picture on the run.
"""

import contextlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lenet.cli import (
    add_output_folder,
    add_run_id,
    add_uri,
    check_folder,
    command_parser,
    number_from,
    one_line,
)

FOLDER = "robustness"  # among the run's artifacts


def main(argv: Sequence[str]) -> int:
    parser = command_parser(__name__, __doc__, "latest --output robustness")
    add_run_id(parser)
    add_uri(parser)
    add_output_folder(parser)
    note = "seed of the random distortions (default: %(default)s)"
    parser.add_argument("--seed", type=number_from(0, 2**63 - 1), default=0, metavar="N", help=note)
    options = parser.parse_args(argv)
    if options.output:
        check_folder(options.output)
    run(options.run_id, options.uri, options.output, options.seed)
    return 0


def run(run_id: str, uri: str | None, output: Path | None, seed: int) -> None:
    from tqdm import tqdm

    from lenet.commands.evaluate.corruptions import CORRUPTIONS
    from lenet.commands.evaluate.plots import robustness
    from lenet.commands.evaluate.robustness import results_of, rows, table
    from lenet.native import equip
    from lenet.tracking.read import add_artifacts, resolve_run
    from lenet.tracking.trained import load_data, load_trained

    run_id = resolve_run(run_id, uri)
    with contextlib.redirect_stdout(sys.stderr):
        data = load_data(run_id, uri)
        model, _ = load_trained(run_id, uri)
        equip(model)
    count = 1 + sum(len(amounts) for _, _, amounts in CORRUPTIONS.values())
    hidden = not sys.stderr.isatty()
    bar = tqdm(results_of(model, data, seed), total=count, disable=hidden, leave=False, ncols=90)
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
