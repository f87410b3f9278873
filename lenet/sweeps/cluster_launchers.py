"""Jobs that go to other machines, by Ray or by Slurm: `hydra/launcher=ray`, `slurm`.

Both may start a job a second time on their own. Only its MLflow run then remains of the first
time, so a `Parcel` looks for that run before it starts the job.
"""

import functools
import importlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import TaskFunction
from omegaconf import DictConfig, open_dict, read_write

from lenet.cli import first_error_line, shortened
from lenet.config.check import check
from lenet.config.errors import ConfigError
from lenet.sweeps.launcher import (
    Outcome,
    StreamingLauncher,
    outcome_of,
    run_in_hydra,
    unpickle,
)
from lenet.tracking.objective import Result

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

ENVIRONMENT = ("LENET_", "MLFLOW_")  # variables that a configuration or MLflow's client reads


# ---- A job -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parcel:
    """A job with all that it needs. Called on another machine, it returns the outcome.

    A job that began before continues its run; a job that has finished is not run again.
    `earlier_runs` are the ids of the sweep's runs from before this start.
    """

    index: int
    config: DictConfig
    root: str  # the sender's checkout
    environment: Mapping[str, str]
    earlier_runs: frozenset[str]
    pickled: bytes = field(repr=False)  # Hydra's context and singletons, and the task function

    def __call__(self) -> Outcome:
        os.environ.update(self.environment)
        hydra_context, function = unpickle(self.pickled)
        run = functools.partial(self._run, function)
        work = functools.partial(run_in_hydra, hydra_context, run)
        try:
            return outcome_of(self.index, work, self.config)
        except SystemExit as stopped:
            # SIGTERM: Slurm preempts the job or cancels it, and soon kills it. A preempted job that
            # has ended by itself before that is not queued again.
            while stopped.code == 128 + signal.SIGTERM and "SLURM_JOB_ID" in os.environ:
                time.sleep(1)
            raise

    def _run(self, function: TaskFunction, cfg: DictConfig) -> Any:
        from lenet.sweeps.parent_run import ParentRun
        from lenet.tracking import client as store
        from lenet.tracking.names import ROOT

        _use_checkout(self.root, str(ROOT))
        tracking = check(cfg)["tracking"]
        client = store.connect(tracking["uri"])
        parent = ParentRun(client, tracking["experiment"], run_id=cfg.job.parent)
        # Of the runs from before this start, only the one to resume counts. A run that never had
        # its data has nothing to resume from.
        begun = [
            run
            for run in parent.children(cfg.job.sha256)
            if "lenet.dataset.sha256" in run.tags
            and (run.run_id == cfg.resume or run.run_id not in self.earlier_runs)
        ]
        if begun and begun[-1].status == "FINISHED":
            curve = parent.curve(begun[-1].run_id, cfg.objective) if cfg.objective else []
            return Result(curve[-1], curve) if curve else None
        cfg.resume = begun[-1].run_id if begun else cfg.resume
        return function(cfg)

    def checkpoint(self) -> "DelayedSubmission":
        """What submitit queues when the job's time is over: the same parcel, to resume its run."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def _use_checkout(sender: str, here: str) -> None:
    """Makes Hydra read the configuration groups of this machine's checkout, not the sender's."""
    for source in GlobalHydra.instance().config_loader().get_sources():
        source.path = source.path.replace(sender, here)
    runtime: Any = HydraConfig.get().runtime
    with read_write(runtime), open_dict(runtime):
        for info in runtime.config_sources:
            info.path = info.path.replace(sender, here)


# ---- Launchers -------------------------------------------------------------------------------


class Cluster(StreamingLauncher):
    """Sends jobs out as parcels, up to `at_once` of them at a time.

    `is_remote` is true where the jobs run on machines that can't read this one's files.
    """

    is_remote = True
    at_once = 1

    def check_store(self, uri: str) -> None:
        if self.is_remote and not uri.startswith(("http://", "https://", "databricks")):
            raise ConfigError(
                f"tracking.uri={uri}: jobs on other machines can't write there; expected "
                "http://HOST:PORT of an mlflow server that all of them reach"
            )

    def open(self) -> None:
        """Connects to the cluster. Raises: ConfigError where there is none."""
        raise NotImplementedError

    def close(self, running: Iterable[Any]) -> None:
        """Ends the connection, and the jobs that still run."""
        raise NotImplementedError

    def submit(self, parcels: Sequence[Parcel]) -> Sequence[Any]:
        """Starts the parcels and returns a handle for each."""
        raise NotImplementedError

    def wait(self, running: Mapping[int, Any]) -> Iterator[Outcome]:
        """Waits until at least one job has ended and yields their outcomes.

        `running` holds the handles by job index.
        """
        raise NotImplementedError

    def outcomes(self, configs: Iterable[DictConfig | None]) -> Iterator[Outcome]:
        waiting, count, parcel = iter(configs), 0, self._parcel()
        running: dict[int, Any] = {}  # handles by the job's index
        self.open()
        try:
            while True:
                parcels: list[Parcel] = []
                while len(running) + len(parcels) < self.at_once:
                    config = next(waiting, None)
                    if config is None:
                        break
                    parcels.append(parcel(count, config))
                    count += 1
                if parcels:
                    handles = self.submit(parcels)
                    running |= {p.index: h for p, h in zip(parcels, handles, strict=True)}
                if not running:
                    return
                for outcome in self.wait(running):
                    del running[outcome.index]
                    yield outcome
        finally:
            self.close(running.values())

    def _parcel(self) -> Callable[[int, DictConfig], Parcel]:
        """Makes a job's parcel from its index and configuration."""
        from lenet.tracking.names import ROOT
        from lenet.tracking.provenance import code_state

        environment = {k: v for k, v in os.environ.items() if k.startswith(ENVIRONMENT)}
        environment["LENET_COMMIT"] = " ".join(code_state().values())
        shared = (str(ROOT), environment, self.earlier_runs, self.pickled())
        return lambda index, config: Parcel(index, config, *shared)


