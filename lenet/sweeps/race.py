"""`sweep.budget`: the settings of a grid race over seeds, until one is left or the time is over."""

import json
import re
import statistics
import time
from collections.abc import Iterator, Sequence
from math import isfinite, isnan

import numpy as np

from lenet.config.errors import ConfigError
from lenet.config.metrics import is_maximized
from lenet.report.layout import fit
from lenet.report.results import SEED
from lenet.report.transforms import transformed
from lenet.report.verdict import ALPHA
from lenet.sweeps.display import time_estimate
from lenet.sweeps.jobs import FAILED, Job

UNITS = {"s": 1, "min": 60, "h": 3600}
FIRST_LOOK = 3  # seeds of each setting: two tell hardly any settings apart
LEAST_CHANCE = 0.05  # of being called worse in the end


def seconds_of(budget: object) -> float:
    """`10min` is 600. Raises: ConfigError."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h)", str(budget))
    if not match or not float(match[1]):
        raise ConfigError(f"sweep.budget={budget}: expected a time such as 90s, 10min or 2h")
    return float(match[1]) * UNITS[match[2]]


class Race:
    """The plan of a grid with a budget. All settings get three seeds; then the best one and each
    that may still turn out worse get one more seed a round.

    After each round the settings are compared as in a report. One has `left` the race where the
    test that it is the truly best one rejects at 5 % divided by the number of looks. So the truly
    best setting stays in at least 95 % of races. A setting with a failed seed leaves too.

    One that all its seeds would hardly call worse gets no more of them for now: its verdict is as
    good as known. `open` are the settings that get further seeds, the best one first; none once
    nothing is open.

    Raises: ConfigError where the grid has no objective or fewer than three seeds.
    """

    def __init__(self, jobs: Sequence[Job], budget: object) -> None:
        self.budget, self.seconds = budget, seconds_of(budget)
        objective = jobs[0].config["objective"]
        if objective is None:
            raise ConfigError(
                "sweep.budget: needs a measure to choose by; take objective=val/accuracy and set "
                "data.val_size"
            )
        self.metric, self.sign = str(objective), 1 if is_maximized(objective) else -1
        self._key = {job.sha256: _setting_of(job) for job in jobs}
        self.open, self.left = list(dict.fromkeys(self._key.values())), set[str]()
        self.most = len(jobs) // len(self.open)  # seeds of a setting
        if self.most < FIRST_LOOK:
            raise ConfigError(
                f"sweep.budget: decides how many seeds a setting gets; expected {FIRST_LOOK} or "
                "more, such as 'seed=range(10)'"
            )
        self.round, self.is_late = FIRST_LOOK, False  # the round in which a setting has so many
        self.waiting: dict[str, list[Job]] = {key: [] for key in self.open}
        self._values: dict[str, dict[int, float]] = {key: {} for key in self.open}
        self._running: dict[str, float] = {}  # since when, by checksum
        self._taken: list[float] = []

    def begin(self, jobs: Sequence[Job], todo: Sequence[Job], seconds: float) -> int:
        """Takes what earlier runs tell. One of the jobs in `todo` takes so many seconds (nan:
        unknown). The time begins. Returns: how many jobs may be run.
        """
        self._expected, self._end = seconds, time.monotonic() + self.seconds
        for job in todo:
            self.waiting[self._key[job.sha256]].append(job)
        to_run = {job.sha256 for job in todo}
        for job in jobs:
            if job.sha256 not in to_run:
                self._note(job)
        self._end_round()
        return self._may_run()

    def forecast(self, workers: int | None) -> list[str]:
        """What the race will take."""
        lines = [f"No job begins after {self.budget}."]
        if jobs := sum(max(0, FIRST_LOOK - self._begun(key)) for key in self.open):
            first = time_estimate(jobs, self._expected, workers)
            lines.insert(0, f"Before the first comparison {first}.")
        return lines

    def jobs(self) -> Iterator[Job | None]:
        """The jobs to run; None while the round waits for those that run."""
        while True:
            if lacking := self._lacking():
                if self._would_be_late():
                    return
                job = self.waiting[min(lacking, key=self._begun)].pop(0)
                self._running[job.sha256] = time.monotonic()
                yield job
            elif self._running:
                yield None
            else:
                return

    def add(self, job: Job) -> int:
        """Takes a job that has ended. Returns: how many others need not be run now."""
        before = self._may_run()
        self._taken.append(time.monotonic() - self._running.pop(job.sha256))
        self._note(job)
        self._end_round()
        return before - self._may_run()

    def summary(self) -> list[str]:
        """Why the race has not run all jobs."""
        not_run = sum(map(len, self.waiting.values()))
        why = "the time is over" if self.is_late else "they would hardly change the verdict"
        return [f"Jobs not run: {not_run}, because {why}."] if not_run else []

    def _begun(self, key: str) -> int:
        """How many seeds of the setting have begun."""
        return self.most - len(self.waiting[key])

    def _lacking(self) -> list[str]:
        """The settings that lack a seed of this round."""
        return [key for key in self.open if self._begun(key) < self.round]

    def _may_run(self) -> int:
        """How many jobs wait that are to be run, as far as is known."""
        return sum(len(self.waiting[key]) for key in self.open)

    def _would_be_late(self) -> bool:
        seconds = statistics.median(self._taken) if self._taken else self._expected
        self.is_late = time.monotonic() + (0 if isnan(seconds) else seconds) > self._end
        return self.is_late

    def _note(self, job: Job) -> None:
        key = self._key[job.sha256]
        if job.state == FAILED or job.result is None or not isfinite(job.result):
            self._values.pop(key, None)  # it is not compared, as in a report
            self.left.add(key)
            self.open = [each for each in self.open if each != key]
        elif key in self._values:
            self._values[key][job.config[SEED]] = float(job.result)

    def _end_round(self) -> None:
        """Compares the settings once all jobs of the round have ended."""
        while self.open and not (self._running or self._lacking()) and self.round < self.most:
            self._look()
            self.round += 1

    def _look(self) -> None:
        """Lets settings leave that are worse than the best one, and tells which are open."""
        keys = [key for key, values in self._values.items() if values]
        rows = [(k, *each) for k, key in enumerate(keys) for each in self._values[key].items()]
        places, seeds, values = (np.array(column) for column in zip(*rows, strict=True))
        scaled = self.sign * transformed(values.astype(float), self.metric)
        layout = fit(scaled, places, np.unique(seeds, return_inverse=True)[1])
        if layout is None:
            return
        racing = [k for k, key in enumerate(keys) if key not in self.left]
        best, *others = sorted(racing, key=lambda k: -layout.estimates[k])
        alpha = ALPHA / (self.most - FIRST_LOOK)
        self.open = []
        for k in others:
            if layout.behind(best, k)[2] <= alpha:
                self.left.add(keys[k])
            elif layout.chance(best, k, self._begun(keys[k]) / self.most) >= LEAST_CHANCE:
                self.open.append(keys[k])
        if self.open:
            self.open.insert(0, keys[best])


def _setting_of(job: Job) -> str:
    return json.dumps({key: value for key, value in job.differs.items() if key != SEED})
