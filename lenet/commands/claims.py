"""List what the experiments claim, or run one again and say whether its claim holds.

The new runs have seeds that the recorded ones have not. The exit status is 0 if their mean is
within the bound and not significantly worse than the recorded mean, else 1.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from lenet.cli import add_uri, command_parser, number_from, tell
from lenet.cli.screen import aligned
from lenet.config.overrides import in_grammar

if TYPE_CHECKING:
    from lenet.report.claims import Claim


def main(argv: Sequence[str]) -> int:
    parser = command_parser(__name__, __doc__, "fast --seeds 3")
    parser.add_argument("name", metavar="NAME", nargs="?", help="an experiment to run again")
    note = "run it with this many new seeds (default: %(default)s)"
    parser.add_argument("--seeds", type=number_from(2, 100), default=3, metavar="N", help=note)
    add_uri(parser)
    options = parser.parse_args(argv)

    from lenet.report.claims import Check, Sample, read_claims

    claims = read_claims()
    if options.name is None:
        print("\n".join(aligned([*rows(claims.values())], right={2, 3, 4})))
        return 0
    if options.name not in claims:
        raise ValueError(f"{options.name}: expected one of {', '.join(claims)}")
    claim = claims[options.name]
    try:
        values = run_again(claim, options.seeds, options.uri)
    except ArithmeticError as error:  # a run diverged
        tell(error)
        print("The claim does not hold.")
        return 1
    found = Check(claim, Sample.of(claim.metric, values))
    table = [("runs", "n", "mean", "sd", "95% interval")]
    samples = ("recorded", claim.sample), ("new", found.now)
    table += [(name, *sample.cells()) for name, sample in samples if sample]
    print("\n".join(["", *aligned(table, right={1, 2, 3}), *found.lines()]))
    return 0 if found.holds else 1


def rows(claims: "Iterable[Claim]") -> Iterator[tuple[str, ...]]:
    """A header, and a row for each claim."""
    yield "experiment", "claim", "n", "mean", "sd", "95% interval"
    for claim in claims:
        yield claim.name, claim.condition, *(claim.sample.cells() if claim.sample else "-" * 4)


def run_again(claim: "Claim", seeds: int, uri: str | None) -> list[float]:
    """The claim's metric in runs with new seeds. Those that are finished are not run again.

    Raises: as `sweep`.
    """
    from lenet.commands.run.notebook import sweep
    from lenet.report.findings import analyze

    chosen = ",".join(map(str, claim.new_seeds(seeds)))
    store = [f"tracking.uri={in_grammar(uri)}"] if uri else []
    done = sweep(f"experiment={claim.name}", f"seed={chosen}", "sweep.report=false", *store)
    assert done
    return list(analyze(done.id, done.uri, claim.metric).verdict.runs[claim.metric])
