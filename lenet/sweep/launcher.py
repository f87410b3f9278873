"""The interface of our launchers: they take jobs as there is room and yield their outcomes."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.utils import JobReturn, run_job
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lenet.cli import first_error_line
from lenet.config.errors import ConfigError, is_own, no_memory


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    `value` is what the job returned, `error` is why it failed, in one line. `is_lost` is true where
    the job's process died, so that its MLflow run still says RUNNING. `seconds` is given where only
    the job can measure its time. `warnings` are the lines it wrote on standard error.
    """

    index: int
    value: Any = None
    error: str | None = None
    seconds: float | None = None
    is_lost: bool = False
    warnings: tuple[str, ...] = ()


class StreamingLauncher(Launcher):
    """Takes jobs one by one and reports each as it ends, whether or not others fail.

    Hydra's own interface is `launch`: all jobs at once, and no result before the last has ended.
    """

    workers: int | None = None  # jobs at a time, where that is known before they run
    threads: int | None = None  # CPU threads of a job; None: as many as the job likes
    earlier_runs: frozenset[str] = frozenset()  # ids of the sweep's runs from before this start

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.task_function = hydra_context, task_function

    def check_store(self, uri: str) -> None:
        """Raises: ConfigError where the jobs could not write to the tracking store."""

    def warm_up(self) -> None:
        """Starts what takes time, before the jobs are known."""

    def outcomes(
        self, configs: Iterable[DictConfig | None], on_start: Callable[[int], None]
    ) -> Iterator[Outcome]:
        """Yields each job's outcome when the job ends; leaving the loop stops the running jobs.

        `configs` are composed configurations, one a job. None in it means that no job can start
        before the next outcome. `on_start` gets a job's index where the launcher knows when it
        starts.
        """
        raise NotImplementedError

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        raise ConfigError("hydra/sweeper: this launcher works with grid, tpe and random alone")


def run_in_hydra(
    hydra_context: HydraContext, function: TaskFunction, config: DictConfig
) -> JobReturn:
    """Runs a job in a process that has Hydra's state, and returns how it ended."""
    return run_job(
        hydra_context=hydra_context,
        task_function=function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def error_line(error: BaseException) -> str:
    """A job's error in one line."""
    if isinstance(error, SystemExit):
        return f"ended with status {error.code}"
    if line := no_memory(error):
        return line
    line = first_error_line(error)
    is_whole = line == type(error).__name__ or (is_own(error) and isinstance(error, ValueError))
    return (line if is_whole else f"{type(error).__name__}: {line}")[:500]
