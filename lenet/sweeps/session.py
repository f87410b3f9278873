"""What a grid and a search share: the sweep's MLflow run, its earlier runs, launching, the end."""

import inspect
import json
import math
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import InstantiationException
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from lenet.cli import shortened
from lenet.cli.screen import getting_ready
from lenet.config.check import check_job
from lenet.config.errors import ConfigError
from lenet.config.overrides import count_in_decimals, in_grammar, run_name
from lenet.config.record import changes_nothing, config_hash, result_settings, shown
from lenet.sweeps.composition import Composer
from lenet.sweeps.display import Progress, time_estimate
from lenet.sweeps.jobs import FAILED, NEW, Job, match_runs, sha256_of
from lenet.sweeps.launcher import StreamingLauncher
from lenet.sweeps.rehearsal import Rehearsal
from lenet.tracking.job import SweepJob, job_sha256
from lenet.tracking.settings import MAX_NAME

if TYPE_CHECKING:
    from lenet.tracking.read import Summary


class Plan(Protocol):
    """Which job is next."""

    def jobs(self) -> Iterator[Job | None]:
        """The jobs to run. None while nothing can start before the next one ends."""

    def add(self, job: Job) -> int:
        """Takes a job that has ended. Returns: how many of the others need not be run now."""


class SweepFailed(ArithmeticError):
    """Some of the sweep's jobs failed; the others are done."""


