"""What a sweep prints: how many jobs there are, how long they will take, how each one ended."""

import math
import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from lenet.cli import aligned, format_duration
from lenet.sweep.jobs import DONE, FAILED, NEW, UNFINISHED, Job
from lenet.sweep.launcher import Outcome


def job_counts(jobs: Sequence[Job]) -> str:
    """16 jobs: 12 done, 1 failed, 3 new."""
    states = [job.state for job in jobs]
    order = (DONE, UNFINISHED, FAILED, NEW)
    counts = [f"{states.count(state)} {state}" for state in order if state in states]
    return f"{len(jobs)} jobs: {', '.join(counts)}"


def time_estimate(jobs: int, seconds: float, workers: int | None) -> str:
    """How long the jobs will take, if each takes so many seconds (nan: unknown)."""
    at_once = f", {workers} at a time" if workers else ""
    if math.isnan(seconds):
        return f"{jobs} jobs to run{at_once}; no earlier run tells how long one takes"
    if workers:
        total = format_duration(math.ceil(jobs / workers) * seconds)
    else:
        total = f"{format_duration(jobs * seconds)} of computing"
    return f"{jobs} jobs to run{at_once}: about {total}"


def job_table(jobs: Sequence[Job]) -> str:
    """The jobs, a line each."""
    rows = [("", "job", "state", "seconds")]
    for number, job in enumerate(jobs):
        seconds = "" if job.seconds is None else f"{job.seconds:.1f}"
        rows.append((str(number), job.name or "(nothing differs)", job.state, seconds))
    return "\n".join(aligned(rows))


def failure_table(jobs: Sequence[Job]) -> str:
    """The failed jobs and the reasons, a line each."""
    lines = aligned([(f"  {job.name}", job.reason or "no reason given") for job in jobs])
    return "\n".join(["Failed jobs:", *lines])


class Progress:
    """On a terminal a bar for the whole sweep; elsewhere a line for each job that ends.

    Failures and warnings are always printed, the same warning once.
    """

    def __init__(self, jobs: int) -> None:
        self._total, self._ended, self._failed = jobs, 0, 0
        self._start = time.monotonic()
        self._printed: set[str] = set()
        self._is_live = sys.stderr.isatty()
        self._bar: tqdm[Any] = tqdm(
            total=jobs,
            disable=not self._is_live,
            ncols=90,
            leave=False,
            bar_format="{desc} {bar} {n_fmt}/{total_fmt} [{elapsed}, {remaining} left]",
        )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def drop(self, jobs: int) -> None:
        """So many of the jobs need not be run."""
        self._total -= jobs
        self._bar.total = self._total

    def end(self, job: Job, outcome: Outcome) -> None:
        for line in outcome.warnings:
            if line not in self._printed:
                self._printed.add(line)
                tqdm.write(f"{job.name}: {line}", file=sys.stderr)
        self._ended += 1
        self._failed += job.state == FAILED
        if job.state == FAILED or not self._is_live:
            tqdm.write(self._line(job, outcome.seconds), file=sys.stderr)
        self._bar.set_description_str(f"{self._failed} failed" if self._failed else "", False)
        self._bar.update()

    def _line(self, job: Job, seconds: float) -> str:
        """[3/16] lr=0.1 seed=2: done in 8.1 s; 13 to go, about 52 s."""
        how = f"{job.state} in {seconds:.1f} s"
        if job.state == FAILED:
            how = f"failed: {job.reason}"
        to_go = self._total - self._ended
        left = format_duration((time.monotonic() - self._start) / self._ended * to_go)
        rest = f"; {to_go} to go, about {left}" if to_go else ""
        return f"[{self._ended}/{self._total}] {job.name}: {how}{rest}"
