"""Writes what was measured of the experiments into README.md, docs/results.md and their own files.

python docs/results.py                             # from conf/experiment/results.json
python docs/results.py SWEEP_ID ... [--uri URI]    # first record these sweeps there

A sweep has an experiment's own command and several seeds:
python run.py -m experiment=fast 'seed=range(10)'
"""

import argparse
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

from lenet.cli import format_duration
from lenet.report.claims import Claim, Record, Sample, read_claims, read_records, write_records
from lenet.report.results import read_sweep
from lenet.tracking.read import read_run, read_text, resolve_run

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "conf" / "experiment"
HEAD = ("command", "data", "n", "mean", "sd", "95 % interval", "a run", "machine", "commit", "cost")
COLUMNS = {ROOT / "README.md": (0, 1, 2, 3, 4, 9), ROOT / "docs" / "results.md": range(9)}
COST = re.compile(r"^# Cost: +(.+)\.$", re.MULTILINE)
TABLE = re.compile(r"^\| command \|.*\n(?:\|.*\n)+", re.MULTILINE)
EXPECTED = re.compile(r"^# Expected: .*$", re.MULTILINE)


def recorded(sweep_id: str, uri: str | None) -> tuple[str, Record]:
    """The experiment whose seeds a sweep varied, and its finished runs.

    Raises: ValueError where the sweep has another command or its code was not committed.
    """
    sweep = read_sweep(resolve_run(sweep_id, uri, sweep=True), uri)
    words = shlex.split(sweep.command)
    free = re.compile(r"(seed|tracking\.\w+|sweep\.\w+)=|python|run\.py|-m$")
    name = "".join(word for word in words if not free.match(word)).removeprefix("experiment=")
    if name not in (claims := read_claims()):
        raise ValueError(f"{sweep_id}: expected the command of an experiment, got {sweep.command}")
    if " " in sweep.commit or not sweep.commit:
        raise ValueError(f"{sweep_id}: expected code that is committed, got {sweep.commit!r}")
    runs = sweep.runs[sweep.runs["status"] == "FINISHED"].sort_values("seed")
    if list(runs["seed"]) != list(range(len(runs))):
        raise ValueError(f"{sweep_id}: expected the seeds 0 to {len(runs) - 1}, each once")
    first = read_run(runs["run_id"].iloc[0], uri)
    cores = re.search(r"^cores (\d+)$", read_text(first.run_id, "environment.txt", uri), re.M)
    assert cores
    values = list(runs[claims[name].metric])
    sample = Sample.of(claims[name].metric, values)
    return name, Record(
        *(sample.n, sample.mean, sample.sd),
        seconds=round(runs["seconds"].median(), 1),
        data=first.tags["lenet.dataset"],
        machine=f"{cores[1]} cores, {first.tags['lenet.device']}",
        commit=sweep.commit,
        values=values,
    )


def own_claims() -> list[Claim]:
    """Those of this lab, not of others that are installed."""
    return [c for c in read_claims().values() if (EXPERIMENTS / f"{c.name}.yaml").is_file()]


def rows() -> list[tuple[str, ...]]:
    """A row of the table for each experiment that has recorded runs."""
    found = []
    for claim in own_claims():
        if claim.record and claim.sample:
            command = f"`python run.py experiment={claim.name}`"
            about = claim.record.machine, claim.record.commit
            seconds = format_duration(claim.record.seconds)
            cost = COST.search((EXPERIMENTS / f"{claim.name}.yaml").read_text("utf-8"))
            about += (cost[1] if cost else "",)
            found.append((command, claim.record.data, *claim.sample.cells(), seconds, *about))
    return found


def table(columns: Iterable[int]) -> str:
    lines = [[row[k] for k in columns] for row in (HEAD, ["---"] * len(HEAD), *rows())]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def written() -> dict[Path, str]:
    """Each file that has results in it, as it should be."""
    found = {
        page: TABLE.sub(lambda _, columns=columns: table(columns), page.read_text("utf-8"))
        for page, columns in COLUMNS.items()
    }
    for claim in own_claims():
        path = EXPERIMENTS / f"{claim.name}.yaml"
        if claim.sample:
            n, mean, sd, _ = claim.sample.cells()
            line = f"# Expected: {mean} (sd {sd}, n = {n})."
            found[path] = EXPECTED.sub(line, path.read_text("utf-8"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweeps", metavar="SWEEP_ID", nargs="*")
    parser.add_argument("--uri")
    options = parser.parse_args()
    new = dict(recorded(sweep, options.uri) for sweep in options.sweeps)
    write_records(EXPERIMENTS, read_records(EXPERIMENTS) | new)
    for path, text in written().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
