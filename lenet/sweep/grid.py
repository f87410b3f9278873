"""What Hydra calls for `-m`: a sweep is one MLflow run with a child for each job."""

import importlib
import inspect
import itertools
import json
import math
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import cloudpickle
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from lenet.config.build import build
from lenet.config.check import check_job
from lenet.config.errors import ConfigError
from lenet.config.overrides import columns_of, differing
from lenet.config.record import config_hash
from lenet.sweep import PLUGINS
from lenet.sweep.cluster_launchers import Engine, Task, check_store
from lenet.sweep.jobs import (
    DONE,
    FAILED,
    NEW,
    UNFINISHED,
    Display,
    Job,
    counted,
    known,
    sweep_sha256,
    table,
    table_of_failures,
    time_left,
)
from lenet.sweep.local_launcher import Local, Streaming
from lenet.sweep.outcome import Outcome
from lenet.sweep.worker_pool import said
from lenet.tracking.job import SweepJob
from lenet.tracking.objective import is_maximized

Plugins.instance()  # looks for plugins, which executes the next one's module once more
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper


class SweepFailed(ArithmeticError):
    """Some jobs failed; the others are done."""


class Grid(BasicSweeper):
    """Hydra's own grid, as one parent run: jobs that are done are skipped, others gone on with."""

    __module__ = PLUGINS

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        # What a job raises is the sweep's to tell; the command's own answer would end the sweep.
        bare = inspect.unwrap(task_function)
        super().setup(hydra_context=hydra_context, task_function=bare, config=config)
        assert self.launcher
        if not isinstance(self.launcher, Local):
            self.task = Task(bare)
            self.launcher.setup(hydra_context=hydra_context, task_function=self.task, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        from lenet.sweep import parent_run as sweep_store

        assert self.config is not None
        settings = self.config.sweep
        with self._warming():
            axes, jobs = self._jobs([*self._parse_config(), *arguments], list(settings.zip))
        with self._store(jobs[0]) as client:
            experiment = jobs[0].config["tracking"]["experiment"]
            self.record = client and sweep_store.Sweep(client, experiment, sweep_sha256(jobs))
            if self.record:
                jobs = known(jobs, self._earlier_runs(jobs[0]), data_checksums())
            wanted = {NEW, UNFINISHED} | ({FAILED} if settings.retry_failed else set())
            todo = [job for job in jobs if job.state in wanted]
            print(table(jobs) if settings.dry else counted(jobs))
            print(self._time_left(jobs, todo))
            if settings.dry:
                return []
            with self._recorded(arguments, "grid", axes, jobs[0], len(jobs)) as name:
                ended = self._run(todo, axes, settings.on_error)
                jobs = [ended.get(job.sha256, job) for job in jobs]
                failed = [job for job in jobs if job.state == FAILED]
                self.record.end("FAILED" if failed else "FINISHED")
        self._conclude(name)
        if failed:
            print(table_of_failures(failed))
            raise SweepFailed(f"{len(failed)} of {len(jobs)} jobs failed")
        return jobs

    def _earlier_runs(self, job: Job) -> list[Any]:
        """Of its jobs, once nothing is under way any more, or on its way to the store."""
        from lenet.tracking.sender import send_family, waiting_root

        assert self.config is not None
        tracking = job.config["tracking"]
        if self.record.run_id and not self.config.sweep.dry:
            own = {self.record.run_id, *(run.info.run_id for run in self.record.settled())}
            send_family(own, waiting_root(tracking["folder"]), tracking["wait"])
        return list(self.record.children())

    @contextmanager
    def _warming(self) -> Iterator[None]:
        """Meanwhile workers import what they need; they end where it is left by an error."""
        assert self.config is not None
        if not isinstance(self.launcher, Local) or self.config.sweep.dry:
            yield
            return
        self.launcher.pool.warm()
        try:
            yield
        except BaseException:
            self.launcher.pool.cool()
            raise

    # ---- What is to be run -------------------------------------------------------------------

    def _jobs(self, arguments: Sequence[str], zipped: Sequence[str]) -> tuple[list[str], list[Job]]:
        """What varies, and what is known of each job without the store."""
        size = self.max_batch_size
        if size is not None and size < 1:
            raise ConfigError(f"hydra.sweeper.max_batch_size={size}: should be 1 or more")
        axes, lists = self._expanded(arguments, zipped)
        jobs = [self._job(overrides, axes) for overrides in lists]
        if len({job.sha256 for job in jobs}) < len(jobs):
            raise ConfigError("sweep: two of the jobs are the same; name each value once")
        return axes, jobs

    def _expanded(
        self, arguments: Sequence[str], zipped: Sequence[str]
    ) -> tuple[list[str], list[list[str]]]:
        """What varies, and the overrides of each job."""
        assert self.hydra_context
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        values = columns_of(parser.parse_overrides(list(arguments)), zipped)
        axes = [key for key, choices in values.items() if len(choices) > 1]
        together = [key for key in axes if key.lstrip("+") in zipped]
        if missing := set(zipped) - {key.lstrip("+") for key in together}:
            raise ConfigError(f"sweep.zip: expected keys that vary, found {', '.join(missing)}")
        if len({len(values[key]) for key in together}) > 1:
            counts = ", ".join(f"{key} has {len(values[key])}" for key in together)
            raise ConfigError(f"sweep.zip: expected as many values of each, {counts}")
        groups = [[key] for key in values if key not in together] + ([together] if together else [])
        groups.sort(key=lambda keys: min(list(values).index(key) for key in keys))
        columns = [list(zip(*(values[key] for key in keys), strict=True)) for keys in groups]
        lists = [list(itertools.chain.from_iterable(row)) for row in itertools.product(*columns)]
        return [key.lstrip("+") for key in axes], lists

    def _job(self, overrides: Sequence[str], axes: Sequence[str]) -> Job:
        """Raises: ConfigError where that is no configuration."""
        assert self.hydra_context
        assert self.config is not None
        cfg = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        for key in ("sweeper", "launcher"):  # Hydra has taken its own already (hydra#2946)
            if cfg.hydra[key] != self.config.hydra[key]:
                raise ConfigError(
                    f"hydra.{key}: what varies sets it, where it comes too late; "
                    f"give it for the whole sweep: hydra/{key}=..."
                )
        composed = cloudpickle.dumps(cfg)  # of 0.1 MB; composing takes 0.08 s
        config, differs = check_job(cfg), differing(overrides, axes)
        return Job(differs, config, config_hash(config), composed)

    def _share(self, job: Job) -> dict[str, Any]:
        """A job's part of the cores, unless its threads were given, or the run that it goes on
        with has some. It is no part of what the job is.
        """
        threads = self.launcher.threads if isinstance(self.launcher, Streaming) else None
        if threads is None or job.run_id or job.config["device"].get("threads") is not None:
            return {}
        return {"device.threads": threads}

    def _time_left(self, jobs: Sequence[Job], todo: Sequence[Job]) -> str:
        if not todo:
            if any(job.state == FAILED for job in jobs):
                return "Nothing to do: sweep.retry_failed=true tries the failed jobs again."
            return "Nothing to do: all jobs are done."
        workers = self.launcher.workers if isinstance(self.launcher, Local) else None
        times = sorted(job.seconds for job in jobs if job.seconds and job.state == DONE)
        seconds = times[len(times) // 2] if times else self._seconds(todo)
        return time_left(len(todo), seconds, workers)

    def _seconds(self, jobs: Sequence[Job]) -> float:
        """Of a job of another sweep, or of a run, that was like these."""
        from lenet.tracking.read import median_seconds

        if not self.record:
            return math.nan
        config, experiment = jobs[0].config, jobs[0].config["tracking"]["experiment"]
        like = {"epochs": str(config["epochs"]), "data.name": str(config["data"].get("name"))}
        return median_seconds(self.record.client, experiment, like)

    # ---- Its run in MLflow -------------------------------------------------------------------

    @contextmanager
    def _store(self, job: Job) -> Iterator[Any]:
        """Its client; None where a dry sweep has nothing to look at."""
        from lenet.tracking import client as store

        assert self.config is not None
        if isinstance(self.launcher, Engine) and self.launcher.elsewhere:
            check_store(job.config)
        uri = job.config["tracking"]["uri"]
        if self.config.sweep.dry and not store.is_there(uri):
            yield None
            return
        client = store.connect(uri)
        with store.translated(client):
            yield client

    @contextmanager
    def _recorded(
        self, arguments: Sequence[str], kind: str, axes: Sequence[str], job: Job, jobs: int
    ) -> Iterator[str]:
        """Yields the sweep's name. Where it is left by an error its run is KILLED."""
        from lenet.tracking import client as store
        from lenet.tracking.provenance import code_state, git, process_identity

        assert self.config is not None
        objective = job.config["objective"]
        tags = code_state() | {
            store.SWEEP_KIND_TAG: kind,
            "sweep.axes": json.dumps(axes),
            "sweep.jobs": str(jobs),
            "sweep.objective": objective or "none",
            "sweep.published": json.dumps(job.config["sweep"]["published"]),
            "sweep.direction": "maximize" if is_maximized(objective or "") else "minimize",
            store.PROCESS_TAG: process_identity(),
        }
        name = self._name(arguments)
        self.record.begin(name, tags, git("diff", "HEAD") or "")
        before = signal.signal(signal.SIGTERM, _terminated)
        try:
            yield name
        except BaseException:
            self.record.end("KILLED")
            raise
        finally:
            signal.signal(signal.SIGTERM, before)

    def _name(self, arguments: Sequence[str]) -> str:
        assert self.config is not None
        file = self.config.hydra.job.config_name
        return " ".join([*([] if file == "config" else [file]), *arguments])[:250] or "sweep"

    def _conclude(self, name: str) -> None:
        """What can be said of the results, whatever became of single jobs."""
        assert self.config is not None
        run_id = self.record.run_id
        if self.config.sweep.report:
            from lenet.report.findings import ReportError
            from lenet.report.publish import publish
            from lenet.tracking.client import TrackingError

            try:
                print(publish(run_id, self.record.client.tracking_uri, with_failures=False))
            except (ReportError, TrackingError) as error:
                print(f"Warning: no report ({error})", file=sys.stderr)
        print(f"MLflow run {run_id} ({name}); compare its jobs with: mlflow ui")

    # ---- Running -----------------------------------------------------------------------------

    def _run(self, jobs: Sequence[Job], axes: Sequence[str], on_error: str) -> dict[str, Job]:
        """Returns: each that ended, by its checksum."""
        ended: dict[str, Job] = {}
        with Display(len(jobs)) as display:
            threading.Thread(target=self._read_in, daemon=True).start()
            batch = (self._launchable(job, axes) for job in jobs)
            for outcome in self._outcomes(batch, display.started, jobs.__getitem__):
                job = _after(jobs[outcome.index], outcome)
                ended[job.sha256] = job
                display.ended(job, outcome)
                if job.state == FAILED and on_error == "stop":
                    break
        return ended

    def _read_in(self) -> None:
        """What the end needs, in a second that the jobs take anyway."""
        assert self.config is not None
        if self.config.sweep.report:
            importlib.import_module("lenet.report.publish")

    def _launchable(self, job: Job, axes: Sequence[str], **own: Any) -> DictConfig:
        """The job's configuration with what is not its own: where it belongs, and its threads."""
        cfg: DictConfig = cloudpickle.loads(job.composed)
        place = SweepJob(self.record.run_id, job.sha256, tuple(axes), **own)
        changes = self._share(job)
        if job.run_id:
            changes["resume"] = job.run_id
        for key, value in {"job": place.plain(), **changes}.items():
            OmegaConf.update(cfg, key, value)
        told = [place.override(), *(f"{k}={json.dumps(value)}" for k, value in changes.items())]
        cfg.hydra.overrides.task = [*cfg.hydra.overrides.task, *told]
        return cfg

    def _outcomes(
        self,
        batch: Iterable[DictConfig | None],
        started: Callable[[int], None],
        job_of: Callable[[int], Job],
    ) -> Iterator[Outcome]:
        """Those of jobs whose process or machine was lost have their runs mended first."""
        if not isinstance(self.launcher, Local):
            there = {run.info.run_id for run in self.record.children()}
            self.task.others = frozenset(there)
        if not isinstance(self.launcher, Streaming):
            yield from self._launched(iter(batch), job_of)
            return
        for outcome in self.launcher.outcomes(batch, started):
            if outcome.lost:
                self.record.lost(outcome.error or "", job_of(outcome.index).sha256)
            yield outcome

    def _launched(
        self, batch: Iterator[DictConfig | None], job_of: Callable[[int], Job]
    ) -> Iterator[Outcome]:
        """By launchers that are not ours, which tell of all jobs at the end or, where one was lost,
        of none: then the jobs' runs do.
        """
        assert self.launcher
        count = 0
        while some := _ready(batch, self.max_batch_size):
            try:
                results = self.launcher.launch(some, initial_job_idx=count)
            except ConfigError:
                raise
            except Exception as error:  # of whatever kind the launcher's engine has
                jobs = [job_of(count + index) for index in range(len(some))]
                for index, job in enumerate(known(jobs, self.record.children(), data_checksums())):
                    why = (job.state == FAILED and job.reason) or f"not finished ({said(error)})"
                    yield Outcome(count + index, error=None if job.state == DONE else why)
            else:
                for index, result in enumerate(results):
                    value, done = result._return_value, result.status == JobStatus.COMPLETED
                    yield Outcome(count + index, value, None if done else said(value))
            self.record.lost("its machine was lost")
            count += len(some)


def _ready(batch: Iterator[DictConfig | None], most: int | None) -> list[list[str]]:
    """The overrides of the next of them, up to where an outcome must come first."""
    some = itertools.islice(iter(lambda: next(batch, None), None), most)
    return [list(cfg.hydra.overrides.task) for cfg in some]


def _terminated(number: int, frame: FrameType | None) -> None:
    """SIGTERM: jobs are stopped as by Ctrl-C."""
    raise SystemExit(128 + number)


def _after(job: Job, outcome: Outcome) -> Job:
    if outcome.error is None:
        return replace(job, state=DONE)
    return replace(job, state=FAILED, reason=outcome.error)


def data_checksums() -> Callable[[Job], str]:
    """The checksum of a job's data, each set read once."""
    found: dict[str, str] = {}

    def checksum(job: Job) -> str:
        key = json.dumps({k: v for k, v in job.config["data"].items() if k != "seed"})
        if key not in found:
            found[key] = build(job.config, "data").sha256
        return found[key]

    return checksum
