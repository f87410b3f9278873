"""A sweep's jobs: what each is, which of them are done, and what came of them.

Nothing here knows how the jobs are run; `lenet.sweep.grid` gives them to a launcher.
"""

import hashlib
import math
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tqdm import tqdm

from lenet.cli import format_duration
from lenet.config.overrides import job_name
from lenet.sweep.outcome import Outcome
from lenet.tracking.job import JOB_TAG

DONE, UNFINISHED, FAILED, NEW, PRUNED = "done", "unfinished", "failed", "new", "pruned"


@dataclass(frozen=True)
class Job:
    """`differs` is what tells it from the others of its sweep, by the overrides' keys; `sha256` is
    that of its resolved configuration; `run_id` is its run of an earlier time, if there was one.
    """

    differs: Mapping[str, Any]
    config: Mapping[str, Any]
    sha256: str
    composed: bytes = field(default=b"", repr=False, compare=False)  # by Hydra, pickled
    state: str = NEW
    run_id: str | None = None
    seconds: float | None = None
    reason: str | None = None

    @property
    def name(self) -> str:
        return job_name(self.differs)


def sweep_sha256(jobs: Sequence[Job]) -> str:
    """What a sweep is: its jobs, in whatever order."""
    return sha256_of(sorted(job.sha256 for job in jobs))


def sha256_of(words: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


def known(jobs: Sequence[Job], runs: Sequence[Any], data_sha256: Callable[[Job], str]) -> list[Job]:
    """The jobs with what is known of them from `runs`, the sweep's earlier ones (MLflow's, the
    newest last). One that was done with other data is new again, as is one that was killed before
    it had any.
    """
    by_job: dict[str, Any] = {}
    for run in sorted(runs, key=lambda run: run.info.status == "FINISHED"):
        by_job[run.data.tags.get(JOB_TAG, "")] = run
    found = []
    for job in jobs:
        run = by_job.get(job.sha256)
        then = run and run.data.tags.get("dataset.sha256")
        fits = then == data_sha256(job) if then else run and run.info.status == "FAILED"
        found.append(_with(job, run) if fits else job)
    return found


def _with(job: Job, run: Any) -> Job:
    states = {"FINISHED": DONE, "FAILED": FAILED}
    return replace(
        job,
        state=states.get(run.info.status, UNFINISHED),
        run_id=run.info.run_id,
        seconds=run.data.metrics.get("seconds/total"),
        reason=run.data.tags.get("error"),
    )


def counted(jobs: Sequence[Job]) -> str:
    """16 jobs: 12 done, 1 failed, 3 new."""
    states = [job.state for job in jobs]
    order = (DONE, UNFINISHED, FAILED, NEW)
    counts = [f"{states.count(state)} {state}" for state in order if state in states]
    return f"{len(jobs)} jobs: {', '.join(counts)}"


def time_left(jobs: int, seconds: float, workers: int | None) -> str:
    """What is to be said of jobs that take so long each; nan and None say that nobody knows."""
    at_once = f", {workers} at a time" if workers else ""
    if math.isnan(seconds):
        return f"{jobs} jobs to run{at_once}; no run before tells how long one takes"
    if workers:
        about = format_duration(-(-jobs // workers) * seconds)
    else:
        about = f"{format_duration(jobs * seconds)} of computing"
    return f"{jobs} jobs to run{at_once}: about {about}"


def table(jobs: Sequence[Job]) -> str:
    """The jobs, a line each."""
    rows = [("", "job", "state", "seconds")]
    for number, job in enumerate(jobs):
        seconds = "" if job.seconds is None else f"{job.seconds:.1f}"
        rows.append((str(number), job.name or "(nothing differs)", job.state, seconds))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows
    )


def table_of_failures(jobs: Sequence[Job]) -> str:
    """The failed jobs with their reasons, a line each."""
    columns = max(80, shutil.get_terminal_size((100, 24)).columns)
    width = max(len(job.name) for job in jobs)
    lines = [f"{job.name:<{width}}  {job.reason or 'no reason given'}" for job in jobs]
    return "\n".join(["Failed jobs:", *(f"  {line}"[:columns] for line in lines)])


class Display:
    """One line for the whole sweep: done, running, failed, time left. On a terminal it stays in
    its place; elsewhere each job that ends is a line.
    """

    def __init__(self, jobs: int) -> None:
        self.running = self.failed = self.done = 0
        self.total = jobs
        self._start = time.monotonic()
        self._begun: dict[int, float] = {}
        self._said: set[str] = set()
        self._live = sys.stderr.isatty()
        self._bar: tqdm[Any] = tqdm(
            total=jobs,
            disable=not self._live,
            ncols=90,
            leave=False,
            bar_format="{desc} {bar} {n_fmt}/{total_fmt} [{elapsed}, {remaining} left]",
        )

    def __enter__(self) -> "Display":
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def started(self, index: int) -> None:
        self._begun[index] = time.monotonic()
        self.running += 1
        self._show()

    def without(self, jobs: int) -> None:
        """So many of them need not be run."""
        self.total -= jobs
        self._bar.total = self.total

    def ended(self, job: Job, outcome: Outcome) -> None:
        seconds = outcome.seconds
        if seconds is None and outcome.index in self._begun:
            seconds = time.monotonic() - self._begun[outcome.index]
        for line in outcome.warnings:
            if line not in self._said:
                self._said.add(line)
                tqdm.write(f"{job.name}: {line}", file=sys.stderr)
        self.running = max(0, self.running - 1)  # not every launcher tells when a job begins
        self.failed += job.state == FAILED
        self.done += job.state != FAILED
        took = f"{job.state} in {seconds:.1f} s" if seconds is not None else job.state
        how = f"failed: {job.reason}" if job.state == FAILED else took
        if job.state == FAILED or not self._live:
            count = f"[{self.done + self.failed}/{self.total}]"
            left = self.total - self.done - self.failed
            seconds_left = (time.monotonic() - self._start) / (self.total - left) * left
            about = f"; {left} to go, about {format_duration(seconds_left)}" if left else ""
            tqdm.write(f"{count} {job.name}: {how}{about}", file=sys.stderr)
        self._bar.update()
        self._show()

    def _show(self) -> None:
        counts = {"done": self.done, "running": self.running, "failed": self.failed}
        shown = (f"{n} {what}" for what, n in counts.items() if n or what == "done")
        self._bar.set_description_str(", ".join(shown))
