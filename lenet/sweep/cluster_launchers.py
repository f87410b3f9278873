"""Jobs that go to other machines: by Ray, by Slurm, or by a launcher of Hydra's that is not ours.

Whoever carries a job may start it again on its own, where nothing is left of the first time but
its run in MLflow; so a `Task` looks there before it begins.
"""

import importlib.util
import inspect
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import cloudpickle
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobStatus, setup_globals
from hydra.types import TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from lenet.cli import first_error_line
from lenet.config.check import check
from lenet.config.errors import ConfigError
from lenet.config.record import shown
from lenet.sweep import PLUGINS
from lenet.sweep.local_launcher import JobFailed, Streaming, numbered, run_one
from lenet.sweep.outcome import Outcome
from lenet.sweep.worker_pool import said
from lenet.tracking.job import SweepJob

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

ENVIRONMENT = ("LENET_", "MLFLOW_")  # what the configuration and MLflow's client read
QUIET_SECONDS = 10.0  # without a point after which a run's process is held to be gone


# ---- A job -----------------------------------------------------------------------------------


class Task:
    """The task function as it travels: with the sender's settings, to the `run.py` of the checkout
    that is there where it arrives.

    A job that was begun before goes on with its run; one that was finished is not done again.
    `others` are runs that were there before the sweep began this time: of these only the one that
    the job is to resume counts.
    """

    def __init__(self, function: TaskFunction) -> None:
        from lenet.tracking import client as store
        from lenet.tracking.provenance import code_state

        self.root = str(store.ROOT)
        self.program = os.path.relpath(inspect.getfile(function), store.ROOT)
        self.environment = {k: v for k, v in os.environ.items() if k.startswith(ENVIRONMENT)}
        self.environment["LENET_COMMIT"] = " ".join(code_state().values())
        self.others: frozenset[str] = frozenset()

    def __call__(self, cfg: DictConfig) -> Any:
        from lenet.tracking import client as store

        os.environ.update(self.environment)
        try:
            _rebase(self.root, str(store.ROOT))
            main = inspect.unwrap(_module(store.ROOT / self.program).main)
            run = self._earlier(check(cfg))
            if run is not None and run.info.status == "FINISHED":
                return run.data.metrics.get(cfg.objective)
            cfg.resume = run.info.run_id if run else cfg.resume
            return main(cfg)
        except Exception as error:
            traceback.print_exc()
            raise JobFailed(said(error)) from error

    def _earlier(self, config: Mapping[str, Any]) -> Any:
        """The run of a job that begins again, once nobody writes to it any more; or None."""
        from lenet.sweep import parent_run as sweep_store
        from lenet.tracking import client as store

        tracking, job = config["tracking"], SweepJob.read(config["job"])
        assert job
        client = store.connect(tracking["uri"])
        sweep = sweep_store.Sweep(client, tracking["experiment"], run_id=job.parent)
        runs = sweep.children(job.sha256)
        # One that never had its data has nothing to go on from.
        begun = [run for run in runs if "dataset.sha256" in run.data.tags]
        begun = [
            run
            for run in begun
            if run.info.run_id == config["resume"] or run.info.run_id not in self.others
        ]
        return sweep_store.quiet(client, begun[-1], QUIET_SECONDS) if begun else None


def _module(path: Path) -> ModuleType:
    """run.py, executed once in a process."""
    name = f"lenet_{path.stem}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        if spec is None or spec.loader is None or not path.is_file():
            raise ConfigError(f"{path}: not there; a job needs the whole checkout")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def _rebase(there: str, here: str) -> None:
    """The configuration groups lie in this machine's checkout, not in the one that sent the job."""

    def moved(path: str) -> str:
        inside = path == there or path.startswith(there + os.sep)
        return here + path[len(there) :] if inside else path

    if there == here:
        return
    if GlobalHydra.instance().is_initialized():
        for source in GlobalHydra.instance().config_loader().get_sources():
            source.path = moved(source.path)
    runtime: Any = HydraConfig.get().runtime
    with read_write(runtime), open_dict(runtime):
        for info in runtime.config_sources:
            info.path = moved(info.path)


