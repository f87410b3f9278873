"""Test a run's network on its test set, or another one, and on distorted copies.

The copies are rotated, shifted, scaled, noisy, blurred or faint, at five severities each. Accuracy
and calibration error are printed, and logged as a table and a picture on the run.

The networks of several runs, or of a sweep, answer as one: by the mean of their probabilities.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lenet import cli


def main(argv: Sequence[str]) -> int:
    parser = cli.command_parser(__name__, __doc__, "latest --output robustness")
    note = (
        f"{cli.RUN_ID}; several runs or a sweep are an ensemble. KEY=VALUE: another set to test "
        "on, as run.py names it: data=fashion_mnist, data=files data.test=PATH"
    )
    parser.add_argument("words", metavar="RUN_ID|KEY=VALUE", nargs="+", help=note)
    cli.add_uri(parser)
    cli.add_data_folder(parser)
    cli.add_output_folder(parser)
    note = "seed of the random distortions (default: %(default)s)"
    seed = cli.number_from(0, 2**63 - 1)
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help=note)
    options = parser.parse_intermixed_args(argv)
    overrides = [word for word in options.words if "=" in word]
    names = [word for word in options.words if "=" not in word]
    if not names:
        parser.error(f"{overrides[0]}: needs a RUN_ID, as in: latest {overrides[0]}")
    if overrides and options.data:
        parser.error("--data: says where the run's own set is; say data.root=FOLDER of another")
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
    where = _score(options, names, overrides)
    print(f"Picture and table: {cli.one_line(where)}")
    return 0


def _score(options: argparse.Namespace, names: list[str], overrides: list[str]) -> Path | str:
    """Prints the scores. Returns: where picture and table are."""
    import pandas as pd

    from lenet.cli.screen import progress_bar
    from lenet.commands.evaluate.corruptions import CORRUPTIONS
    from lenet.commands.evaluate.ensemble import Ensemble, load_networks, member_lines, runs_of
    from lenet.commands.evaluate.other_set import load_other
    from lenet.commands.evaluate.plots import robustness
    from lenet.commands.evaluate.robustness import score_copies, table
    from lenet.tracking.additions import add_artifacts
    from lenet.tracking.read import resolve_run
    from lenet.tracking.trained import load_data
    from lenet.training.plots.style import caption, save, small_print

    uri, ids = options.uri, [resolve_run(name, options.uri) for name in names]
    runs = runs_of(ids, uri)
    models, inputs = load_networks(runs, uri)
    model = Ensemble(models) if len(models) > 1 else models[0]
    if overrides:
        data = load_other(overrides, inputs)
        print(f"{data.name}: {data.test.count:,} test images, of {cli.one_line(data.where)}")
    else:
        data = load_data(runs[0].run_id, uri, options.data)
    if isinstance(model, Ensemble):
        print(*member_lines(runs, model, data.test), "", sep="\n")
    with progress_bar() as bar:
        copies = score_copies(model, data, options.seed)
        scores = pd.DataFrame(bar.track(copies, 1 + 5 * len(CORRUPTIONS), description="Testing"))
    print(table(scores))
    run = f"run {runs[0].run_id[:8]} ({runs[0].name})"
    run += f" and {len(runs) - 1} more" if len(runs) > 1 else ""
    figure = caption(robustness(scores, data.test.images[0]), small_print(run, data, model))
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.output or Path(temporary)
        save(figure, folder / "robustness.png")
        scores.to_csv(folder / "robustness.csv", index=False, float_format="%.6g")
        kind = "robustness" if len(runs) == 1 else "ensemble"
        name = f"{kind}_{data.name}" if overrides else kind
        return options.output or add_artifacts(ids[0], folder, name, uri)
