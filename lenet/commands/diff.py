"""Compare two runs: configuration, code, data, environment, metrics.

Exit status 0 if all metrics and the final weights are equal bit for bit; 1 if they differ, or
were not recorded in both runs.
"""

from collections.abc import Sequence

from lenet.cli import RUN_ID, add_uri, command_parser


def main(argv: Sequence[str]) -> int:
    parser = command_parser(__name__, __doc__, "41a20018 latest")
    parser.add_argument("runs", metavar="RUN_ID", nargs=2, help=RUN_ID)
    add_uri(parser)
    options = parser.parse_args(argv)

    from lenet.tracking.compare import compare, read, report
    from lenet.tracking.read import resolve_run

    ids = [resolve_run(run, options.uri) for run in options.runs]
    (a, environment_a), (b, environment_b) = (read(run_id, options.uri) for run_id in ids)
    difference = compare(a, b, (environment_a, environment_b))
    print(report(a, b, difference))
    return 0 if difference.same_bits else 1
