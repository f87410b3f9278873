"""`sweep.budget`: the settings of a grid race over seeds, until one is left or the time is over."""

import json
import re
import statistics
import time
from collections.abc import Collection, Iterator, Sequence
from math import isfinite, isnan

import numpy as np

from lenet.config.errors import ConfigError
from lenet.config.metrics import is_maximized
from lenet.report.layout import fit
from lenet.report.results import SEED
from lenet.report.transforms import transformed
from lenet.report.verdict import ALPHA
from lenet.sweeps.jobs import FAILED, Job

UNITS = {"s": 1, "min": 60, "h": 3600}
FIRST_LOOK = 3  # seeds of each setting: two tell hardly any settings apart


def seconds_of(budget: object) -> float:
    """`10min` is 600. Raises: ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h)", str(budget))
    if not match or not float(match[1]):
        raise ConfigError(f"sweep.budget={budget}: expected a time such as 90s, 10min or 2h")
    return float(match[1]) * UNITS[match[2]]


class Race:
    """Which job is next. All settings get three seeds; then each that is still in the race gets
    one more seed a round, the best one first.

    After each round the settings are compared as in a report. One leaves the race where the test
    that it is the truly best one rejects at 5 % divided by the number of looks. So the truly best
    setting stays in at least 95 % of races. A setting with a failed seed leaves too.

    `open` are the settings that are still in the race, the best one first.

    Raises: ConfigError where the grid has no objective or fewer than three seeds.
    """

    def __init__(self, jobs: Sequence[Job], seconds: float) -> None:
        objective = jobs[0].config["objective"]
        if objective is None:
            raise ConfigError(
                "sweep.budget: needs a measure to choose by; take objective=val/accuracy and set "
                "data.val_size"
            )
        self.metric, self.sign = str(objective), 1 if is_maximized(objective) else -1
        self._key = {job.sha256: _setting_of(job) for job in jobs}
        self.open = list(dict.fromkeys(self._key.values()))
        self.most = len(jobs) // len(self.open)  # seeds of a setting
        if self.most < FIRST_LOOK:
            raise ConfigError(
                f"sweep.budget: decides how many seeds a setting gets; expected {FIRST_LOOK} or "
                "more, such as 'seed=range(10)'"
            )
        self.seconds, self.is_late = seconds, False
        self._values: dict[str, dict[int, float]] = {key: {} for key in self.open}
        self._running: dict[str, float] = {}  # since when, by checksum
        self._taken: list[float] = []
        self._gone: set[str] = set()

    def begin(self, jobs: Sequence[Job], to_run: Collection[str], expected: float) -> None:
        """Takes what earlier runs tell. Jobs in the states `to_run` can run; one takes `expected`
        seconds (nan: unknown). The time begins.
        """
        self._expected, self._end = expected, time.monotonic() + self.seconds
        self.waiting: dict[str, list[Job]] = {key: [] for key in self.open}
        for job in jobs:
            if job.state in to_run:
                self.waiting[self._key[job.sha256]].append(job)
            else:
                self._note(job)

    @property
    def before_first_look(self) -> int:
        """How many jobs are run before any setting can leave."""
        return sum(max(0, FIRST_LOOK - (self.most - len(self.waiting[key]))) for key in self.open)

    def jobs(self) -> Iterator[Job | None]:
        """The jobs to run; None while there is nothing to run before the next one ends."""
        for seeds in range(FIRST_LOOK, self.most + 1):
            while lacking := [key for key in self.open if self._lacks(key, seeds)]:
                fewest = min(lacking, key=lambda key: self.most - len(self.waiting[key]))
                if self._would_be_late():
                    return
                job = self.waiting[fewest].pop(0)
                self._running[job.sha256] = time.monotonic()
                yield job
            while self._running:
                yield None
            self._look()
            if len(self.open) < 2:
                return

    def _lacks(self, key: str, seeds: int) -> bool:
        """Whether fewer seeds of the setting have begun."""
        return bool(self.waiting[key]) and self.most - len(self.waiting[key]) < seeds

    def add(self, job: Job) -> None:
        """Takes a job that has ended."""
        self._taken.append(time.monotonic() - self._running.pop(job.sha256))
        self._note(job)

    def dropped(self) -> int:
        """How many jobs of settings that have left since the last call need not be run."""
        gone = self.waiting.keys() - self.open - self._gone
        self._gone |= gone
        return sum(len(self.waiting[key]) for key in gone)

    def _note(self, job: Job) -> None:
        key = self._key[job.sha256]
        if job.state != FAILED and job.result is not None and isfinite(job.result):
            self._values[key][job.config[SEED]] = float(job.result)
        elif key in self.open:
            self.open.remove(key)

    def _would_be_late(self) -> bool:
        seconds = statistics.median(self._taken) if self._taken else self._expected
        self.is_late = time.monotonic() + (0 if isnan(seconds) else seconds) > self._end
        return self.is_late

    def _look(self) -> None:
        """Lets settings leave that are worse than the best one."""
        if len(self.open) < 2:
            return
        keys = [key for key, values in self._values.items() if values]
        rows = [(k, *each) for k, key in enumerate(keys) for each in self._values[key].items()]
        places, seeds, values = (np.array(column) for column in zip(*rows, strict=True))
        scaled = self.sign * transformed(values.astype(float), self.metric)
        layout = fit(scaled, places, np.unique(seeds, return_inverse=True)[1])
        if layout is None:
            return
        place = {key: keys.index(key) for key in self.open}
        best, *others = sorted(self.open, key=lambda key: -layout.estimates[place[key]])
        alpha = ALPHA / (self.most - FIRST_LOOK + 1)
        self.open = [best] + [
            key for key in others if layout.behind(place[best], place[key])[2] > alpha
        ]

    @property
    def summary(self) -> str:
        """How the race ended."""
        not_run = sum(map(len, self.waiting.values()))
        why = "the time is over" if self.is_late else "the others can't be the best"
        text = f"Still in the race: {len(self.open)} of {len(self._values)} settings."
        return f"{text} Jobs not run: {not_run}, because {why}." if not_run else text


def _setting_of(job: Job) -> str:
    return json.dumps({key: value for key, value in job.differs.items() if key != SEED})
