"""What the tracking modules share that needs no MLflow: tags, errors, folders, commands to type."""

import os
import shlex
import shutil
import sys
from pathlib import Path

from lenet.config.labs import lab_folder
from lenet.config.record import masked

ROOT = Path(__file__).resolve().parents[2]
PROCESS_TAG, ID_TAG = "lenet.process", "lenet.id"
HEARTBEAT_TAG = "lenet.heartbeat"  # when the run's process was alive last, in seconds since 1970
PARENT_TAG, SWEEP_KIND_TAG = "mlflow.parentRunId", "lenet.sweep"
NOTE_TAG = "mlflow.note.content"  # the description on MLflow's pages
ERROR_TAG, PRUNED_TAG, WEIGHTS_TAG = "lenet.error", "lenet.pruned", "lenet.weights.sha256"
DEFAULT_EXPERIMENT = "lenet5"


class TrackingError(ValueError):
    """A tracking store or a run that can't be used: one line that says which, and why."""


class Unreachable(TrackingError):
    """A store that does not answer now, but may later."""


class Outdated(TrackingError):
    """Another process has had its turn at the run since."""


def home() -> Path:
    """The folder of mlflow.db and mlruns/: the checkout, or the current one if the package was
    installed without a checkout.
    """
    return ROOT if lab_folder() == ROOT else Path.cwd()


def waiting_root(folder: str | Path | None) -> Path:
    """The folder that holds the runs' folders. A relative one is taken from where run.py lies."""
    return home() / Path(folder or os.environ.get("LENET_RUNS") or "outputs").expanduser()


def chosen_experiment(given: str | int | None) -> str | int:
    """The experiment that was given, else the one that MLFLOW_EXPERIMENT_NAME or
    MLFLOW_EXPERIMENT_ID says: a name, or an id as a number.
    """
    if given is not None:
        return given
    if name := os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        return name
    number = os.environ.get("MLFLOW_EXPERIMENT_ID", "")
    return int(number) if number.isdecimal() else DEFAULT_EXPERIMENT


def given_run() -> str | None:
    """The run that MLFLOW_RUN_ID names, to be used instead of a new one. `mlflow run` sets it."""
    return os.environ.get("MLFLOW_RUN_ID") or None


def send_command(folder: Path, uri: str | None = None) -> str:
    """The command that sends a run's folder later, or with `uri` to the store there."""
    is_default = waiting_root(None) == folder.parent
    place = () if is_default else ("--folder", str(folder.parent))
    return command("send", folder.name, *place, uri=uri)


def command(*words: str, uri: str | None = None) -> str:
    """A command of this package for a shell like this process's, with `uri` for the store there.
    An address with a password is not printed: the shell takes it from its variable.
    """
    python = "python" if shutil.which("python") == sys.executable else sys.executable
    line = shlex.join([python, "-m", "lenet", *words])
    if uri is not None:
        is_secret = masked(uri) != uri
        line += ' --uri "$MLFLOW_TRACKING_URI"' if is_secret else f" --uri {shlex.quote(uri)}"
    return f"cd {shlex.quote(str(ROOT))} && {line}" if home() == ROOT != Path.cwd() else line
