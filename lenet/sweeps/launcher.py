"""The interface of our launchers: they take jobs as there is room and yield their outcomes."""

import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lenet.cli import first_error_line
from lenet.config.errors import ConfigError, is_own, no_memory


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    `value` is what the job returned, `error` is why it failed, in one line. `is_lost` is true where
    the job's process died, so that its MLflow run still says RUNNING, `is_hung` where it was ended
    because it gave no sign of life. `warnings` are the lines that the job wrote on standard error.
    """

    index: int
    value: Any = None
    error: str | None = None
    seconds: float = 0.0
    is_lost: bool = False
    is_hung: bool = False
    warnings: tuple[str, ...] = ()


class StreamingLauncher(Launcher):
    """Takes jobs one by one and reports each as it ends, whether or not others fail.

    Hydra's own interface is `launch`: all jobs at once, and no result before the last has ended.
    """

    is_here: bool = False  # whether the jobs run on this machine
    workers: int | None = None  # jobs at a time, where that is known before they run
    threads: int | None = None  # CPU threads of a job; None: as many as the job likes
    patience: float | None = None  # seconds without a sign of life after which a job is ended
    earlier_runs: frozenset[str] = frozenset()  # ids of the sweep's runs from before this start

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.task_function = hydra_context, task_function

    def check_store(self, uri: str) -> None:
        """Raises: ConfigError where the jobs could not write to the tracking store."""

    def warm_up(self) -> None:
        """Starts what takes time, before the jobs are known."""

    def outcomes(self, configs: Iterable[DictConfig | None]) -> Iterator[Outcome]:
        """Yields each job's outcome when the job ends; leaving the loop stops the running jobs.

        `configs` are composed configurations, one a job. None in it means that no job can start
        before the next outcome.
        """
        raise NotImplementedError

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        raise ConfigError("hydra/sweeper: this launcher works with grid, tpe and random alone")

    def pickled(self) -> bytes:
        """What another process needs to run the jobs; `unpickle` reads it there."""
        # Not the standard pickle: resolvers are local functions.
        return cloudpickle.dumps((self.hydra_context, Singleton.get_state(), self.task_function))


# ---- In the process that runs a job ----------------------------------------------------------


def unpickle(pickled: bytes) -> tuple[HydraContext, TaskFunction]:
    """Gives this process the Hydra of the sweep's process."""
    hydra_context, singletons, function = cloudpickle.loads(pickled)
    setup_globals()
    Singleton.set_state(singletons)
    return hydra_context, function


def run_in_hydra(hydra_context: HydraContext, function: TaskFunction, config: DictConfig) -> Any:
    """What the job returns. Raises: what the job raises."""
    result = run_job(
        hydra_context=hydra_context,
        task_function=function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
    if result.status != JobStatus.COMPLETED:
        raise result._return_value
    return result._return_value


def outcome_of(index: int, work: Callable[[Any], Any], job: Any) -> Outcome:
    """Does the job. Its error becomes the outcome's; the traceback goes to standard error."""
    start, value, line = time.monotonic(), None, None
    try:
        value = work(job)
    except Exception as error:
        traceback.print_exc()
        line = error_line(error)
    return Outcome(index, value, line, time.monotonic() - start)


def error_line(error: Exception) -> str:
    """A job's error in one line."""
    if line := no_memory(error):
        return line
    line = first_error_line(error)
    is_whole = line == type(error).__name__ or (is_own(error) and isinstance(error, ValueError))
    return line if is_whole else f"{type(error).__name__}: {line}"
