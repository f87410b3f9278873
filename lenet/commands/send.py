"""Send the records that the tracking server did not take while a run was training.

To send records twice does not double them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from lenet.cli import MISTAKE, RUN_ID, command_parser, number_from, one_line, path_of, tell
from lenet.tracking.journal import Facts, JournalError, remove_remains, unfinished
from lenet.tracking.names import TrackingError, waiting_root
from lenet.tracking.outbox import send


def main(argv: Sequence[str]) -> int:
    """Returns: 0, or 2 if any of the runs was not sent."""
    parser = command_parser(__name__, __doc__, "latest")
    note = f"a waiting run: {RUN_ID} (default: all that wait)"
    parser.add_argument("runs", metavar="RUN_ID", nargs="*", help=note)
    note = "the folder of the waiting runs (default: $LENET_RUNS, or outputs)"
    parser.add_argument("--folder", type=path_of, metavar="FOLDER", help=note)
    note = "how long to try for each run (default: %(default)g)"
    parser.add_argument(
        "--wait", type=number_from(0, 10**9, float), default=60.0, metavar="SECONDS", help=note
    )
    note = "send to the store at this address instead, as a new run with another id"
    parser.add_argument("--uri", metavar="ADDRESS", help=note)
    options = parser.parse_args(argv)

    root = waiting_root(options.folder)
    if options.folder and not root.is_dir():
        raise JournalError(f"{root}: expected a folder of waiting runs, found none")
    waiting = dict(unfinished(root))
    status = 0
    for run in options.runs or [facts.id for facts in waiting.values()]:
        try:
            print(one_line(send(find_waiting(run, waiting, root), options.wait, options.uri)))
        except (JournalError, TrackingError) as error:
            tell(error)
            status = MISTAKE
    if not options.runs:
        remove_remains(root)
    if not options.runs and not waiting:
        print(f"Nothing waits in {one_line(root)}.")
    return status


def find_waiting(run: str, waiting: Mapping[Path, Facts], root: Path) -> Path:
    """The folder of a waiting run, by our id or MLflow's. The server is not asked: it may be down.

    Raises: JournalError if none or several match.
    """
    if run == "latest":
        found = sorted(waiting, key=lambda folder: waiting[folder].start_time)[-1:]
    else:
        ids = {folder: (facts.id, facts.run_id or "") for folder, facts in waiting.items()}
        found = [folder for folder, own in ids.items() if any(i.startswith(run) for i in own)]
    if not found:
        raise JournalError(f"{run}: no such run waits in {root}")
    if len(found) > 1:
        names = ", ".join(folder.name for folder in found[:3])
        raise JournalError(f"{run}: several waiting runs have ids that start with it: {names} ...")
    return found[0]
