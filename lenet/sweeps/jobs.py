"""A sweep's jobs, and how far their earlier runs came."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lenet.config.overrides import job_name
from lenet.tracking.job import JOB_TAG
from lenet.tracking.objective import Result

if TYPE_CHECKING:
    from lenet.tracking.read import Summary

DONE, UNFINISHED, FAILED, NEW, PRUNED = "done", "unfinished", "failed", "new", "pruned"
ELSEWHERE = "done elsewhere"  # in another sweep, or as a run of its own


@dataclass(frozen=True)
class Job:
    """One run of a sweep, composed of `overrides`.

    `differs` holds the values in which it differs from the sweep's other jobs, by override key, and
    `sha256` is from `lenet.tracking.job.job_sha256`. `run_id` and `seconds` come from its earlier
    run, where there was one. `reason` says why it failed. A job of a search belongs to `trial`, is
    pruned where its epochs are worse than `bounds`, and has a `result` when it has ended.
    """

    differs: Mapping[str, Any]
    config: Mapping[str, Any]
    sha256: str
    overrides: Sequence[str] = field(default=(), repr=False, compare=False)
    state: str = NEW
    run_id: str | None = None
    seconds: float | None = None
    reason: str | None = None
    trial: int | None = None
    bounds: Sequence[float | None] = ()
    result: Result | None = None

    @property
    def name(self) -> str:
        return job_name(self.differs)

    @property
    def has_diverged(self) -> bool:
        return (self.reason or "").startswith("Diverged:")

    def ended(self, result: Result | None, error: str | None) -> "Job":
        """The same job after its run."""
        state = PRUNED if result is not None and result.pruned else DONE
        return replace(self, state=FAILED if error else state, result=result, reason=error)


def sha256_of(words: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


def match_runs(
    jobs: Sequence[Job],
    runs: "Sequence[Summary]",
    data_sha256: Callable[[Job], str],
    others: "Sequence[Summary]" = (),
) -> list[Job]:
    """The jobs with the states of their `runs`, which are the sweep's earlier ones, newest last. A
    job without one is done elsewhere if one of the `others`, finished runs, is of the same job.

    A job that ran on other data is new again. So is one that was killed before it had any data.
    """
    own = _by_job(sorted(runs, key=lambda run: run.status == "FINISHED"))
    elsewhere = _by_job(others)
    found = []
    for job in jobs:
        for run in filter(None, (own.get(job.sha256), elsewhere.get(job.sha256))):
            if _is_still_valid(run, job, data_sha256):
                job = replace(
                    job,
                    state=_state_of(run) if run is own.get(job.sha256) else ELSEWHERE,
                    run_id=run.run_id,
                    seconds=run.metrics.get("seconds/total"),
                    reason=run.tags.get("lenet.error"),
                    result=_result_of(run, job),
                )
                break
        found.append(job)
    return found


def _by_job(runs: "Iterable[Summary]") -> "dict[str, Summary]":
    return {run.tags.get(JOB_TAG, ""): run for run in runs}


def _result_of(run: "Summary", job: Job) -> Result | None:
    value = run.metrics.get(job.config.get("objective") or "")
    return None if value is None else Result(value)


def _state_of(run: "Summary") -> str:
    if "lenet.pruned" in run.tags:
        return PRUNED
    return {"FINISHED": DONE, "FAILED": FAILED}.get(run.status, UNFINISHED)


def _is_still_valid(run: "Summary", job: Job, data_sha256: Callable[[Job], str]) -> bool:
    recorded = run.tags.get("lenet.dataset.sha256")
    return recorded == data_sha256(job) if recorded else run.status == "FAILED"