@dataclass
class Parcel:
    """A job with all that it needs: called where it arrives, it says how it went."""

    index: int
    config: DictConfig
    task: Task
    state: bytes = field(repr=False)  # Hydra's context and singletons, pickled

    def __call__(self) -> Outcome:
        start = time.monotonic()
        hydra_context, singletons = cloudpickle.loads(self.state)
        setup_globals()
        Singleton.set_state(singletons)
        result = run_one(hydra_context, self.task, self.config)
        seconds, value = time.monotonic() - start, result._return_value
        if result.status != JobStatus.COMPLETED:
            return Outcome(self.index, error=said(value), seconds=seconds)
        return Outcome(self.index, value, seconds=seconds)

    def checkpoint(self) -> "DelayedSubmission":
        """What submitit queues again when the job's time is over: the same, which goes on."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


# ---- Launchers -------------------------------------------------------------------------------


class Engine(Streaming):
    """Jobs that go out as parcels, `at_once` of them at a time."""

    __module__ = PLUGINS
    elsewhere = True  # whether jobs run where no file of this machine is seen
    at_once = 1

    def session(self, stack: ExitStack) -> None:
        """Raises: ConfigError where there is no such cluster."""

    def submit(self, parcels: Sequence[Parcel]) -> Sequence[Any]:
        """Returns: a handle of each."""
        raise NotImplementedError

    def ended(self, handles: Sequence[Any]) -> Iterator[tuple[Any, Outcome]]:
        """Waits for one at least; what it says of a job's index doesn't count."""
        raise NotImplementedError

    def outcomes(
        self,
        batch: Iterable[DictConfig | None],
        started: Callable[[int], None] = lambda index: None,
    ) -> Iterator[Outcome]:
        state = cloudpickle.dumps((self.hydra_context, Singleton.get_state()))
        assert isinstance(self.task_function, Task)
        composed = numbered(batch)
        running: dict[Any, int] = {}
        count = 0
        with ExitStack() as stack:
            self.session(stack)
            while True:
                parcels: list[Parcel] = []
                while len(running) + len(parcels) < self.at_once:
                    config = next(composed, None)
                    if config is None:
                        break
                    parcels.append(Parcel(count, config, self.task_function, state))
                    count += 1
                if parcels:
                    handles = self.submit(parcels)
                    running |= {h: p.index for h, p in zip(handles, parcels, strict=True)}
                if not running:
                    return
                for handle, outcome in self.ended(list(running)):
                    yield replace(outcome, index=running.pop(handle))


class Ray(Engine):
    """On a Ray cluster, which begins a job again elsewhere when it lost the job's node."""

    __module__ = PLUGINS

    def __init__(
        self, init: Mapping[str, Any], remote: Mapping[str, Any], jobs: int | None = None
    ) -> None:
        self.init, self.remote, self.jobs = _plain(init), _plain(remote), jobs
        self.threads = max(1, int(self.remote.get("num_cpus") or 1))
        needs("ray", "ray")

    @property
    def at_once(self) -> int:  # type: ignore[override]
        import ray

        room = ray.cluster_resources().get("CPU", 1) // (self.remote.get("num_cpus") or 1)
        return self.jobs or max(1, int(room))

    def session(self, stack: ExitStack) -> None:
        import ray

        try:
            ray.init(**self.init)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"hydra.launcher.init: {first_error_line(error)}") from None
        stack.callback(ray.shutdown)
        self._call = ray.remote(**self.remote)(_call)

    def submit(self, parcels: Sequence[Parcel]) -> Sequence[Any]:
        return [self._call.remote(parcel) for parcel in parcels]

    def ended(self, handles: Sequence[Any]) -> Iterator[tuple[Any, Outcome]]:
        import ray

        for handle in ray.wait(list(handles))[0]:
            try:
                yield handle, ray.get(handle)
            except ray.exceptions.RayError as error:
                yield handle, Outcome(0, error=first_error_line(error)[:500], lost=True)


def _call(parcel: Parcel) -> Outcome:
    return parcel()


class Slurm(Engine):
    """Through submitit: as jobs of Slurm, or with `cluster` local as processes here."""

    __module__ = PLUGINS

    def __init__(
        self,
        cluster: str,
        folder: str,
        max_num_timeout: int,
        parameters: Mapping[str, Any],
        jobs: int = 256,
    ) -> None:
        self.cluster, self.folder, self.max_num_timeout = cluster, folder, max_num_timeout
        self.parameters = {k: v for k, v in _plain(parameters).items() if v is not None}
        self.elsewhere = cluster == "slurm"
        self.threads = max(1, int(self.parameters.get("cpus_per_task") or 1))
        self.at_once = jobs
        needs("submitit", "slurm")

    def session(self, stack: ExitStack) -> None:
        import submitit

        timeouts = {f"{self.cluster}_max_num_timeout": self.max_num_timeout}
        try:
            self._executor = submitit.AutoExecutor(self.folder, cluster=self.cluster, **timeouts)
            self._executor.update_parameters(**self.parameters)
        except (RuntimeError, TypeError, NameError, ValueError) as error:
            raise ConfigError(f"hydra.launcher: {first_error_line(error)}") from None
        self._running: list[Any] = []
        stack.callback(lambda: [job.cancel() for job in self._running])

    def submit(self, parcels: Sequence[Parcel]) -> Sequence[Any]:
        jobs = self._executor.submit_array(parcels)
        self._running += jobs
        return [_Handle(job) for job in jobs]

    def ended(self, handles: Sequence[Any]) -> Iterator[tuple[Any, Outcome]]:
        import submitit

        pause = 10.0 if self.elsewhere else 0.2
        while not (done := [handle for handle in handles if handle.job.done()]):
            time.sleep(pause)
        for handle in done:
            self._running.remove(handle.job)
            try:
                yield handle, handle.job.result()
            except submitit.core.utils.UncompletedJobError as error:
                yield handle, Outcome(0, error=_reason(str(error)), lost=True)


@dataclass(frozen=True, eq=False)
class _Handle:
    """submitit's jobs are no keys of a dictionary."""

    job: Any


def _reason(text: str) -> str:
    """What submitit tells of a job that is lost: its first line, or the last of a trace."""
    before, _, after = text.partition(" with trace:")
    trace = after.partition("You can check full logs")[0].strip(" -\n")
    return (trace or before).strip().split("\n")[-1 if trace else 0][:500]


def _plain(node: Mapping[str, Any]) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(OmegaConf.create(dict(node)), resolve=True)
    return dict(plain)


def needs(package: str, extra: str) -> None:
    """Raises: ConfigError where it is not installed."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"hydra/launcher={extra}: needs {package}; pip install -e '.[{extra}]'")


def check_store(config: Mapping[str, Any]) -> None:
    """Raises: ConfigError where jobs on other machines would have no tracking store in common."""
    uri = str(shown(config)["tracking"]["uri"])
    if not uri.startswith(("http://", "https://", "databricks")):
        raise ConfigError(
            f"tracking.uri={uri}: jobs on other machines can't write there; expected "
            "http://HOST:PORT of an mlflow server that all of them reach"
        )
