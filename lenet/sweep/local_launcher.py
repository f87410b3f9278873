"""Jobs on this machine: `hydra/launcher=local`."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cloudpickle
from hydra.core.singleton import Singleton
from hydra.core.utils import JobStatus, setup_globals
from omegaconf import DictConfig

from lenet.config.check import check_value
from lenet.config.limits import Count
from lenet.sweep.launcher import Outcome, StreamingLauncher, run_in_hydra
from lenet.sweep.worker_pool import Pool, warm_up
from lenet.training import startup

MODULES = (  # that a run imports sooner or later
    *("torch", "torch._dynamo", "mlflow.pytorch", "mlflow.store.tracking.sqlalchemy_store"),
    *("lenet.tracking.run", "lenet.training.loop", "lenet.native", "lenet.training.plots"),
)


class Local(StreamingLauncher):
    """Several jobs at a time, in processes that import and read the data once.

    `workers` is null for one a core; each has its share of the cores. hydra-joblib-launcher can't
    do that: it reports all jobs at the end, loses all of them with one whose process dies, and its
    workers read the data for each job.
    """

    def __init__(self, workers: int | None = None) -> None:
        check_value("hydra.launcher.workers", Count | None, workers)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.workers = workers or cores or 1
        self.threads = max(1, (cores or 1) // self.workers) if self.workers > 1 else None

    def warm_up(self) -> None:
        warm_up(MODULES)

    def outcomes(
        self, configs: Iterable[DictConfig | None], on_start: Callable[[int], None]
    ) -> Iterator[Outcome]:
        setup_globals()
        # Not the standard pickle: resolvers are local functions.
        state = (self.hydra_context, Singleton.get_state(), self.task_function)
        prepare = functools.partial(_prepare, cloudpickle.dumps(state))
        assert self.workers
        yield from Pool(self.workers, prepare, MODULES).run(configs, on_start)


def _prepare(pickled: bytes) -> Callable[[DictConfig], Any]:
    """What a worker does with a job's configuration."""
    startup.run_start()  # the process began before its first job did
    hydra_context, singletons, function = cloudpickle.loads(pickled)
    setup_globals()
    Singleton.set_state(singletons)

    def work(config: DictConfig) -> Any:
        result = run_in_hydra(hydra_context, function, config)
        if result.status != JobStatus.COMPLETED:
            raise result._return_value
        return result.return_value

    return work
