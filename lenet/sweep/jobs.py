"""A sweep's jobs, and how far their earlier runs came."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from lenet.config.overrides import job_name
from lenet.tracking.job import JOB_TAG
from lenet.tracking.objective import Result

if TYPE_CHECKING:
    from lenet.tracking.read import Summary

DONE, UNFINISHED, FAILED, NEW, PRUNED = "done", "unfinished", "failed", "new", "pruned"


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    `differs` holds the values in which it differs from the sweep's other jobs, by override key, and
    `sha256` is the hash of its resolved configuration, and of the tags and the note that it has for
    its own, as in `+tags.repeat=1,2`. `run_id` and `seconds` come from its earlier run, where there
    was one. `reason` says why it failed. A job of a search belongs to `trial`, is pruned where its
    epochs are worse than `bounds`, and has a `result` when it has ended.
    """

    differs: Mapping[str, Any]
    config: Mapping[str, Any]
    sha256: str
    composed: bytes = field(default=b"", repr=False, compare=False)  # Hydra's DictConfig, pickled
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
    jobs: Sequence[Job], runs: "Sequence[Summary]", data_sha256: Callable[[Job], str]
) -> list[Job]:
    """The jobs with the states of their `runs`, which are the sweep's earlier ones, newest last.

    A job that ran on other data is new again. So is one that was killed before it had any data.
    """
    by_job = {
        run.tags.get(JOB_TAG, ""): run for run in sorted(runs, key=lambda r: r.status == "FINISHED")
    }
    found = []
    for job in jobs:
        run = by_job.get(job.sha256)
        if run is not None and _is_still_valid(run, job, data_sha256):
            job = replace(
                job,
                state=_state_of(run),
                run_id=run.run_id,
                seconds=run.metrics.get("seconds/total"),
                reason=run.tags.get("lenet.error"),
            )
        found.append(job)
    return found


def _state_of(run: "Summary") -> str:
    if "lenet.pruned" in run.tags:
        return PRUNED
    return {"FINISHED": DONE, "FAILED": FAILED}.get(run.status, UNFINISHED)


def _is_still_valid(run: "Summary", job: Job, data_sha256: Callable[[Job], str]) -> bool:
    recorded = run.tags.get("lenet.dataset.sha256")
    return recorded == data_sha256(job) if recorded else run.status == "FAILED"
