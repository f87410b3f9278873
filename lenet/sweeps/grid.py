"""`hydra/sweeper=grid`: every value with every other, as one MLflow run with a child for each."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import Override
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lenet.cli.screen import getting_ready
from lenet.config.check import check_value
from lenet.config.errors import ConfigError
from lenet.config.limits import Text
from lenet.config.overrides import columns_of, differing, float_range_lines
from lenet.sweeps.display import failure_table, job_counts, job_table
from lenet.sweeps.jobs import ELSEWHERE, FAILED, NEW, UNFINISHED, Job
from lenet.sweeps.session import Session, SweepFailed

if TYPE_CHECKING:
    from lenet.sweeps.race import Race


class Grid(Sweeper):
    """Runs the jobs that are not done yet, and continues those that were killed.

    `params` is what varies, as on the command line. Unlike Hydra's basic sweeper it checks all jobs
    before the first one runs, and one that fails does not end the others.
    """

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = params or {}

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.session = Session(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> list[Job]:
        """All jobs in their final states. Raises: SweepFailed where one of them failed."""
        session, options = self.session, self.session.options
        check_value("hydra.sweeper.params", dict[Text, Any], self.params)
        overrides = session.overrides(self.params, arguments)
        with getting_ready("Checking the jobs"):
            axes, points = expand(overrides, list(options.zip))
            jobs = [session.compose_job(each, differing(each, axes)) for each in points]
            hashes = sorted(job.sha256 for job in jobs)
            if len(set(hashes)) < len(hashes):
                raise ConfigError(
                    "sweep: two of the jobs are the same; name each value once, and "
                    "+tags.repeat=1,2 to run each job twice"
                )
            plan = self._plan(jobs)
            session.rehearse(jobs)
        with session.connect(jobs[0], hashes):
            session.find_runs(jobs)
            jobs = session.match(jobs)
            wanted = {NEW, UNFINISHED} | ({FAILED} if options.retry_failed else set())
            todo = [job for job in jobs if job.state in wanted]
            print(job_table(jobs) if options.dry else job_counts(jobs))
            for line in float_range_lines(overrides):
                print(line)
            print(session.time_left(todo, jobs))
            count = plan.begin(jobs, todo, session.job_seconds)
            for line in plan.forecast(session.launcher.workers):
                print(line)
            if options.dry:
                return []
            with session.record("grid", arguments, axes, jobs[0]):
                session.parent.reuse([job for job in jobs if job.state == ELSEWHERE])
                ended: dict[str, Job] = {}
                for job in session.run(plan, count):
                    ended[job.sha256] = job
                    if job.state == FAILED and options.on_error == "stop":
                        break
                jobs = [ended.get(job.sha256, job) for job in jobs]
                failed = [job for job in jobs if job.state == FAILED]
                session.parent.end("FAILED" if failed else "FINISHED")
        for line in plan.summary():
            print(line)
        session.conclude()
        if failed:
            print(failure_table(failed))
            raise SweepFailed(f"{len(failed)} of {len(jobs)} jobs failed")
        return jobs

    def _plan(self, jobs: Sequence[Job]) -> "AllJobs | Race":
        budget = self.session.options.budget
        if budget is None:
            return AllJobs()
        from lenet.sweeps.race import Race  # late: it imports numpy and scipy

        return Race(jobs, budget)


class AllJobs:
    """The plan of a grid without a budget: each job that is to be run, in order."""

    def begin(self, jobs: Sequence[Job], todo: Sequence[Job], seconds: float) -> int:
        self._todo = todo
        return len(todo)

    def forecast(self, workers: int | None) -> list[str]:
        return []

    def jobs(self) -> Iterator[Job]:
        return iter(self._todo)

    def add(self, job: Job) -> int:
        return 0

    def summary(self) -> list[str]:
        return []


def expand(
    overrides: Sequence[Override], zipped: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """The keys that vary, and the overrides of each job. `zipped` keys take their values in step.

    Raises: ConfigError where a zipped key does not vary, or has another number of values.
    """
    values = columns_of(list(overrides), zipped)
    axes = [key for key, choices in values.items() if len(choices) > 1]
    zipped_axes = [key for key in axes if key.lstrip("+") in zipped]
    if missing := set(zipped) - {key.lstrip("+") for key in zipped_axes}:
        raise ConfigError(f"sweep.zip: expected keys that vary, found {', '.join(missing)}")
    if len({len(values[key]) for key in zipped_axes}) > 1:
        counts = ", ".join(f"{key} has {len(values[key])}" for key in zipped_axes)
        raise ConfigError(f"sweep.zip: expected as many values of each, {counts}")
    # Zipped keys vary together, at the place of the first of them.
    groups = [
        zipped_axes if key in zipped_axes else [key] for key in values if key not in zipped_axes[1:]
    ]
    columns = [list(zip(*(values[key] for key in keys), strict=True)) for keys in groups]
    points = [list(itertools.chain.from_iterable(row)) for row in itertools.product(*columns)]
    return [key.lstrip("+") for key in axes], points
