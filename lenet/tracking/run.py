"""Records of a run -> its journal, which is sent to MLflow beside the training."""

import functools
import hashlib
import json
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import numpy as np
import torch
import yaml
from torch import nn

from lenet.cli import stop_printing
from lenet.config.overrides import differing, job_name
from lenet.config.record import config_hash, flatten, masked, shown
from lenet.data.sets import Data
from lenet.model.lenet5 import count_parameters
from lenet.native import Chosen
from lenet.tracking.job import JOB_TAG, SweepJob
from lenet.tracking.journal import Journal, JournalError
from lenet.tracking.objective import Result, is_hopeless, is_maximized
from lenet.tracking.provenance import (
    code_state,
    environment,
    environment_differences,
    git,
    process_identity,
    version,
)
from lenet.tracking.sender import Sender, command, waiting_root
from lenet.tracking.store import PARENT_TAG, PROCESS_TAG, TrackingError, resolved
from lenet.training.evaluate import Score
from lenet.training.progress import Epoch

if TYPE_CHECKING:
    from lenet.tracking.resume import Past
    from lenet.training.checkpoints import Checkpoints

START_SECONDS = 10.0  # for a server to answer before the training begins without it
P = ParamSpec("P")


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


def _reason(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0][:200]


class Run:
    """One MLflow run: entering starts it, or one of the `past` again; leaving sets the status that
    is true.

    FINISHED; KILLED after KeyboardInterrupt, SystemExit, BrokenPipeError (nobody reads what is
    printed: `run.py | head`) or where `killed` was set; FAILED after any other exception, with its
    text as tag `error` and its traceback as an artifact. One that is `pruned` is KILLED too, with
    its last epoch as a tag: it has no result to compare. All that is recorded goes into a folder of
    the run's own under `folder`, from there to the store of `uri` when that takes it. On leaving,
    `wait` seconds are given to a store that fails; what it has not taken then stays in the folder,
    and a line says how to send it.

    Raises: TrackingError or JournalError on entering, where the store refuses the run or the
    folder can't be written; nothing is left then.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        overrides: Sequence[str],
        started: float,
        past: "Past | None" = None,
        uri: str | None = None,
        experiment: str = "lenet5",
        run_name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        note: str | None = None,
        pictures: bool = True,
        model: bool = True,
        register_as: str | None = None,
        folder: str | None = None,
        wait: float = 30.0,
    ) -> None:
        self.config = shown(config)
        self.overrides = [masked(override) for override in overrides]
        self.started = started
        self.past = past
        self.uri = uri
        self.experiment = experiment
        self.job = SweepJob.read(config["job"])
        self.differs = differing(self.overrides, self.job.axes if self.job else ())
        own = job_name(self.differs) or " ".join(self.overrides)
        self.name = run_name or own[:250] or "defaults"
        self.tags = dict(tags or {})
        self.note = note
        self.pictures = pictures  # whether whoever makes them should
        self.model = model
        self.register_as = register_as
        self.root = waiting_root(folder)
        self.wait = wait
        self.seconds = 0.0
        self.killed = self.pruned = False
        self.curve: list[float] = []  # the objective's, of whole epochs
        self._best: dict[str, float] = {}

    @property
    def folder(self) -> Path:
        return self.journal.folder

    @property
    def id(self) -> str:
        """MLflow's, or the run's own where MLflow has none yet."""
        return str(self.journal.facts["run_id"] or self.journal.facts["id"])

    def __enter__(self) -> "Run":
        start = time.perf_counter()
        resumed = self.past.journal if self.past else None
        if resumed:
            self.journal = resumed
            self.name = self.journal.facts["name"]
        else:
            self.journal = Journal.create(self.root, self._facts())
        self._sender = Sender(self.journal, self.uri, again=resumed is not None)
        try:
            if resumed:
                self.journal.describe(uri=resolved(self.uri))
                self._log_again()
            else:
                self._log_start()
            self._sender.start()
            if not self._sender.wait_for_run(START_SECONDS):
                print(
                    f"Warning: the tracking server does not take this run yet "
                    f"({self._sender.problem}); its records wait in {self.folder}",
                    file=sys.stderr,
                )
        except BaseException as error:
            self.journal.close(remove=resumed is None)
            if isinstance(error, OSError):
                reason = error.strerror or error
                raise JournalError(f"{self.folder}: cannot be written ({reason})") from None
            raise
        self.seconds += time.perf_counter() - start
        return self

    def _facts(self) -> dict[str, Any]:
        tags = {key: str(value) for key, value in self.tags.items()}
        if self.note:
            tags["mlflow.note.content"] = self.note
        if self.past:
            tags["rerun.of"] = self.past.run_id
        if self.job:
            tags[PARENT_TAG] = self.job.parent
            tags["sweep.job"] = json.dumps(self.differs)
            tags[JOB_TAG] = self.job.sha256
            if self.job.trial is not None:
                tags["trial"] = str(self.job.trial)
        return {
            "uri": resolved(self.uri),
            "experiment": self.experiment,
            "name": self.name,
            "start_time": int(self.started * 1000),
            "process": process_identity(),
            "tags": tags | {"host": process_identity().split()[0]},
        }

    def _log_start(self) -> None:
        # Where a job belongs is in its tags.
        whole = {key: value for key, value in self.config.items() if key not in ("sweep", "job")}
        params = {key: str(value) for key, value in flatten(whole).items()}
        self.journal.append("params", params)
        self._log_text(masked(environment()), "environment.txt")
        self._log_git()
        self._log_config()  # last: where it is, a resume finds all of this

    def _log_config(self) -> None:
        self.tag("config.sha256", config_hash(self.config))
        self._log_text(_yaml(self.overrides), "overrides.yaml")
        self._log_text(_yaml(self.config), "config.yaml")

    def _log_again(self) -> None:
        assert self.past
        resumed = int(self.past.tags.get("resumed", "0")) + 1
        gone = {"error": None, "pruned": None}
        self._tag({**gone, PROCESS_TAG: process_identity(), "resumed": str(resumed)})
        if self.job and self.job.trial is not None:  # a trial that is repeated has a new number
            self.tag("trial", str(self.job.trial))
        self.journal.append("status", ["RUNNING", None])
        if self.config["epochs"] != self.past.epochs:
            self._log_config()  # a parameter of MLflow's can't change
        if environment_differences(self.past.environment, masked(environment())):
            self._log_text(masked(environment()), f"environment.resumed-{resumed}.txt")
        for record in self.past.history:  # a checkpoint may outlive the points before it
            self.log_epoch(record)

    def _log_git(self) -> None:
        if state := code_state():
            self._tag(state)
        if patch := git("diff", "HEAD"):
            self._log_text(patch, "uncommitted.patch")

    def tag(self, key: str, value: str) -> None:
        self._tag({key: value})

    def _tag(self, tags: Mapping[str, str | None]) -> None:
        self.journal.append("tags", dict(tags))

    @_recording
    def log_setup(
        self, data: Data, model: nn.Module, device: torch.device, kernels: Chosen
    ) -> None:
        """What the run is made of, beyond its configuration."""
        if device.type == "cuda":
            device_name = torch.cuda.get_device_name(device)
        else:
            device_name = f"{device.type}, {torch.get_num_threads()} threads"
        self._tag(
            {
                "dataset": data.name,
                "dataset.sha256": data.sha256,
                "dataset.val_sha256": data.val_sha256 or "none",
                "model": type(model).__name__,
                "model.parameters": str(count_parameters(model)),
                "device": device_name,
                "kernels": kernels.name,
                "kernels.why": kernels.why,
            }
        )
        dataset = {
            "name": data.name,
            "digest": data.sha256[:36],
            "source_type": "local",
            "source": str(data.where),
            "profile": f'{{"train": {data.train.count}, "test": {data.test.count}}}',
        }
        self.journal.append("data", dataset)

    @_recording
    def log_epoch(self, record: Epoch) -> None:
        """Step = epoch; for `train/loss_step`, step = optimizer step. Of an epoch that was stopped
        only those points that a whole one would have too: it may be gone on with.
        """
        interval = self.config["log_interval"]
        for step, loss in record.steps:
            if record.complete or step % interval == 0:
                self._add({"train/loss_step": loss}, step)
        if record.complete:
            self._log_values(record)
            if record.epoch > (len(self.past.history) if self.past else 0):
                self._judge(record.epoch)

    def _log_values(self, record: Epoch) -> None:
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
                self._best[name] = better(self._best.get(name, values[name]), values[name])
                values[f"best/{name}"] = self._best[name]
        self._add(values, record.epoch)
        if self.config["objective"] in values:
            self.curve.append(values[self.config["objective"]])

    def _judge(self, epoch: int) -> None:
        """Sets `pruned` where a search need not see the rest."""
        name, bounds = self.config["objective"], self.job.bounds if self.job else ()
        if name and is_hopeless(self.curve, bounds, is_maximized(name)):
            self.pruned = True
            self.tag("pruned", str(epoch))
            print(
                f"Pruned after epoch {epoch}: {name} {self.curve[-1]:.4f}, other trials had "
                f"{bounds[epoch - 1]:.4f}; resume={self.id} trains it to its end"
            )

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

    def end(
        self,
        history: Sequence[Epoch],
        model: nn.Module,
        saver: "Checkpoints",
        killed: bool = False,
    ) -> None:
        """Logs where the time went, in seconds since `started` and of the training before a
        resume, and what the weights are.
        """
        self.killed = killed or self.pruned
        self.tag("weights.sha256", weights_sha256(model))
        before = self.past.seconds if self.past else 0.0
        training = sum(record.seconds for record in history)
        elapsed = time.time() - self.started
        seconds = {"total": elapsed + before, "training": training, "logging": self.seconds}
        seconds["checkpoints"] = saver.cost
        if not killed:  # else whoever goes on with it will tell
            self._add({f"seconds/{name}": value for name, value in seconds.items()}, len(history))
        rest = elapsed - (training - before) - self.seconds
        print(
            f"Time: {elapsed:.1f} s, of it {training - before:.1f} training, {self.seconds:.1f} "
            f"logging, {rest:.1f} start, data and evaluation"
        )

    def _add(self, values: Mapping[str, float], step: int) -> None:
        """A point that is there already, from before a resume, stays as it is."""
        now = int(time.time() * 1000)
        points = [
            [key, float(value), now, step]
            for key, value in values.items()
            if (key, step) not in self.journal.points
        ]
        if points:
            self.journal.append("metrics", points)

    @property
    def result(self) -> Result | None:
        """The objective's newest value, None where there is none."""
        value = self.journal.latest.get(self.config["objective"])
        return None if value is None else Result(value, self.curve, self.pruned)

    @_recording
    def log_text(self, text: str, name: str) -> None:
        self._log_text(text, name)

    def _log_text(self, text: str, name: str) -> None:
        self._log_file(lambda path: path.write_text(text, encoding="utf-8"), name)

    @_recording
    def log_figures(self, figures: Iterable[tuple[str, Any]]) -> None:
        """Matplotlib figures by name; the time it takes to make them counts as logging."""
        for name, figure in figures:
            self._log_file(figure.savefig, f"pictures/{name}.png")

    @_recording
    def log_file(self, write: Callable[[Path], Any], name: str) -> None:
        """An artifact that `write` puts at the path it is given."""
        self._log_file(write, name)

    def _log_file(self, write: Callable[[Path], Any], name: str) -> None:
        self.journal.write(f"artifacts/{name}", write)
        self.journal.append("artifact", name)

    def log_checkpoint(self, name: str) -> None:
        self.journal.append("checkpoint", name)

    @_recording
    def log_model(self, model: nn.Module, data: Data, epoch: int) -> None:
        """The network as a `pt2` program over a batch of any size: no pickle to load it.

        Its metadata holds what a picture needs to become an input, and the classes' names.
        """
        import mlflow.pytorch
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        def tensor(*shape: int) -> Schema:
            return Schema([TensorSpec(np.dtype("float32"), (-1, *shape))])

        shutil.rmtree(self.folder / "model", ignore_errors=True)  # that an earlier process began
        example = next(iter(data.test))[0][:2].cpu()
        was_training, device = model.training, data.test.labels.device
        model.cpu().eval()

        def save(folder: Path) -> None:
            mlflow.pytorch.save_model(
                model,
                str(folder),
                signature=ModelSignature(
                    tensor(*example.shape[1:]), tensor(len(data.inputs.classes))
                ),
                # One row would fix the batch axis at 1.
                input_example=example.expand(2, -1, -1, -1).numpy(),
                # Given, because finding them out takes MLflow a subprocess and nine seconds.
                pip_requirements=[f"{name}=={version(name)}" for name in ("torch", "numpy")],
                serialization_format="pt2",
                metadata=data.inputs.to_values(),
            )

        try:
            self.journal.write("model", save)
        finally:
            model.to(device).train(was_training)
        self.journal.append("model", epoch)

    @_recording
    def register(self, data: Data, history: Sequence[Epoch]) -> None:
        """Asks for the logged model to be registered, with the validation score of its weights:
        those of the last epoch, with `patience` those of the best.
        """
        scores = [record.val for record in history if record.val]
        best = scores[-1]
        if self.config["patience"] is not None:
            best = min(scores, key=lambda score: score.loss)
        facts = {"val/accuracy": str(best.accuracy), "val/loss": str(best.loss)}
        facts |= {"dataset.sha256": data.sha256, "dataset.val_sha256": data.val_sha256 or "none"}
        self.journal.append("register", [self.register_as, len(history), facts])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        status = "FINISHED"
        if isinstance(error, BrokenPipeError):
            stop_printing()
        if self.killed or isinstance(error, KeyboardInterrupt | SystemExit | BrokenPipeError):
            status = "KILLED"
        elif error is not None:
            status = "FAILED"
        if error is not None:
            self.tag("error", f"{type(error).__name__}: {_reason(error)}"[:5000])
        if status == "FAILED":  # one that was stopped may go on, and leave no trace of it
            self.log_text("".join(traceback.format_exception(error)), "error.txt")
        self.journal.append("status", [status, int(time.time() * 1000)])
        lost = self._finish()
        if lost and error is None:
            raise TrackingError(lost)
        if lost:
            print(f"error: {lost}", file=sys.stderr)

    def _finish(self) -> str | None:
        """Waits for what is still to be sent, then says where the run is. Returns: what is lost."""
        sent = False
        try:
            sent = self._sender.finish(1.0)
            if not sent and self._sender.problem:
                print(
                    f"Waiting up to {self.wait:.0f} s for the tracking server "
                    f"({self._sender.problem}); Ctrl-C to leave it ...",
                    file=sys.stderr,
                )
            sent = sent or self._sender.finish(self.wait)
        finally:
            self._sender.leave()
            whole = sent or self.journal.save()
            try:
                self._say(sent, whole)
            finally:
                self.journal.close(remove=sent)
        if whole:
            return None
        return (
            f"records of run {self.id} are lost: neither MLflow ({self._why()}) nor {self.folder} "
            "takes them all"
        )

    def _say(self, sent: bool, whole: bool) -> None:
        if sent:
            print(f"MLflow run {self.id} ({self.name}); compare runs with: mlflow ui", flush=True)
        elif whole:
            print(
                f"MLflow has not taken {self.journal.waiting} records of this run ({self._why()}). "
                f"They are safe in {self.folder}; once the server is back:\n"
                f"  {command(self.folder)}",
                file=sys.stderr,
            )
        for run_id in self._sender.mended:
            print(f"Run {run_id} had ended without a word; go on with resume={run_id}")

    def _why(self) -> object:
        return self._sender.refusal or self._sender.problem or "it is slow"


def weights_sha256(model: nn.Module) -> str:
    """Of all that a model's state_dict holds: names, shapes, types and bits."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True))
