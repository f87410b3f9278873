"""Jobs on this machine: `hydra/launcher=local`."""

import functools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from hydra.core.utils import setup_globals
from omegaconf import DictConfig

from lenet.config.check import check_value
from lenet.config.limits import Count
from lenet.sweeps.launcher import Outcome, StreamingLauncher, run_in_hydra, unpickle
from lenet.sweeps.worker_pool import run_jobs, warm_up
from lenet.training import startup

MODULES = (  # that a run imports sooner or later
    *("torch", "torch._dynamo", "mlflow.pytorch", "mlflow.store.tracking.sqlalchemy_store"),
    *("lenet.tracking.run", "lenet.training.loop", "lenet.native", "lenet.training.plots"),
    *("matplotlib.backends.backend_agg", "sqlalchemy.dialects.sqlite", "rich.progress"),
    # For torch.export, which imports them late.
    *("mlflow.pyfunc", "torch.export._trace", "torch._functorch.aot_autograd"),
    *("torch._export.serde.serialize", "torch.export.pt2_archive._package"),
)


class Local(StreamingLauncher):
    """Several jobs at a time, in processes that import and read the data once.

    `workers` is null for one a core; each has its share of the cores. hydra-joblib-launcher can't
    do that: it reports all jobs at the end, loses all of them with one whose process dies, and its
    workers read the data for each job.
    """

    is_here = True

    def __init__(self, workers: int | None = None) -> None:
        check_value("hydra.launcher.workers", Count | None, workers)
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self.workers: int = workers or cores or 1
        self.threads = max(1, (cores or 1) // self.workers) if self.workers > 1 else None

    def warm_up(self) -> None:
        warm_up(MODULES)

    def outcomes(self, configs: Iterable[DictConfig | None]) -> Iterator[Outcome]:
        setup_globals()
        prepare = functools.partial(_prepare, self.pickled())
        yield from run_jobs(configs, self.workers, prepare, self.patience)


def _prepare(pickled: bytes) -> Callable[[DictConfig], Any]:
    """What a worker does with a job's configuration."""
    startup.run_start()  # the process began before its first job did
    return functools.partial(run_in_hydra, *unpickle(pickled))
