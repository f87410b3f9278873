"""The life of a run in MLflow: it starts, records what it gets, and ends with a true status."""

import functools
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from torch import nn
from torch.profiler import profile

from lenet.cli import first_error_line
from lenet.config.metrics import is_maximized
from lenet.data.sets import Data
from lenet.tracking import records
from lenet.tracking.client import ERROR_TAG, PRUNED_TAG, WEIGHTS_TAG, TrackingError, resolved
from lenet.tracking.compare import rerun_verdict
from lenet.tracking.journal import Facts, Journal
from lenet.tracking.objective import Result, is_hopeless
from lenet.tracking.provenance import process_identity
from lenet.tracking.sender import Sender, waiting_root
from lenet.tracking.settings import Settings, data_tags
from lenet.tracking.variables import chosen_experiment, given_run, start_monitor
from lenet.training.evaluate import Score
from lenet.training.progress import Epoch

START_SECONDS = 10.0  # to wait for a server before the training begins without it


def _recording(method: Callable[..., None]) -> Callable[..., None]:
    """Counts a method's time as logging, and turns its failure into a warning."""

    @functools.wraps(method)
    def recording(self: "Run", *args: Any) -> None:
        start = time.perf_counter()
        try:
            method(self, *args)
        except Exception as error:
            print(f"Warning: {method.__name__} failed ({first_error_line(error)})", file=sys.stderr)
        finally:
            self.seconds += time.perf_counter() - start

    return recording


