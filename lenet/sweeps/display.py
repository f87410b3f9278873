"""What a sweep prints: how many jobs there are, how long they will take, how each one ended."""

import math
import statistics
import time
from collections.abc import Sequence

from lenet.cli import format_duration
from lenet.cli.screen import aligned, progress_bar
from lenet.config.metrics import is_share
from lenet.sweeps.jobs import DONE, ELSEWHERE, FAILED, NEW, UNFINISHED, Job
from lenet.sweeps.launcher import Outcome


def job_counts(jobs: Sequence[Job]) -> str:
    """16 jobs: 12 done, 1 failed, 3 new"""
    states = [job.state for job in jobs]
    order = (DONE, ELSEWHERE, UNFINISHED, FAILED, NEW)
    counts = [f"{states.count(state)} {state}" for state in order if state in states]
    return f"{len(jobs)} jobs: {', '.join(counts)}"


def time_estimate(jobs: int, seconds: float, workers: int | None) -> str:
    """How long the jobs will take, if each takes so many seconds (nan: unknown)."""
    to_run = f"{jobs} job{'s' * (jobs != 1)} to run" + (f", {workers} at a time" if workers else "")
    if math.isnan(seconds):
        return f"{to_run}; no earlier run tells how long one takes"
    if workers:
        total = format_duration(math.ceil(jobs / workers) * seconds)
    else:
        total = f"{format_duration(jobs * seconds)} of computing"
    return f"{to_run}: about {total}"


def job_table(jobs: Sequence[Job]) -> str:
    """The jobs, a line each."""
    rows = [("", "job", "state", "seconds")]
    for number, job in enumerate(jobs):
        seconds = "" if job.seconds is None else f"{job.seconds:.1f}"
        rows.append((str(number), job.name or "(nothing differs)", job.state, seconds))
    return "\n".join(aligned(rows, right={0, 3}))


def failure_table(jobs: Sequence[Job]) -> str:
    """The failed jobs and the reasons, a line each."""
    rows = [(job.name, job.reason or "no reason given") for job in jobs]
    return "\n".join(["Failed jobs:", *aligned(rows, indent=2, header=False)])


class Progress:
    """A line for each job that ends, and below them on a terminal a bar for the whole sweep.

    `seconds` is how long a job is expected to take (nan: unknown), `workers` how many run at a time
    (None: unknown). A warning is printed once.
    """

    def __init__(self, jobs: int, seconds: float = math.nan, workers: int | None = None) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn

        self._total, self._ended, self._failed = jobs, 0, 0
        self._expected, self._taken, self._workers = seconds, list[float](), workers
        self._start = time.monotonic()
        self._end = self._start + self._seconds_left()
        self._printed: set[str] = set()
        columns = BarColumn(None), MofNCompleteColumn(), "{task.fields[sweep].time_left}"
        self._bar = progress_bar("{task.description}", *columns)
        self._task = self._bar.add_task("Jobs", total=jobs, sweep=self)

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    @property
    def time_left(self) -> str:
        """What the bar shows of the time. It is asked for again and again, and so counts down."""
        left = self._end - time.monotonic()
        return "" if math.isnan(left) else f"about {format_duration(max(0.0, left))} left"

    def drop(self, jobs: int) -> None:
        """So many of the jobs need not be run."""
        self._total -= jobs
        self._bar.update(self._task, total=self._total)

    def end(self, job: Job, outcome: Outcome) -> None:
        for line in outcome.warnings:
            if line not in self._printed:
                self._printed.add(line)
                self.say(f"{job.name}: {line}")
        self._ended += 1
        self._failed += job.state == FAILED
        if job.state == DONE:
            self._taken.append(outcome.seconds)
        left = self._seconds_left()
        self._end = time.monotonic() + left
        self.say(self._line(job, outcome.seconds, left), "red" if job.state == FAILED else None)
        name = f"Jobs ({self._failed} failed)" if self._failed else "Jobs"
        self._bar.update(self._task, completed=self._ended, description=name)

    def say(self, line: str, style: str | None = None) -> None:
        self._bar.console.print(line, style=style, soft_wrap=True)

    def _seconds_left(self) -> float:
        to_go = self._total - self._ended
        if self._workers:
            seconds = statistics.median(self._taken) if self._taken else self._expected
            return math.ceil(to_go / self._workers) * seconds
        elapsed = time.monotonic() - self._start
        return elapsed / self._ended * to_go if self._ended else math.nan

    def _line(self, job: Job, seconds: float, left: float) -> str:
        """[3/16] lr=0.1 seed=2: done in 8.1 s, val/accuracy 98.91%; 13 to go, about 52 s."""
        how = f"{job.state} in {seconds:.1f} s"
        if job.state == FAILED:
            how = f"failed: {job.reason}"
        elif job.result is not None:
            name = job.config["objective"]
            how += f", {name} {job.result:.2%}" if is_share(name) else f", {name} {job.result:.4f}"
        to_go = self._total - self._ended
        rest = f"; {to_go} to go, about {format_duration(left)}" if to_go and left >= 0 else ""
        return f"[{self._ended}/{self._total}] {job.name}: {how}{rest}"
