"""Sweeps as calls: real sweepers and a real store, jobs that are a function of the test."""

import functools
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from mlflow.entities import Param, Run
from omegaconf import DictConfig
from optuna.storages import RDBStorage

from lenet.config.check import check_job
from lenet.config.overrides import differing
from lenet.config.record import result_settings
from lenet.data import load
from lenet.sweeps import plugins
from lenet.sweeps.launcher import Outcome, StreamingLauncher, outcome_of
from lenet.tracking import client as store
from lenet.tracking.job import DIFFERS_TAG, JOB_TAG
from lenet.tracking.objective import Result
from tests.conftest import CONF


@functools.cache
def digits_sha256() -> str:
    return load("digits", "data").sha256


class Inline(StreamingLauncher):
    """Runs each job here, one after the other."""

    __module__ = "hydra_plugins.lenet"
    is_here = True

    def outcomes(self, configs: Iterable[DictConfig | None]) -> Iterator[Outcome]:
        for index, config in enumerate(configs):
            assert config is not None, "there is an outcome to wait for, but no job runs"
            yield outcome_of(index, self.task_function, config)


@dataclass
class Jobs:
    """The task function of a sweep: writes the MLflow run that a training would write.

    `curve` gives the objective's values by epoch, from a job's configuration; an exception that it
    raises is how the training ends. `ran` are the configurations of the jobs that were run.
    """

    folder: Path
    curve: Callable[[DictConfig], Sequence[float]] = lambda cfg: [0.5, 0.9]
    ran: list[DictConfig] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.uri = f"sqlite:///{self.folder / 'mlflow.db'}"
        self.client = store.connect(self.uri)

    def __call__(self, cfg: DictConfig) -> Result | None:
        self.ran.append(cfg)
        run_id = cfg.resume or self._new_run(cfg)
        self.client.update_run(run_id, "RUNNING")
        name = cfg.objective or "val/accuracy"
        try:
            curve = list(self.curve(cfg))
        except BaseException as error:
            killed = isinstance(error, KeyboardInterrupt)
            self.client.set_tag(run_id, "lenet.error", f"{type(error).__name__}: {error}")
            self.client.set_terminated(run_id, "KILLED" if killed else "FAILED")
            raise
        for epoch, value in enumerate(curve, 1):
            self.client.log_metric(run_id, name, value, step=epoch)
        self.client.log_metric(run_id, "seconds/total", 2.0)
        self.client.set_terminated(run_id, "FINISHED")
        return Result(curve[-1], curve) if cfg.objective else None

    def _new_run(self, cfg: DictConfig) -> str:
        tags = {"mlflow.parentRunId": cfg.job.parent, JOB_TAG: cfg.job.sha256}
        tags[DIFFERS_TAG] = json.dumps(differing(cfg.hydra.overrides.task, cfg.job.axes))
        tags["lenet.dataset.sha256"] = digits_sha256()
        experiment = store.experiment_id_of(self.client, "lenet5")
        run_id = str(self.client.create_run(experiment, tags=tags).info.run_id)
        params = [Param(*each) for each in result_settings(check_job(cfg)).items()]
        self.client.log_batch(run_id, params=params)
        return run_id

    def sweeps(self) -> list[str]:
        """The ids of the sweeps' own runs, the first started first."""
        ids = [each.experiment_id for each in self.client.search_experiments()]
        runs = self.client.search_runs(ids, order_by=["attributes.start_time ASC"])
        return [str(run.info.run_id) for run in runs if "lenet.sweep" in run.data.tags]

    def family(self) -> tuple[Run, list[Run]]:
        """The one sweep's run, and those of its jobs."""
        ids = [each.experiment_id for each in self.client.search_experiments()]
        runs = self.client.search_runs(ids, order_by=["attributes.start_time ASC"])
        (parent,) = [run for run in runs if "lenet.sweep" in run.data.tags]
        return parent, [run for run in runs if run is not parent]


@pytest.fixture(scope="session")
def empty_trials(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Optuna's tables, which take seconds to make."""
    path = tmp_path_factory.mktemp("trials") / "search.db"
    RDBStorage(f"sqlite:///{path}")
    return path


@pytest.fixture
def jobs(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    shutil.copy(empty_store, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LENET_RUNS", str(tmp_path / "waiting"))
    return Jobs(tmp_path)


@pytest.fixture
def sweep(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`sweep(*arguments)` does what `python run.py -m *arguments` does, with `jobs` as training."""
    plugins.register()
    Plugins.instance().register(Inline)
    plugins.Inline = Inline
    ConfigStore.instance().store(
        group="hydra/launcher", name="inline", node={"_target_": "hydra_plugins.lenet.Inline"}
    )

    def run(*arguments: str) -> Any:
        own = ["data=digits", f"tracking.uri={jobs.uri}", "sweep.report=false"]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            hydra = GlobalHydra.instance().hydra
            assert hydra
            config = hydra.compose_config(
                "config", ["hydra/launcher=inline", *own, *arguments], run_mode=RunMode.MULTIRUN
            )
            sweeper = Plugins.instance().instantiate_sweeper(
                hydra_context=HydraContext(hydra.config_loader, Callbacks()),
                task_function=jobs,
                config=config,
            )
            return sweeper.sweep(list(config.hydra.overrides.task))

    return run
