"""Jobs on this machine: `hydra/launcher=local`."""

import functools
import inspect
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import cloudpickle
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from lenet.config.errors import ConfigError
from lenet.sweep import PLUGINS
from lenet.sweep.outcome import Outcome
from lenet.sweep.worker_pool import Pool

MODULES = (  # that a run imports sooner or later
    *("torch", "torch._dynamo", "mlflow.pytorch", "mlflow.store.tracking.sqlalchemy_store"),
    *("lenet.tracking.run", "lenet.training.loop", "lenet.native", "lenet.training.plots"),
)


class JobFailed(ValueError):
    """Why, in one line: the error itself may be of a class that another machine does not have."""


class Streaming(Launcher):
    """A launcher that takes jobs as it has room for them and tells of each as it ends, whatever
    became of the others. Hydra's own interface is `launch`, all at once.
    """

    __module__ = PLUGINS
    threads: int | None = None  # of a job

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def outcomes(
        self,
        batch: Iterable[DictConfig | None],
        started: Callable[[int], None] = lambda index: None,
    ) -> Iterator[Outcome]:
        """`batch` holds each job's configuration; None says that there is none before the next
        outcome. Leaving the loop ends the jobs that run.
        """
        raise NotImplementedError

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        loader = self.hydra_context.config_loader
        batch = [loader.load_sweep_config(self.config, list(given)) for given in job_overrides]
        returns = [JobReturn() for _ in batch]
        for outcome in self.outcomes(batch):
            it = returns[outcome.index]
            it.status = JobStatus.FAILED if outcome.error else JobStatus.COMPLETED
            it.return_value = JobFailed(outcome.error) if outcome.error else outcome.value
        return returns


def numbered(batch: Iterable[DictConfig | None]) -> Iterator[DictConfig | None]:
    """As Hydra numbers its jobs."""
    numbers = itertools.count()
    for config in batch:
        if config is not None:
            with open_dict(config):
                config.hydra.job.id = config.hydra.job.num = next(numbers)
        yield config


class Local(Streaming):
    """Several at a time, in processes that import and read data once. `workers` is null for one a
    core; each has its share of the cores.

    hydra-joblib-launcher can't do that: it tells of all jobs at the end, loses all of them with one
    whose process dies, and its workers read the data for each job.
    """

    __module__ = PLUGINS

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and (isinstance(workers, bool) or workers < 1):
            raise ConfigError(f"hydra.launcher.workers={workers}: should be 1 or more, or null")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.workers = workers or cores or 1
        self.threads = max(1, (cores or 1) // self.workers) if self.workers > 1 else None
        self.pool = Pool(self.workers, MODULES)

    def outcomes(
        self,
        batch: Iterable[DictConfig | None],
        started: Callable[[int], None] = lambda index: None,
    ) -> Iterator[Outcome]:
        setup_globals()
        # Not the standard pickle: resolvers are local functions.
        state = cloudpickle.dumps((self.hydra_context, Singleton.get_state()))
        prepare = functools.partial(_work, self.task_function.__module__, state)
        yield from self.pool.run(numbered(batch), prepare, started)


def _work(module: str, pickled: bytes) -> Callable[[DictConfig], Any]:
    """What a worker does with a job's configuration."""
    hydra_context, state = cloudpickle.loads(pickled)
    setup_globals()
    Singleton.set_state(state)
    function = inspect.unwrap(sys.modules[module].main)

    def work(config: DictConfig) -> Any:
        result = run_one(hydra_context, function, config)
        if result.status != JobStatus.COMPLETED:
            raise result._return_value
        return result.return_value

    return work


def run_one(hydra_context: HydraContext, function: TaskFunction, config: DictConfig) -> JobReturn:
    """A job in a process that was given Hydra's state."""
    HydraConfig.instance().set_config(config)
    return run_job(
        hydra_context=hydra_context,
        task_function=function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
