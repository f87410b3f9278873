"""List this lab's runs, the newest first: id, name, status, age, accuracies."""

import time
from collections.abc import Sequence
from itertools import islice

from lenet.cli import (
    RUN_ID,
    add_uri,
    command_parser,
    format_duration,
    number_from,
    one_line,
)
from lenet.cli.screen import aligned
from lenet.tracking.client import connect, is_own, translated
from lenet.tracking.family import read_family
from lenet.tracking.read import Summary, resolve_run, search

STATUSES = ("finished", "running", "failed", "killed", "scheduled")
NAME_WIDTH = 32  # so that a line has 80 characters


def main(argv: Sequence[str]) -> int:
    parser = command_parser(__name__, __doc__, "--status finished -n 5")
    parser.add_argument("--experiment", metavar="NAME", help="only runs of this experiment")
    parser.add_argument("--status", choices=STATUSES, help="only runs with this status")
    parser.add_argument("--sweep", metavar="RUN_ID", help=f"only the jobs of this sweep: {RUN_ID}")
    note = "list at most this many (default: %(default)s)"
    parser.add_argument(
        "-n", type=number_from(1, 1_000_000), default=20, metavar="N", help=note, dest="count"
    )
    add_uri(parser)
    options = parser.parse_args(argv)
    runs = find_runs(options.count, options.uri, options.experiment, options.status, options.sweep)
    print("\n".join(table(runs, time.time())) if runs else "No such runs.")
    return 0


def find_runs(
    count: int, uri: str | None, experiment: str | None, status: str | None, sweep: str | None
) -> list[Summary]:
    """The newest runs that pass all the filters.

    Raises: ValueError for an experiment or a sweep that does not exist; TrackingError.
    """
    client = connect(uri, create=False)
    with translated(client):
        ids = {each.name: each.experiment_id for each in client.search_experiments()}
        if experiment and experiment not in ids:
            raise ValueError(f"--experiment {experiment}: expected one of {', '.join(ids)}")
        chosen = [ids[experiment]] if experiment else list(ids.values())
        if sweep:
            _, family = read_family(resolve_run(sweep, uri, sweep=True), uri)
            found = [run for run in reversed(family) if run.experiment_id in chosen]
            return [run for run in found if not status or run.status == status.upper()][:count]
        wanted = f"attributes.status = '{status.upper()}'" if status else ""
        runs = search(client, chosen, wanted, "DESC", page=min(count, 100))
        return [Summary.of(run) for run in islice(filter(is_own, runs), count)]


def table(runs: Sequence[Summary], now: float) -> list[str]:
    """A header, and a line of at most 80 characters for each run."""
    rows = [["id", "name", "status", "age", "val", "test"]]
    for run in runs:
        name = one_line(run.name)
        name = name if len(name) <= NAME_WIDTH else f"{name[: NAME_WIDTH - 3]}..."
        scores = [run.metrics.get(f"{part}/accuracy") for part in ("val", "test")]
        shown = ["-" if score is None else f"{score:.2%}" for score in scores]
        age = format_duration(max(0, now - run.start / 1000))
        rows.append([run.run_id[:8], name, run.status.lower(), age, *shown])
    return aligned(rows, right={3, 4, 5})
