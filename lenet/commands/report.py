"""The verdict on a sweep: which settings are no worse than the best, and what it cost.

A page and the data are logged on the sweep's own run. Two sweeps are compared setting by setting.
"""

from collections.abc import Sequence

from lenet import cli


def main(argv: Sequence[str]) -> int:
    parser = cli.command_parser(__name__, __doc__, "latest")
    cli.add_run_id(parser, "the sweep's own run")
    note = "a second sweep, B: compare it with the first, A, in the settings that both have"
    parser.add_argument("other", nargs="?", metavar="RUN_ID", help=note)
    parser.add_argument("--metric", help="judge by this metric (default: the sweep's objective)")
    parser.add_argument(
        "--direction",
        choices=("maximize", "minimize"),
        help="which values of the metric are better (default: what is known of it)",
    )
    cli.add_uri(parser)
    cli.add_output_folder(parser)
    options = parser.parse_args(argv)

    from lenet.report.findings import analyze
    from lenet.report.publish import publish, write_files
    from lenet.report.text import report_lines
    from lenet.report.two_sweeps import compare_sweeps, comparison_lines
    from lenet.tracking.read import resolve_run

    output, uri = options.output, options.uri
    run_id = resolve_run(options.run_id, uri, sweep=True)
    if options.other:
        ids = run_id, resolve_run(options.other, uri, sweep=True)
        a, b = (analyze(each, uri, options.metric, options.direction) for each in ids)
        two = compare_sweeps(a, b)
        print("\n".join(comparison_lines(two)))
        if output:
            output.mkdir(parents=True, exist_ok=True)
            two.settings.to_csv(output / "comparison.csv", index=False)
            print(f"Table: {cli.one_line(output)}/comparison.csv")
        return 0
    if not output:
        print(publish(run_id, uri, options.metric, options.direction))
        return 0
    output.mkdir(parents=True, exist_ok=True)
    found = analyze(run_id, uri, options.metric, options.direction)
    write_files(found, output, uri)
    print("\n".join([*report_lines(found), f"Page: {cli.one_line(output)}/report.html"]))
    return 0
