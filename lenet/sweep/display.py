"""What a sweep prints: how many jobs there are, how long they will take, how each one ended."""

import math
import shutil
import sys
import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from lenet.cli import format_duration
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
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
    )


def failure_table(jobs: Sequence[Job]) -> str:
    """The failed jobs and the reasons, a line each."""
    columns = max(80, shutil.get_terminal_size((100, 24)).columns)
    width = max(len(job.name) for job in jobs)
    lines = [f"{job.name:<{width}}  {job.reason or 'no reason given'}" for job in jobs]
    return "\n".join(["Failed jobs:", *(f"  {line}"[:columns] for line in lines)])


class Progress:
    """One line for the whole sweep: done, running, failed, time left.

    On a terminal the line stays in its place; elsewhere each job that ends prints a line.
    """

    def __init__(self, jobs: int) -> None:
        self.running = self.failed = self.done = 0
        self.total = jobs
        self._start = time.monotonic()
        self._started: dict[int, float] = {}
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

    def start(self, index: int) -> None:
        self._started[index] = time.monotonic()
        self.running += 1
        self._update()

    def drop(self, jobs: int) -> None:
        """So many of the jobs need not be run."""
        self.total -= jobs
        self._bar.total = self.total

    def end(self, job: Job, outcome: Outcome) -> None:
        for line in outcome.warnings:
            if line not in self._printed:
                self._printed.add(line)
                tqdm.write(f"{job.name}: {line}", file=sys.stderr)
        if outcome.index in self._started:
            self.running -= 1
        self.failed += job.state == FAILED
        self.done += job.state != FAILED
        if job.state == FAILED or not self._is_live:
            tqdm.write(self._line(job, outcome), file=sys.stderr)
        self._bar.update()
        self._update()

    def _line(self, job: Job, outcome: Outcome) -> str:
        """[3/16] lr=0.1 seed=2: done in 8.1 s; 13 to go, about 52 s."""
        now, ended = time.monotonic(), self.done + self.failed
        seconds = outcome.seconds
        if seconds is None and outcome.index in self._started:
            seconds = now - self._started[outcome.index]
        how = job.state if seconds is None else f"{job.state} in {seconds:.1f} s"
        if job.state == FAILED:
            how = f"failed: {job.reason}"
        to_go = self.total - ended
        left = format_duration((now - self._start) / ended * to_go)
        rest = f"; {to_go} to go, about {left}" if to_go else ""
        return f"[{ended}/{self.total}] {job.name}: {how}{rest}"

    def _update(self) -> None:
        counts = {"done": self.done, "running": self.running, "failed": self.failed}
        shown = (f"{n} {what}" for what, n in counts.items() if n or what == "done")
        self._bar.set_description_str(", ".join(shown))