class Session:
    """One start of a sweep, from the composed configuration of the command line to the report.

    A sweeper calls `compose_job` for each job, then `connect`, `find_runs`, `match`, `record`
    around `run`, and `conclude`. `parent` is the sweep's run in MLflow, None where a dry sweep
    finds no store.
    """

    def __init__(
        self, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self._loader = hydra_context.config_loader
        self.config = config
        self.options = config.sweep
        # Unwrapped: the command's own answer to an error ends the process, but one job's error must
        # not end the sweep.
        function = inspect.unwrap(task_function)
        try:
            launcher = Plugins.instance().instantiate_launcher(hydra_context, function, config)
        except InstantiationException as error:  # its cause is our ConfigError
            raise error.__cause__ or error from None
        if not isinstance(launcher, StreamingLauncher):
            raise ConfigError("hydra/launcher: expected local, ray, slurm or slurm_local")
        if config.sweep.patience and not launcher.is_here:
            raise ConfigError("sweep.patience: for hydra/launcher=local; clusters watch their jobs")
        launcher.patience = config.sweep.patience
        self.launcher = launcher
        self.parent: Any = None
        self._own: Sequence[Summary] = ()
        self._others: Sequence[Summary] = ()
        self.job_seconds = math.nan  # of an earlier run like these jobs
        self._compose = Composer(self._loader, config)
        self._rehearsal = Rehearsal()
        self.data_sha256 = self._rehearsal.data_sha256
        # A name with an interpolation differs from job to job.
        name = OmegaConf.to_container(config.tracking).get("run_name")  # type: ignore[union-attr]
        self._run_name = name if name and "${" not in str(name) else None

    # ---- Before the jobs run ---------------------------------------------------------------------

    def overrides(self, params: Mapping[str, Any], arguments: Sequence[str]) -> list[Override]:
        """The sweep's overrides, first those of its file. Starts the launcher's workers."""
        if not self.options.dry:
            self.launcher.warm_up()
        given = {k: v if isinstance(v, str) else in_grammar(v) for k, v in params.items()}
        lines = [*(f"{key}={text}" for key, text in given.items()), *arguments]
        parsed = OverridesParser.create(config_loader=self._loader).parse_overrides(lines)
        return list(map(count_in_decimals, parsed))

    def compose_job(self, overrides: Sequence[str], differs: Mapping[str, Any] = {}) -> Job:
        """Raises: ConfigError where the overrides make no configuration."""
        cfg = self._compose(overrides)
        config = check_job(cfg)
        # A job that differs in a tag alone is one more run of the same.
        own = {key: value for key, value in differs.items() if changes_nothing(key)}
        return Job(differs, config, job_sha256(config_hash(config), own), overrides)

    def rehearse(self, jobs: Sequence[Job]) -> None:
        """Raises: ConfigError where a job could not train. Of other machines nothing is known."""
        if self.launcher.is_here and not self.options.dry:
            self._rehearsal.check(jobs)

    @contextmanager
    def connect(self, job: Job, words: Sequence[str]) -> Iterator[None]:
        """Finds the sweep's run in the tracking store, by the words that identify the sweep. One
        that reuses nothing is a sweep of its own. A dry sweep makes no store.

        Raises: TrackingError, on leaving too, where the store can't be used.
        """
        from lenet.sweeps.parent_run import ParentRun
        from lenet.tracking import client as store

        tracking = job.config["tracking"]
        self.launcher.check_store(str(shown(job.config)["tracking"]["uri"]))
        if self.options.dry and not store.is_there(tracking["uri"]):
            yield
            return
        client = store.connect(tracking["uri"])
        with store.translated(client):
            words = words if self.options.reuse else [*words, "reuse=false"]
            self.parent = ParentRun(client, tracking["experiment"], sha256_of(words))
            yield

    @getting_ready("Reading earlier runs")
    def find_runs(self, jobs: Sequence[Job]) -> None:
        """Reads the earlier runs of the sweep, and finished ones from elsewhere that have what
        these jobs have in common.

        Waits until the sweep's own have ended, and sends what the store does not have of them yet.
        """
        from lenet.tracking.family import finished_jobs
        from lenet.tracking.names import waiting_root
        from lenet.tracking.outbox import send_family

        if self.parent is None:
            return
        if self.parent.run_id and not self.options.dry:
            runs = self.parent.wait_until_idle()
            tracking = jobs[0].config["tracking"]
            ids = {self.parent.run_id, *(run.run_id for run in runs)}
            send_family(ids, waiting_root(tracking["folder"]), tracking["wait"])
        self._own = self.parent.children()
        if self.options.reuse:
            common = set.intersection(*(set(result_settings(j.config).items()) for j in jobs))
            where = self.parent.client, self.parent.experiment
            self._others = finished_jobs(*where, dict(sorted(common)))

    def match(self, jobs: Sequence[Job]) -> list[Job]:
        """The jobs with the states of their runs; see `match_runs`."""
        return match_runs(jobs, self._own, self.data_sha256, self._others)

    def time_left(self, todo: Sequence[Job], jobs: Sequence[Job] = ()) -> str:
        """How long the jobs will take, estimated from similar runs of the experiment."""
        from lenet.tracking.durations import expected_seconds

        if not todo and any(job.state == FAILED for job in jobs):
            return "Nothing to do: sweep.retry_failed=true tries the failed jobs again."
        if not todo:
            return "Nothing to do: all jobs are done."
        if self.parent:
            config = todo[0].config
            like = {"epochs": str(config["epochs"]), "data.name": str(config["data"].get("name"))}
            where = self.parent.client, self.parent.experiment
            params = [result_settings(job.config) for job in todo]
            self.job_seconds = expected_seconds(*where, like, params)
        return time_estimate(len(todo), self.job_seconds, self.launcher.workers)

    # ---- While they run --------------------------------------------------------------------------

    @contextmanager
    def record(
        self, kind: str, arguments: Sequence[str], axes: Sequence[str], job: Job
    ) -> Iterator[None]:
        """Keeps the sweep's run RUNNING; an error or a signal inside marks it KILLED.

        SIGTERM stops the jobs as Ctrl-C does.
        """
        from lenet.tracking.client import REFUSALS
        from lenet.tracking.names import PROCESS_TAG, SWEEP_KIND_TAG
        from lenet.tracking.provenance import code_state, command, git, process_identity

        objective = job.config["objective"]
        tags = code_state() | {
            SWEEP_KIND_TAG: kind,
            "lenet.sweep.axes": json.dumps(axes),
            "lenet.sweep.objective": objective or "none",
            "lenet.sweep.command": command(),
            "lenet.sweep.published": json.dumps(job.config["sweep"]["published"]),
            PROCESS_TAG: process_identity(),
        }
        file = self.config.hydra.job.config_name
        name = f"{'' if file == 'config' else file} {run_name(arguments)}".strip()
        self.name = self._run_name or shortened(name, MAX_NAME)
        self._axes = list(axes)
        self.parent.begin(self.name, tags, git("diff", "HEAD") or "")
        before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        try:
            yield
        except BaseException as error:
            if isinstance(error, (KeyboardInterrupt, SystemExit, *REFUSALS)):
                print("To continue the sweep, give the same command again.")
            self.parent.end("KILLED")
            raise
        finally:
            signal.signal(signal.SIGTERM, before)

    def run(self, plan: Plan, count: int) -> Iterator[Job]:
        """Yields each job when it has ended, and prints how many of `count` have; leaving the loop
        stops those that run. A job whose worker hangs is run by another one, once.
        """
        started: list[Job] = []  # by the index of their outcomes
        running: set[int] = set()
        again: list[Job] = []

        def configs() -> Iterator[DictConfig | None]:
            jobs = plan.jobs()
            while (job := again.pop() if again else next(jobs, None)) or running:
                if job:
                    running.add(len(started))
                    started.append(job)
                yield self._config_of(job, len(started) - 1) if job else None

        self.launcher.earlier_runs = frozenset(run.run_id for run in self.parent.children())
        with Progress(count, self.job_seconds, self.launcher.workers) as self.progress:
            for outcome in self.launcher.outcomes(configs()):
                running.remove(outcome.index)
                job = started[outcome.index].ended(outcome.value, outcome.error)
                if outcome.is_lost:
                    self.parent.mark_killed(outcome.error or "", job.sha256)
                if outcome.is_hung and [each.sha256 for each in started].count(job.sha256) == 1:
                    self.progress.say(f"{job.name}: {outcome.error}; another worker continues it")
                    again += self._with_run(job)
                    continue
                self.progress.drop(plan.add(job))
                self.progress.end(job, outcome)
                yield job

    def _with_run(self, job: Job) -> list[Job]:
        """The job as it is to be run again, with the run that it has begun."""
        fresh = replace(job, state=NEW, run_id=None)
        return match_runs([fresh], self.parent.children(job.sha256), self.data_sha256)

    def _config_of(self, job: Job, number: int) -> DictConfig:
        """The job's configuration, to which the sweep adds its parent, the run to resume and its
        share of the cores.
        """
        cfg = self._compose(job.overrides)
        with open_dict(cfg):
            cfg.hydra.job.id = cfg.hydra.job.num = number
        bounds = tuple(job.bounds)
        place = SweepJob(self.parent.run_id, job.sha256, tuple(self._axes), job.trial, bounds)
        changes: dict[str, Any] = {"job": place.plain()}
        if self._run_name:  # that of the sweep's own run
            changes["tracking.run_name"] = None
        if job.run_id:
            changes["resume"] = job.run_id
        elif job.config["device"].get("threads") is None and self.launcher.threads:
            changes["device.threads"] = self.launcher.threads
        for key, value in changes.items():
            OmegaConf.update(cfg, key, value)
        lines = [f"{key}={in_grammar(value)}" for key, value in changes.items()]
        cfg.hydra.overrides.task = [*cfg.hydra.overrides.task, *lines]
        return cfg

    # ---- At the end ------------------------------------------------------------------------------

    def conclude(self) -> None:
        """Prints the report on the jobs that are done, and where to find them."""
        run_id = self.parent.run_id
        if self.options.report:
            from lenet.report.findings import ReportError
            from lenet.report.publish import publish
            from lenet.tracking.names import TrackingError

            try:
                print(publish(run_id, self.parent.client.tracking_uri))
            except (ReportError, TrackingError) as error:
                print(f"Warning: no report ({error})", file=sys.stderr)
        print(f"MLflow run {run_id}. To look at it:\n{self.parent.page}")
