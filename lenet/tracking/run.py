"""The life of a run in MLflow: it starts, records what it gets, and ends with a true status."""

import functools
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from torch.profiler import profile

from lenet.cli import first_error_line
from lenet.config.metrics import is_maximized
from lenet.data.sets import Data
from lenet.tracking import names, records, sender
from lenet.tracking.journal import Facts, Journal, unwritable
from lenet.tracking.names import ERROR_TAG, PRUNED_TAG, WEIGHTS_TAG, TrackingError
from lenet.tracking.objective import Result, is_hopeless
from lenet.tracking.provenance import process_identity
from lenet.tracking.saved_model import save_model
from lenet.tracking.settings import Settings, data_tags
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
    there to the store at `uri` during the training. On leaving, a store that fails gets `wait`
    seconds. What it has not taken by then stays in the folder, and a line says how to send it.

    Raises: TrackingError or JournalError on entering, where the store refuses the run or the folder
    can't be written; nothing is left then.
    """

    latest: ClassVar["Run | None"] = None  # of those that this process began

    def __init__(
        self,
        settings: Settings,
        uri: str | None = None,
        experiment: str | int | None = None,
        run_name: str | None = None,
        tags: Mapping[str, Any] | None = None,
        note: str | None = None,
        pictures: bool = True,
        picture_format: str = "png",
        model: bool = True,
        register_as: str | None = None,
        folder: str | None = None,
        wait: float = 30.0,
    ) -> None:
        self.settings = settings
        self.past = settings.past
        self.uri, self.note, self.register_as = uri, note, register_as
        self.experiment = names.chosen_experiment(experiment)
        self.name = run_name or settings.name
        self.tags = tags or {}
        self.pictures, self.model = pictures, model  # whether to log them
        self.picture_format = picture_format
        self.root, self.wait = names.waiting_root(folder), wait
        self.seconds = 0.0  # spent on logging
        self.checkpoint_seconds: float | None = None  # once the training is over
        self.pruned = False
        self.history: list[Epoch] = []  # whole epochs, those before a resume included
        self.curve: list[float] = []  # the objective after each of them

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
        value = self.journal.latest.get(self.settings.config["objective"] or "")
        return None if value is None else Result(value, self.curve, self.pruned)

    def __enter__(self) -> "Run":
        start, Run.latest = time.perf_counter(), self
        resumed = self.past.journal if self.past else None
        self.journal = resumed or Journal.create(self.root, self._facts())
        try:
            if resumed:
                resumed.resume_as(process_identity())
            else:
                records.log_start(self.journal, self.settings)
            begun = self.settings.sender, self.journal, self.uri
            self._sender = sender.begin(*begun, may_exist=resumed is not None)
            if not self._sender.wait_for_run(START_SECONDS):
                why = f"MLflow does not take this run yet ({self._sender.problem})"
                print(f"Warning: {why}; its records wait in {self.folder}", file=sys.stderr)
            if self.past and resumed:  # now that another process can't have the run any more
                records.log_resume(resumed, self.settings, self.past)
                for record in self.past.history:  # for the process may not have recorded the last
                    self._add_epoch(record)
        except BaseException as error:
            if hasattr(self, "_sender") and not isinstance(error, Exception):  # Ctrl-C
                self.__exit__(None, error, None)  # for MLflow may have the run
                raise
            self.journal.close(remove=resumed is None)
            if isinstance(error, OSError):
                raise unwritable(self.root, error) from None
            raise
        self.seconds += time.perf_counter() - start
        return self

    def _facts(self) -> Facts:
        uri, tags = sender.address_and_tags(self.settings.sender, self.uri)
        tags = records.start_tags(self.settings, self.tags, self.note, tags)
        start_time, process = int(self.settings.started * 1000), process_identity()
        adopts = None if self.settings.job else names.given_run()  # it may be that of a whole sweep
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
        name, job = self.settings.config["objective"], self.settings.job
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
            if record.complete or step % self.settings.config["log_interval"] == 0:
                self.journal.log_points({"train/loss_step": loss}, step)
        if not record.complete:
            return
        self.history.append(record)
        values = records.epoch_metrics(record) | records.best_metrics(self.history)
        self.journal.log_points(values, record.epoch)
        if (objective := self.settings.config["objective"]) in values:
            self.curve.append(values[objective])

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
            self._register(data, score)

    @_recording
    def _log_score(self, model: nn.Module, score: Score) -> None:
        self.journal.log_tags({WEIGHTS_TAG: records.weights_sha256(model)})
        self.journal.log_points(records.test_metrics(score), len(self.history))

    @_recording
    def _log_pictures(self, model: Any, data: Data, score: Score) -> None:
        """The time that it takes to draw them counts as logging."""
        from lenet.training.plots import gallery  # late: matplotlib takes a second to import
        from lenet.training.plots.style import save

        for name, figure in gallery(model, data, self.history, score, self.name, self.id):
            file = f"pictures/{name}.{self.picture_format}"
            self.journal.log_file(functools.partial(save, figure), file)

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
        self.journal.write(folder, lambda path: save_model(model, data, path))
        self.journal.append("model", len(self.history))

    @_recording
    def _register(self, data: Data, score: Score) -> None:
        """Has the logged model registered, with its validation score."""
        facts = records.score_for_registry(self.history, self.settings.config["patience"])
        text = records.version_description(self.settings, data, score, facts)
        version = [self.register_as, len(self.history), facts | data_tags(data), text]
        self.journal.append("register", version)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
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
        self.journal.log_status(status)
        is_safe = self._sender.finish_run(self.wait)
        if not is_safe and error is None:
            raise TrackingError(
                f"records of run {self.id} are lost: neither MLflow nor {self.folder} has them all"
            )
        if isinstance(error, KeyboardInterrupt | SystemExit):
            print(f"To continue: python run.py resume={self.id}")
        elif status == "FINISHED" and not self._sender.waiting:
            print(f"Look closer: python -m lenet explain {self.id[:8]}")
        if self.past and not self.past.journal and status == "FINISHED":
            from lenet.tracking.compare import rerun_verdict

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
