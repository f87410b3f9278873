"""The claims of the experiments: what each promises, what its runs gave, whether new runs agree.

An experiment's YAML file begins with the claim in words and with its bound on a metric. The file
results.json beside it holds the runs that were recorded for it. `docs/results.py` writes that file.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter
from scipy import stats

from lenet.config.labs import conf_folders
from lenet.report.text import format_number, format_p
from lenet.report.transforms import transform_of
from lenet.report.verdict import ALPHA

RECORDS = "results.json"
BOUND = re.compile(r"^# Bound: +(\S+) (>=|<=) ([\d.]+)$", re.MULTILINE)


@dataclass(frozen=True)
class Sample:
    """A metric over seeds: number, mean and standard deviation."""

    metric: str
    n: int
    mean: float
    sd: float

    @classmethod
    def of(cls, metric: str, values: Sequence[float]) -> "Sample":
        return cls(metric, len(values), float(np.mean(values)), float(np.std(values, ddof=1)))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean."""
        low, high = transform_of(self.metric).interval(self.n, self.mean, self.sd)
        return float(low), float(high)

    def p(self, other: "Sample") -> float:
        """The p value of Student's test that both have one mean, on the scale of the metric."""
        scale, n = transform_of(self.metric), (self.n, other.n)
        means, sds = np.array([self.mean, other.mean]), np.array([self.sd, other.sd])
        (a, b), (sd_a, sd_b) = scale.forward(means), sds * scale.slope(means)
        return float(stats.ttest_ind_from_stats(a, sd_a, n[0], b, sd_b, n[1]).pvalue)

    def cells(self) -> tuple[str, str, str, str]:
        """n, mean, sd and interval, as a table prints them."""
        low, high = (format_number(end, self.metric) for end in self.interval)
        mean, sd = (format_number(value, self.metric) for value in (self.mean, self.sd))
        return str(self.n), mean, sd.rstrip("%"), f"{low} to {high}"


@dataclass(frozen=True)
class Record:
    """Runs of an experiment's own command with the seeds 0 to n - 1, and the median seconds of one.

    `values` has the metric by seed. It is empty where only the mean was kept.
    """

    n: int
    mean: float
    sd: float
    seconds: float
    data: str
    machine: str
    commit: str
    values: list[float]


_RECORDS = TypeAdapter(dict[str, Record])


@dataclass(frozen=True)
class Claim:
    """The mean of a metric over seeds is at least (`>=`) or at most (`<=`) the bound."""

    name: str
    metric: str
    sign: str
    bound: float
    record: Record | None

    @property
    def condition(self) -> str:
        return f"{self.metric} {self.sign} {format_number(self.bound, self.metric)}"

    @property
    def sample(self) -> Sample | None:
        """The recorded runs."""
        if self.record is None:
            return None
        return Sample(self.metric, self.record.n, self.record.mean, self.record.sd)

    def is_met_by(self, value: float) -> bool:
        return value >= self.bound if self.sign == ">=" else value <= self.bound

    def new_seeds(self, number: int) -> range:
        """Seeds that are not among the recorded ones, so that their runs are new evidence."""
        first = self.record.n if self.record else 0
        return range(first, first + number)


@dataclass(frozen=True)
class Check:
    """A claim and new runs of it."""

    claim: Claim
    now: Sample

    @property
    def p(self) -> float | None:
        """That of new against recorded runs; None where nothing is recorded."""
        before = self.claim.sample
        return None if before is None else self.now.p(before)

    @property
    def is_worse(self) -> bool:
        """Whether the new runs are significantly worse than the recorded ones."""
        before, p = self.claim.sample, self.p
        if before is None or p is None or p >= ALPHA:
            return False
        return (self.now.mean < before.mean) == (self.claim.sign == ">=")

    @property
    def holds(self) -> bool:
        return self.claim.is_met_by(self.now.mean) and not self.is_worse

    def lines(self) -> Iterator[str]:
        """The answer in sentences: agreement with the record, the bound, the claim."""
        claim, p = self.claim, self.p
        if p is not None:
            differ = "Significant" if p < ALPHA else "No significant"
            yield f"{differ} difference from the recorded runs (p {format_p(p)})."
        low, high = map(claim.is_met_by, self.now.interval)
        side = "within" if claim.is_met_by(self.now.mean) else "outside"
        sure = "so is" if low == high else "not all of"
        yield f"The mean is {side} the bound, {claim.condition}; {sure} its 95% interval."
        yield f"The claim {'holds' if self.holds else 'does not hold'}."


def read_claims() -> dict[str, Claim]:
    """The claims of all experiments that have a bound, by name."""
    found = {}
    for folder in (conf / "experiment" for conf in conf_folders()):
        records = read_records(folder)
        for path in sorted(folder.glob("*.yaml")):
            if head := BOUND.search(path.read_text(encoding="utf-8")):
                metric, sign, bound = head.groups()
                record = records.get(path.stem)
                found[path.stem] = Claim(path.stem, metric, sign, float(bound), record)
    return found


def read_records(folder: Path) -> dict[str, Record]:
    """What is recorded for the experiments in a folder, by name."""
    path = folder / RECORDS
    return _RECORDS.validate_json(path.read_bytes()) if path.is_file() else {}


def write_records(folder: Path, records: dict[str, Record]) -> None:
    ordered = dict(sorted(records.items()))
    (folder / RECORDS).write_bytes(_RECORDS.dump_json(ordered, indent=1) + b"\n")
