"""Records of a run -> MLflow. Only importer of mlflow."""

import functools
import getpass
import hashlib
import logging
import os
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec

# A server that does not answer is given seconds, not minutes; MLflow reads these as it starts.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")

import mlflow
import numpy as np
import torch
from filelock import FileLock
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from torch import nn

from lenet import checkpoint
from lenet.config import config_hash, flatten
from lenet.data import Data
from lenet.evaluate import Score
from lenet.machine import environment, git, is_alive, process_identity, version
from lenet.model import count_parameters, options_of
from lenet.native import Chosen
from lenet.train import Epoch

ROOT = Path(__file__).resolve().parents[1]
PROCESS_TAG = "lenet.process"
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

P = ParamSpec("P")


class TrackingError(ValueError):
    """A tracking store or a run that can't be reached: one line that says which, and why."""


def home() -> Path:
    """Where mlflow.db and mlruns/ lie: beside run.py, or here where the package is installed."""
    return ROOT if (ROOT / "run.py").is_file() else Path.cwd()


def connect(uri: str | None, create: bool = True) -> str:
    """Makes `uri`, or else the database beside run.py, the store of this process.

    MLflow's first use of a new database is not safe between processes, so it happens under a lock.

    Raises: TrackingError where there is no reaching it, or nothing to read with `create` false.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"
    database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    if database and not create and not database.is_file():
        raise TrackingError(f"tracking.uri={uri}: no such database, so no runs to read")
    mlflow.set_tracking_uri(uri)
    try:
        with _first_use_lock(database) if database else nullcontext():
            MlflowClient().search_experiments(max_results=1)
    except Exception as error:  # sqlalchemy's, requests' and MLflow's own
        raise TrackingError(f"tracking.uri={uri}: cannot be used ({_reason(error)})") from None
    return uri


def _first_use_lock(database: Path) -> FileLock:
    name = hashlib.sha256(str(database.resolve()).encode()).hexdigest()[:16]
    return FileLock(Path(tempfile.gettempdir(), f"lenet-{getpass.getuser()}-{name}.lock"))


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]


def _recording(
    method: Callable[Concatenate["Run", P], None],
) -> Callable[Concatenate["Run", P], None]:
    """Counts a method's time as logging; its failure costs a warning, never the training."""

    @functools.wraps(method)
    def recording(self: "Run", *args: P.args, **kwargs: P.kwargs) -> None:
        start = time.perf_counter()
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            print(f"Warning: {method.__name__} failed ({_reason(error)})", file=sys.stderr)
        finally:
            self.seconds += time.perf_counter() - start

    return recording