class Run:
    """One MLflow run. Entering starts it, or resumes the earlier run that the settings name;
    leaving sets its status.

    The status is FINISHED; KILLED after Ctrl-C, SIGTERM and the like, after a broken pipe
    (`run.py | head`), or if the run was `pruned`; FAILED after any other exception, whose text
    becomes the tag `lenet.error`.

    Everything that is recorded is written to a folder of the run below `folder`, and sent from
    there to the store at `uri` during the training. On leaving, a store that fails gets
    `wait` seconds. What it has not taken by then stays in the folder, and a line says how to send
    it.

    Raises: TrackingError, JournalError or OSError on entering, where the store refuses the run or
    the folder can't be written; nothing is left then.
    """

    def __init__(
        self,
        settings: Settings,
        uri: str | None = None,
        experiment: str | int | None = None,
        run_name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        note: str | None = None,
        pictures: bool = True,
        model: bool = True,
        register_as: str | None = None,
        folder: str | None = None,
        wait: float = 30.0,
    ) -> None:
        self.settings = settings
        self.past = settings.past
        self.uri = uri
        self.experiment = chosen_experiment(experiment)
        self.name = run_name or settings.name
        self.tags = tags or {}
        self.note = note
        self.pictures, self.model = pictures, model  # whether to log them
        self.register_as = register_as
        self.root = waiting_root(folder)
        self.wait = wait
        self.seconds = 0.0  # spent on logging
        self.checkpoint_seconds: float | None = None  # once the training is over
        self.pruned = False
        self.history: list[Epoch] = []  # whole epochs, those before a resume included
        self.curve: list[float] = []  # the objective after each of them
        self._monitor: SystemMetricsMonitor | None = None

    @property
    def folder(self) -> Path:
        return self.journal.folder

    @property
    def id(self) -> str:
        """MLflow's id of the run, or its own while MLflow has none."""
        return self.journal.facts.run_id or self.journal.facts.id

    @property
    def result(self) -> Result | None:
        """The objective after the last epoch, None if there is no objective."""
        value = self.journal.latest.get(self.settings.objective or "")
        return None if value is None else Result(value, self.curve, self.pruned)

    def __enter__(self) -> "Run":
        start = time.perf_counter()
        resumed = self.past.journal if self.past else None
        self.journal = resumed or Journal.create(self.root, self._facts())
        self._sender = Sender(self.journal, self.uri, may_exist=resumed is not None)
        try:
            if resumed:
                resumed.resume_as(process_identity())
            else:
                records.log_start(self.journal, self.settings)
            self._sender.start()
            if not self._sender.wait_for_run(START_SECONDS):
                why = f"the tracking server does not take this run yet ({self._sender.problem})"
                print(f"Warning: {why}; its records wait in {self.folder}", file=sys.stderr)
            elif run_id := self.journal.facts.run_id:
                self._monitor = start_monitor(run_id, self._sender.uri, resumed is not None)
            if self.past and resumed:  # now that another process can't have the run any more
                records.log_resume(resumed, self.settings, self.past)
                for record in self.past.history:  # its last points may not be recorded yet
                    self._add_epoch(record)
        except BaseException:
            self.journal.close(remove=resumed is None)
            raise
        self.seconds += time.perf_counter() - start
        return self

    def _facts(self) -> Facts:
        process = process_identity()
        tags = records.start_tags(self.settings, self.tags, self.note)
        uri, start_time = resolved(self.uri), int(self.settings.started * 1000)
        adopts = None if self.settings.job else given_run()  # it may be the run of a whole sweep
        return Facts(uri, self.name, self.experiment, start_time, process, tags, adopts=adopts)

    @_recording
    def log_setup(self, setup: Mapping[str, str], data: Data) -> None:
        """`setup` is from `records.setup_tags`."""
        self.journal.log_tags(setup)
        self.journal.append("data", records.dataset_of(data))

    @_recording
    def log_epoch(self, record: Epoch) -> None:
        """Step = epoch, and for `train/loss_step` step = optimizer step. Sets `pruned` if a search
        need not see more of the run.
        """
        self._add_epoch(record)
        name, job = self.settings.objective, self.settings.job
        if not (record.complete and name and job):
            return
        if is_hopeless(self.curve, job.bounds, is_maximized(name)):
            self.pruned = True
            self.journal.log_tags({PRUNED_TAG: str(record.epoch)})
            print(
                f"Pruned after epoch {record.epoch}: {name} {self.curve[-1]:.4f}, other trials had "
                f"{job.bounds[record.epoch - 1]:.4f}; resume={self.id} trains it to its end"
            )

    def _add_epoch(self, record: Epoch) -> None:
        """A stopped epoch gets only those points that the whole epoch will have too."""
        for step, loss in record.steps:
            if record.complete or step % self.settings.log_interval == 0:
                self.journal.log_points({"train/loss_step": loss}, step)
        if not record.complete:
            return
        self.history.append(record)
        values = records.epoch_metrics(record) | records.best_metrics(self.history)
        self.journal.log_points(values, record.epoch)
        if self.settings.objective in values:
            self.curve.append(values[self.settings.objective])

    @_recording
    def log_training(self, checkpoint_seconds: float, recording: profile | None = None) -> None:
        """The end of the training, with what the profiler recorded, if it did."""
        self.checkpoint_seconds = checkpoint_seconds
        if recording:
            table = recording.key_averages().table("self_cpu_time_total", row_limit=25)
            self.journal.log_text(table, "profile/table.txt")
            self.journal.log_file(
                lambda p: recording.export_chrome_trace(str(p)), "profile/trace.json"
            )

    def log_test(self, model: nn.Module, data: Data, score: Score) -> None:
        """The end of a training that was not stopped: its score, and what shows the network."""
        self._log_score(model, score)
        if self.pictures:
            self._log_pictures(model, data, score)
        if self.model:
            self._log_model(model, data)
        if self.register_as:
            self._register(data)

    @_recording
    def _log_score(self, model: nn.Module, score: Score) -> None:
        self.journal.log_tags({WEIGHTS_TAG: records.weights_sha256(model)})
        self.journal.log_points(records.test_metrics(score), len(self.history))

    @_recording
    def _log_pictures(self, model: Any, data: Data, score: Score) -> None:
        """The time that it takes to draw them counts as logging."""
        from lenet.training.plots import gallery  # late: matplotlib takes a second to import

        for name, figure in gallery(model, data, self.history, score):
            self.journal.log_file(figure.savefig, f"pictures/{name}.png")

    def checkpoint_arguments(
        self, data: Data
    ) -> tuple[Path, dict[str, Any], Callable[[str], None], dict[str, Any] | None]:
        """The first arguments of `Checkpoints`: the folder, what each checkpoint says about its
        run, whom to tell, and the state to go on from.
        """
        facts = {"config_sha256": self.settings.sha256, "inputs": data.inputs.to_values()}
        state = self.past.state if self.past else None
        on_save = functools.partial(self.journal.append, "checkpoint")
        return self.folder / "checkpoints", facts, on_save, state

    @_recording
    def _log_model(self, model: nn.Module, data: Data) -> None:
        folder = self.folder / "model"
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier end
        self.journal.write(folder, lambda path: records.save_mlflow_model(model, data, path))
        self.journal.append("model", len(self.history))

    @_recording
    def _register(self, data: Data) -> None:
        """Has the logged model registered, with its validation score."""
        facts = records.score_for_registry(self.history, self.settings.patience)
        facts |= data_tags(data)
        self.journal.append("register", [self.register_as, len(self.history), facts])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        status = "FINISHED"
        if self.pruned or isinstance(error, KeyboardInterrupt | SystemExit | BrokenPipeError):
            status = "KILLED"
        elif error is not None:
            status = "FAILED"
        line = f"{type(error).__name__}: {first_error_line(error)}" if error else None
        self.journal.log_tags({ERROR_TAG: line})  # None: another process may have taken it for dead
        if status == "FAILED":
            self._log_error(error)
        elif self.checkpoint_seconds is not None:
            self._log_seconds(was_stopped=error is not None)
        if self._monitor:
            self._monitor.finish()
        self.journal.log_status(status)
        is_safe = self._sender.finish_run(self.wait)
        if not is_safe and error is None:
            raise TrackingError(
                f"records of run {self.id} are lost: neither MLflow nor {self.folder} has them all"
            )
        if self.past and not self.past.journal and status == "FINISHED":
            print(rerun_verdict(self.past.run_id, self.id, self.uri))

    @_recording
    def _log_error(self, error: BaseException | None) -> None:
        self.journal.log_text("".join(traceback.format_exception(error)), "error.txt")

    def _log_seconds(self, was_stopped: bool) -> None:
        """Where the time went. A run that was stopped logs it when it is resumed and ends."""
        elapsed = time.time() - self.settings.started
        before = self.past.seconds if self.past else 0.0
        training = sum(record.seconds for record in self.history)
        if not was_stopped:
            seconds = {
                "seconds/total": elapsed + before,
                "seconds/training": training,
                "seconds/logging": self.seconds,
                "seconds/checkpoints": self.checkpoint_seconds or 0.0,
            }
            self.journal.log_points(seconds, len(self.history))
        training = max(0.0, training - before)
        rest = max(0.0, elapsed - training - self.seconds)
        print(
            f"{elapsed:.1f} s: training {training:.1f}, logging {self.seconds:.1f}, "
            f"start-up, data and evaluation {rest:.1f}"
        )
