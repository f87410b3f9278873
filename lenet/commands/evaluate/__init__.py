"""Test a run's network on its test set and on distorted copies of that set.

The copies are rotated, shifted, scaled, noisy, blurred or faint, at five severities each. Accuracy
and calibration error are printed, and logged as a table and a picture on the run.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from lenet import cli


def main(argv: Sequence[str]) -> int:
    parser = cli.command_parser(__name__, __doc__, "latest --output robustness")
    cli.add_run_id(parser)
    cli.add_uri(parser)
    cli.add_data_folder(parser)
    cli.add_output_folder(parser)
    note = "seed of the random distortions (default: %(default)s)"
    seed = cli.number_from(0, 2**63 - 1)
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help=note)
    options = parser.parse_args(argv)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)

    import pandas as pd
    from tqdm import tqdm

    from lenet.commands.evaluate.corruptions import CORRUPTIONS
    from lenet.commands.evaluate.plots import robustness
    from lenet.commands.evaluate.robustness import score_copies, table
    from lenet.native import equip
    from lenet.tracking.read import add_artifacts, resolve_run
    from lenet.tracking.trained import load_data, load_trained

    uri, run_id = options.uri, resolve_run(options.run_id, options.uri)
    data = load_data(run_id, uri, options.data)
    model, _ = load_trained(run_id, uri)
    equip(model)
    copies = tqdm(
        score_copies(model, data, options.seed),
        total=1 + 5 * len(CORRUPTIONS),
        disable=None,  # where nobody sees it
        leave=False,
    )
    scores = pd.DataFrame(copies)
    print(table(scores))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.output or Path(temporary)
        robustness(scores, data.test.images[0]).savefig(folder / "robustness.png", dpi=150)
        scores.to_csv(folder / "robustness.csv", index=False, float_format="%.6g")
        where = options.output or add_artifacts(run_id, folder, "robustness", uri)
    print(f"Picture and table: {cli.one_line(where)}")
    return 0