class Run:
    """One MLflow run: entering starts it, leaving sets the status that is true.

    FINISHED; KILLED after KeyboardInterrupt or where `killed` was set; FAILED after any other
    exception, with its text as tag `error` and its traceback as an artifact. Metrics wait in
    memory and are sent in batches; `seconds` is the time spent here.

    Raises: TrackingError on entering, where the store can't be used; no run is left then.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        overrides: Sequence[str],
        started: float,
        uri: str | None = None,
        experiment: str = "lenet5",
        run_name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        note: str | None = None,
        pictures: bool = True,
        model: bool = True,
    ) -> None:
        self.config = config
        self.overrides = list(overrides)
        self.started = started
        self.uri = uri
        self.experiment = experiment
        self.name = run_name or " ".join(overrides)[:250] or "defaults"
        self.tags = dict(tags or {})
        self.note = note
        self.pictures = pictures  # whether whoever makes them should
        self.model = model
        self.seconds = 0.0
        self.killed = False
        self.id = ""
        self._waiting: list[Metric] = []
        self._latest: dict[str, float] = {}

    def __enter__(self) -> "Run":
        start = time.perf_counter()
        self.uri = connect(self.uri)
        self._client = MlflowClient()
        try:
            experiment_id = self._experiment_id()
            mend_orphans(self._client)
            tags = {
                **{key: str(value) for key, value in self.tags.items()},
                **({"mlflow.note.content": self.note} if self.note else {}),
                "host": platform.node(),
                "config.sha256": config_hash(self.config),
                PROCESS_TAG: process_identity(),
            }
            run = mlflow.start_run(experiment_id=experiment_id, run_name=self.name, tags=tags)
        except Exception as error:
            raise TrackingError(f"tracking.uri={self.uri}: {_reason(error)}") from None
        self.id = run.info.run_id
        try:
            self._log_start()
        except BaseException as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        self.seconds += time.perf_counter() - start
        return self

    def _log_start(self) -> None:
        params = [Param(key, str(value)[:6000]) for key, value in flatten(self.config).items()]
        for first in range(0, len(params), 100):
            self._client.log_batch(self.id, params=params[first : first + 100])
        mlflow.log_text(_yaml(self.config), "config.yaml")
        mlflow.log_text(_yaml(self.overrides), "overrides.yaml")
        mlflow.log_text(environment(), "environment.txt")
        self._log_git()

    def _experiment_id(self) -> str:
        found = self._client.get_experiment_by_name(self.experiment)
        if found is None:
            own = self.uri == f"sqlite:///{home() / 'mlflow.db'}"
            location = (home() / "mlruns").as_uri() if own else None
            try:
                # The tag makes `mlflow ui` open the experiment as one of training, with its charts.
                kind = {"mlflow.experimentKind": "custom_model_development"}
                return self._client.create_experiment(self.experiment, location, kind)
            except MlflowException:  # another process was first
                found = self._client.get_experiment_by_name(self.experiment)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            raise TrackingError(
                f"experiment {self.experiment!r} is deleted; restore it or give another name "
                "(tracking.experiment)"
            )
        return found.experiment_id

    def _log_git(self) -> None:
        status = git("status", "--porcelain")
        if status is None:
            return
        self.tag("git.commit", (git("rev-parse", "HEAD") or "none yet").strip())
        self.tag("git.dirty", str(bool(status)).lower())
        if patch := git("diff", "HEAD"):
            mlflow.log_text(patch, "uncommitted.patch")

    def tag(self, key: str, value: str) -> None:
        self._client.set_tag(self.id, key, value)

    @_recording
    def log_setup(
        self, data: Data, model: nn.Module, device: torch.device, kernels: Chosen
    ) -> None:
        """What the run is made of, beyond its configuration."""
        if device.type == "cuda":
            device_name = torch.cuda.get_device_name(device)
        else:
            device_name = f"{device.type}, {torch.get_num_threads()} threads"
        tags = {
            "dataset": data.name,
            "dataset.sha256": data.sha256,
            "dataset.val_sha256": data.val_sha256 or "none",
            "model": type(model).__name__,
            "model.parameters": str(count_parameters(model)),
            "device": device_name,
            "kernels": kernels.name,
            "kernels.why": kernels.why,
        }
        self._client.log_batch(self.id, tags=[RunTag(key, value) for key, value in tags.items()])
        dataset = Dataset(
            name=data.name,
            digest=data.sha256[:36],
            source_type="local",
            source=str(data.where),
            profile=f'{{"train": {data.train.count}, "test": {data.test.count}}}',
        )
        context = [InputTag("mlflow.data.context", "training")]
        self._client.log_inputs(self.id, [DatasetInput(dataset, context)])

    @_recording
    def log_epoch(self, record: Epoch) -> None:
        """Step = epoch; for `train/loss_step`, step = optimizer step."""
        for step, loss in record.steps:
            self._add({"train/loss_step": loss}, step)
        values = {
            "train/loss": record.loss,
            "train/accuracy": record.accuracy,
            "learning_rate": record.learning_rate,
            "seconds/epoch": record.seconds,
            "images_per_second": record.images_per_second,
        }
        if record.val is not None:
            values |= {"val/loss": record.val.loss, "val/accuracy": record.val.accuracy}
            for name, better in (("val/loss", min), ("val/accuracy", max)):
                best = self._latest.get(f"best/{name}", values[name])
                values[f"best/{name}"] = better(best, values[name])
        self._add(values, record.epoch)
        self._flush()

    @_recording
    def log_test(self, score: Score, epoch: int) -> None:
        """The test set's figures, at the step of the last epoch."""
        values = {
            "test/loss": score.loss,
            "test/accuracy": score.accuracy,
            "test/calibration_error": score.calibration_error,
        }
        for k, accuracy in enumerate(score.class_accuracy):
            if accuracy is not None:
                values[f"test/class_accuracy/{k}"] = accuracy
        self._add(values, epoch)
        self._flush()

    def end(self, history: Sequence[Epoch], killed: bool = False) -> None:
        """Logs where the time went, in seconds since `started`, and says where the run is."""
        self.killed = killed
        training = sum(record.seconds for record in history)
        seconds = {
            "total": time.time() - self.started,
            "training": training,
            "logging": self.seconds,
        }
        self._add({f"seconds/{name}": value for name, value in seconds.items()}, len(history))
        self._flush()
        rest = seconds["total"] - training - self.seconds
        print(
            f"Time: {seconds['total']:.1f} s, of it {training:.1f} training, {self.seconds:.1f} "
            f"logging, {rest:.1f} start, data and evaluation"
        )
        print(f"MLflow run {self.id} ({self.name}); compare runs with: mlflow ui")

    def _add(self, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self._latest |= values
        self._waiting += [Metric(key, float(v), now, step) for key, v in values.items()]

    def _flush(self) -> None:
        """Sends what waits. A store that fails costs a warning; the points wait for the next."""
        try:
            while self._waiting:
                self._client.log_batch(self.id, metrics=self._waiting[:1000])
                del self._waiting[:1000]
        except Exception as error:
            print(f"Warning: MLflow does not take metrics ({_reason(error)})", file=sys.stderr)

    def metric(self, name: str | None) -> float | None:
        """The newest value of a metric, None where it was never logged."""
        return self._latest.get(name) if name else None

    @_recording
    def log_text(self, text: str, name: str) -> None:
        mlflow.log_text(text, name)

    @_recording
    def log_figures(self, figures: Iterable[tuple[str, Any]]) -> None:
        """Matplotlib figures by name; the time it takes to make them counts as logging."""
        for name, figure in figures:
            mlflow.log_figure(figure, f"pictures/{name}.png")

    @_recording
    def log_file(self, write: Callable[[Path], None], name: str) -> None:
        """An artifact that `write` puts at the path it is given."""
        self._log_file(write, name)

    def _log_file(self, write: Callable[[Path], None], name: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, Path(name).name)
            write(path)
            mlflow.log_artifact(str(path), str(Path(name).parent) if "/" in name else None)

    @_recording
    def log_checkpoint(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, epoch: int
    ) -> None:
        state = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        self._log_file(lambda path: checkpoint.save(state, path), "checkpoint.pt")

    @_recording
    def log_model(self, model: nn.Module, data: Data) -> None:
        """The network as a `pt2` program over a batch of any size: no pickle to load it.

        Its metadata holds what a picture needs to become an input, and the classes' names.
        """
        import mlflow.pytorch
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        def tensor(*shape: int) -> Schema:
            return Schema([TensorSpec(np.dtype("float32"), (-1, *shape))])

        example = next(iter(data.test))[0][:2].cpu()
        was_training, device = model.training, data.test.labels.device
        mlflow.pytorch.log_model(
            model.cpu().eval(),
            name="model",
            signature=ModelSignature(tensor(*example.shape[1:]), tensor(data.num_classes)),
            # One row would fix the batch axis at 1.
            input_example=example.expand(2, -1, -1, -1).numpy(),
            # Given, because finding them out takes MLflow a subprocess and nine seconds.
            pip_requirements=[f"{name}=={version(name)}" for name in ("torch", "numpy")],
            serialization_format="pt2",
            metadata={
                "classes": list(data.classes),
                "mean": data.mean,
                "std": data.std,
                "image_size": data.image_size,
                "network": options_of(model),
            },
        )
        model.to(device).train(was_training)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        status = RunStatus.FINISHED
        if self.killed or isinstance(error, KeyboardInterrupt | SystemExit):
            status = RunStatus.KILLED
        elif error is not None:
            status = RunStatus.FAILED
        self._flush()
        try:
            if error is not None:
                self.tag("error", f"{type(error).__name__}: {_reason(error)}"[:5000])
                mlflow.log_text("".join(traceback.format_exception(error)), "error.txt")
        finally:
            mlflow.end_run(RunStatus.to_string(status))


def mend_orphans(client: MlflowClient) -> list[str]:
    """Marks as KILLED the runs of this machine whose process is gone. Returns their ids."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    running = client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=1000)
    mended = []
    for run in running:
        host, _, process = run.data.tags.get(PROCESS_TAG, "").partition(" ")
        if host != platform.node() or is_alive(*process.split()):
            continue
        client.set_tag(run.info.run_id, "error", "its process ended without setting a status")
        client.set_terminated(run.info.run_id, "KILLED")
        mended.append(run.info.run_id)
    return mended


def load_run_model(run_id: str, uri: str | None = None) -> tuple[nn.Module, dict[str, Any]]:
    """The network that a run logged, and its metadata. No pickle is read.

    Raises: TrackingError where there is no such run, or it logged no model.
    """
    import mlflow.pytorch

    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    connect(uri, create=False)
    model_uri = f"runs:/{run_id}/model"
    try:
        metadata = mlflow.models.get_model_info(model_uri).metadata or {}
        return mlflow.pytorch.load_model(model_uri), metadata
    except Exception as error:
        raise TrackingError(f"{run_id}: no model of such a run ({_reason(error)})") from None


def _yaml(value: Any) -> str:
    import yaml

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