class Ray(Cluster):
    """Runs jobs on a Ray cluster. When Ray loses a node, it starts the node's job elsewhere."""

    def __init__(
        self, init: Mapping[str, Any], remote: Mapping[str, Any], jobs: int | None = None
    ) -> None:
        self.init, self.remote, self.jobs = init, remote, jobs
        self.threads = max(1, int(self.remote.get("num_cpus") or 1))
        self.ray = _imported("ray", "ray")

    def open(self) -> None:
        try:
            self.ray.init(**self.init)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"hydra.launcher.init: {first_error_line(error)}") from None
        self._call = self.ray.remote(**self.remote)(lambda parcel: parcel())
        room = self.ray.cluster_resources().get("CPU", 1) // (self.remote.get("num_cpus") or 1)
        self.at_once = self.jobs or max(1, int(room))

    def close(self, running: Iterable[Any]) -> None:
        self.ray.shutdown()

    def submit(self, parcels: Sequence[Parcel]) -> Sequence[Any]:
        return [self._call.remote(parcel) for parcel in parcels]

    def wait(self, running: Mapping[int, Any]) -> Iterator[Outcome]:
        ready = self.ray.wait(list(running.values()))[0]
        for index, handle in [item for item in running.items() if item[1] in ready]:
            try:
                yield self.ray.get(handle)
            except self.ray.exceptions.RayError as error:
                yield Outcome(index, error=first_error_line(error), is_lost=True)


class Slurm(Cluster):
    """Runs jobs on Slurm through submitit, or with `cluster=local` as processes of this machine."""

    def __init__(
        self,
        cluster: str,
        folder: str,
        max_num_timeout: int,
        parameters: Mapping[str, Any],
        jobs: int = 256,
    ) -> None:
        self.cluster, self.folder, self.max_num_timeout = cluster, folder, max_num_timeout
        self.parameters = {k: v for k, v in parameters.items() if v is not None}
        self.is_remote = cluster == "slurm"
        self.threads = max(1, int(self.parameters.get("cpus_per_task") or 1))
        self.at_once = jobs
        self.submitit = _imported("submitit", "slurm")

    def open(self) -> None:
        timeouts = {f"{self.cluster}_max_num_timeout": self.max_num_timeout}
        try:
            self._executor = self.submitit.AutoExecutor(
                self.folder, cluster=self.cluster, **timeouts
            )
            self._executor.update_parameters(**self.parameters)
        except (RuntimeError, TypeError, NameError, ValueError) as error:
            raise ConfigError(f"hydra.launcher: {first_error_line(error)}") from None

    def close(self, running: Iterable[Any]) -> None:
        for job in running:
            job.cancel()

    def submit(self, parcels: Sequence[Parcel]) -> Sequence[Any]:
        try:
            return self._executor.submit_array(parcels)
        except self.submitit.core.utils.FailedJobError as error:  # what sbatch says
            raise ConfigError(f"hydra.launcher.parameters: {first_error_line(error)}") from None

    def wait(self, running: Mapping[int, Any]) -> Iterator[Outcome]:
        pause = 10.0 if self.is_remote else 0.2
        while not (done := [item for item in running.items() if item[1].done()]):
            time.sleep(pause)
        for index, job in done:
            try:
                yield job.result()
            except self.submitit.core.utils.UncompletedJobError as error:
                yield Outcome(index, error=_reason(str(error)), is_lost=True)


def _reason(text: str) -> str:
    """Why submitit lost a job: the last line of its trace, or the first line of the message."""
    before, _, after = text.partition(" with trace:")
    trace = after.partition("You can check full logs")[0].strip(" -\n")
    return shortened((trace or before).strip().split("\n")[-1 if trace else 0], 500)


def _imported(package: str, extra: str) -> Any:
    """The package. Raises: ConfigError where it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise ConfigError(
            f"hydra/launcher={extra}: needs {package}; pip install -e '.[{extra}]'"
        ) from None
