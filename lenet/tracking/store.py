"""The tracking store, which is MLflow's: a database or a server. Every call of its client is here.

Whatever is sent here may be sent again without doubling anything, so that who sends need not know
whether an answer was lost.
"""

import getpass
import hashlib
import logging
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

# A request that MLflow itself repeats, because its answer was lost, makes a second run: see
# `Patient`. And a server that does not answer is given seconds, not minutes.
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("PGCONNECT_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"

import mlflow
import requests
from filelock import FileLock, Timeout
from mlflow.entities import (
    Dataset,
    DatasetInput,
    FileInfo,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from lenet.config.record import masked
from lenet.tracking import registry
from lenet.tracking.journal import FULL, Entry, Journal
from lenet.tracking.provenance import is_alive

ROOT = Path(__file__).resolve().parents[2]
PROCESS_TAG, ID_TAG = "lenet.process", "lenet.id"
PARENT_TAG, SWEEP_KIND_TAG = "mlflow.parentRunId", "lenet.sweep"
MOST_METRICS, MOST_PARAMS, MOST_CHARACTERS = 1000, 100, 6000  # of one request
FIRST_USE_SECONDS = 60.0  # that another process may take to make the database
RUN_ID = re.compile("[0-9a-f]{32}")
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)  # it logs what it raises, too
logging.getLogger("alembic").setLevel(logging.WARNING)


REFUSALS = (MlflowException, requests.HTTPError)  # what may be one; the latter of an artifact


class TrackingError(ValueError):
    """A tracking store or a run that can't be reached: one line that says which, and why."""


def home() -> Path:
    """Where mlflow.db and mlruns/ lie: beside run.py, or here where the package is installed."""
    return ROOT if (ROOT / "run.py").is_file() else Path.cwd()


def own_uri() -> str:
    return f"sqlite:///{home() / 'mlflow.db'}"


def resolved(uri: str | None) -> str:
    """The store that is meant, for a process that begins in another folder."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or own_uri()
    database = _database(uri)
    return f"sqlite:///{database.absolute()}" if database else uri


def _database(uri: str) -> Path | None:
    path = uri.removeprefix("sqlite:///")
    return Path(path) if path not in (uri, "", ":memory:") and "?" not in path else None


def is_there(uri: str | None) -> bool:
    """Whether there can be a run in it: not where its database is still to be made."""
    database = _database(resolved(uri))
    return database is None or database.is_file()


def connect(uri: str | None = None, create: bool = True) -> MlflowClient:
    """A client of `uri`, or else of the database beside run.py.

    Raises: TrackingError where there is no reaching it, or nothing to read with `create` false.
    """
    uri = resolved(uri)
    database = _database(uri)
    if database and not create and not database.is_file():
        raise TrackingError(f"tracking.uri={uri}: no such database, so no runs to read")
    if uri.startswith("http") and not urlsplit(uri).hostname:
        raise TrackingError(f"tracking.uri={masked(uri)}: expected http://HOST:PORT")
    mlflow.set_tracking_uri(uri)  # for what MLflow itself looks up, as it does for artifacts
    try:
        is_database = "://" in uri and not uri.startswith(("http", "file:"))
        client = _connect_to_database(uri, database) if is_database else _ask(uri)
    except Exception as error:  # sqlalchemy's, requests' and MLflow's own
        kind = Unreachable if is_passing(error, uri) else TrackingError
        text = f"tracking.uri={masked(uri)}: cannot be used ({reason(error)})"
        raise kind(text) from None
    return client


def _connect_to_database(uri: str, database: Path | None) -> MlflowClient:
    """MLflow's first use of a new database is not safe between processes, so it happens under a
    lock. Nor is it safe against a kill or a full disk: a new file gets its name once it is whole.
    """
    from mlflow.store.db import utils

    utils.MAX_RETRY_COUNT = 1  # of 10, which take 102 seconds
    with first_use_lock(uri):
        if database and not database.exists():
            database.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=database.parent, prefix=".mlflow-") as folder:
                _ask(f"sqlite:///{folder}/new.db")
                os.replace(f"{folder}/new.db", database)
        return _ask(uri)


def _ask(uri: str) -> MlflowClient:
    client = MlflowClient(uri)
    client.search_experiments(max_results=1)
    return client


class Unreachable(TrackingError):
    """A store that may well answer later."""


def first_use_lock(uri: str) -> FileLock:
    """A new database is made by one process at a time."""
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir(), f"lenet-{getpass.getuser()}-{name}.lock")
    return FileLock(path, timeout=FIRST_USE_SECONDS)


class Patient:
    """A client whose every request is made up to three times where it fails at once, so that a line
    that loses every third lets through what takes many. But not those that may not come twice.
    """

    def __init__(self, client: MlflowClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        request = getattr(self._client, name)
        if name in ("create_run", "create_logged_model") or not callable(request):
            return request

        def patient(*args: Any, **kwargs: Any) -> Any:
            for left in (2, 1, 0):
                start = time.monotonic()
                try:
                    return request(*args, **kwargs)
                except Exception as error:
                    slow = time.monotonic() - start > 1
                    if slow or not left or not is_passing(error, self._client.tracking_uri):
                        raise
            return None

        return patient


def reason(error: BaseException) -> str:
    """An error's first line, what MLflow wraps around a cause left out."""
    text = (str(error).strip() or type(error).__name__).split("\n")[0]
    for pattern, short in _REASONS:
        if re.search(pattern, text):
            return short
    return masked(text)[:200]


_REASONS = [
    ("Connection refused", "connection refused"),
    ("NameResolutionError|Name or service not known", "no such host"),
    ("[Rr]ead timed out|ReadTimeout", "no answer in time"),
    ("ConnectTimeout|timed out", "no answer in time"),
    ("Connection aborted|RemoteDisconnected|Connection reset", "connection lost"),
    ("too many (\\d+) error responses", "it answers with server errors"),
    ("filesystem tracking backend", "expected sqlite:///FILE or http://HOST:PORT"),
    ("^Expecting value: ", "it answers with something else than MLflow's JSON"),
]


def is_passing(error: Exception, uri: str) -> bool:
    """Whether it may go another time: a server that is down, not one that refuses."""
    if isinstance(error, Unreachable | Timeout):
        return True
    if isinstance(error, TrackingError | ImportError):  # the latter of a database's driver
        return False
    if isinstance(error, MlflowException) and "API request to" not in str(error):  # MLflow's word
        status = error.get_http_status_code()
        if 400 <= status < 500 and status not in (408, 429):
            return False
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code not in (400, 413, 422)
    if uri.startswith("sqlite:"):
        full = isinstance(error, OSError) and error.errno in FULL
        return full or bool(re.search("locked|busy|full|disk I/O", str(error)))
    return "://" in uri and not re.search("[Uu]nsupported URI|InvalidURL", str(error))


@contextmanager
def translated(client: MlflowClient) -> Iterator[None]:
    """MLflow's errors become TrackingErrors."""
    try:
        yield
    except MlflowException as error:
        kind = Unreachable if is_passing(error, client.tracking_uri) else TrackingError
        shown = masked(client.tracking_uri)
        raise kind(f"tracking.uri={shown}: cannot be used ({reason(error)})") from None


# ---- Sending ---------------------------------------------------------------------------------


def start_run(client: MlflowClient, journal: Journal, again: bool) -> str:
    """The id of the journal's run in MLflow, which is made unless an earlier try made it.

    Raises: TrackingError where its experiment is deleted.
    """
    facts = journal.facts
    experiment_id = experiment_id_of(client, facts["experiment"])
    if again and (found := _namesakes(client, experiment_id, journal)):
        return found[0]
    tags = {ID_TAG: facts["id"], PROCESS_TAG: facts["process"], **facts["tags"]}
    run = client.create_run(experiment_id, facts["start_time"], tags, facts["name"])
    return str(run.info.run_id)


def _namesakes(client: MlflowClient, experiment_id: str, journal: Journal) -> list[str]:
    """The ids of MLflow's runs that were made for this one, the first one first."""
    wanted = f"tags.`{ID_TAG}` = '{journal.facts['id']}'"
    found = client.search_runs([experiment_id], wanted, order_by=["attributes.start_time ASC"])
    return [run.info.run_id for run in found]


def experiment_id_of(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        own = client.tracking_uri == own_uri()
        location = (home() / "mlruns").as_uri() if own else None
        try:
            # The tag makes `mlflow ui` open the experiment as one of training, with its charts.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return str(client.create_experiment(name, location, kind))
        except MlflowException:  # another process was first
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"experiment {name!r} is deleted; restore it or give another name (tracking.experiment)"
        )
    return str(found.experiment_id)


def deliver(client: MlflowClient, journal: Journal, entries: Sequence[Entry]) -> int:
    """Sends the first of `entries`, with those after it that go along. Returns: their number."""
    run_id, (kind, value) = journal.facts["run_id"], entries[0]
    if kind == "metrics":
        return _deliver_metrics(client, run_id, entries)
    if kind == "params":
        params = [Param(key, text[:MOST_CHARACTERS]) for key, text in value.items()]
        for first in range(0, len(params), MOST_PARAMS):
            client.log_batch(run_id, params=params[first : first + MOST_PARAMS])
    elif kind == "tags":
        given = [RunTag(key, text) for key, text in value.items() if text is not None]
        client.log_batch(run_id, tags=given)
        gone = {key for key, text in value.items() if text is None}
        for key in gone and gone & set(client.get_run(run_id).data.tags):
            client.delete_tag(run_id, key)
    elif kind == "data":
        context = [InputTag("mlflow.data.context", "training")]
        client.log_inputs(run_id, [DatasetInput(Dataset(**value), context)])
    elif kind == "artifact":
        path = journal.place(f"artifacts/{value}")
        if path.exists():  # else an earlier process sent it, or could not write it
            _upload(client, run_id, path, value)
    elif kind == "checkpoint":
        later = any(other == "checkpoint" for other, _ in entries[1:])
        _deliver_checkpoint(client, run_id, journal.folder / "checkpoints" / value, later)
    elif kind == "model":
        _deliver_model(client, journal, value)
    elif kind == "register":
        _deliver_version(client, journal, *value)
    elif kind == "status":
        status, end_time = value
        if status == "RUNNING":
            client.update_run(run_id, status)
        else:
            client.set_terminated(run_id, status, end_time)
            _delete_twins(client, journal)
    return 1


def check_run(client: MlflowClient, run_id: str) -> None:
    """Raises: TrackingError where the run is gone: who deleted it wants no more of its records."""
    try:
        stage = client.get_run(run_id).info.lifecycle_stage
    except MlflowException as error:
        if is_passing(error, client.tracking_uri) or error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        stage = "deleted"
    if stage != "active":
        raise TrackingError(f"run {run_id} is deleted there; mlflow runs restore brings it back")


def _delete_twins(client: MlflowClient, journal: Journal) -> None:
    """A server may carry out a request long after who sent it went away, and made another run."""
    run_id = journal.facts["run_id"]
    experiment_id = client.get_run(run_id).info.experiment_id
    for twin in _namesakes(client, experiment_id, journal):
        if twin != run_id:
            client.delete_run(twin)


def _deliver_metrics(client: MlflowClient, run_id: str, entries: Sequence[Entry]) -> int:
    """As many entries as go into one request; the same point sent again changes nothing."""
    points: list[Metric] = []
    count = 0
    for kind, value in entries:
        if kind != "metrics" or (points and len(points) + len(value) > MOST_METRICS):
            break
        points += [Metric(*point) for point in value]
        count += 1
    for first in range(0, len(points), MOST_METRICS):
        client.log_batch(run_id, metrics=points[first : first + MOST_METRICS])
    return count


def _upload(client: MlflowClient, run_id: str, path: Path, artifact: str) -> None:
    folder = str(Path(artifact).parent) if "/" in artifact else None
    client.log_artifact(run_id, str(path), folder)
    _check_arrived(client.list_artifacts(run_id, folder), path, artifact)


def _check_arrived(found: Sequence[FileInfo], path: Path, artifact: str) -> None:
    """MLflow does not look at the answer to an upload: anything that answers 200 will do."""
    if not _has_arrived(found, path, artifact):
        raise Unreachable(f"{artifact} was sent, but did not arrive")


def _has_arrived(found: Sequence[FileInfo], path: Path, artifact: str) -> bool:
    size = path.stat().st_size
    return any(file.path == artifact and file.file_size in (None, size) for file in found)


def _deliver_checkpoint(client: MlflowClient, run_id: str, path: Path, later: bool) -> None:
    """First as the previous one, then as the last: while either is written, the other is whole.

    One that was pruned, or that a later one follows, need not be sent.
    """
    if later:
        return
    for name in ("checkpoint.previous.pt", "checkpoint.pt"):
        with tempfile.TemporaryDirectory() as folder:
            try:
                shutil.copyfile(path, Path(folder, name))
            except FileNotFoundError:
                return
            _upload(client, run_id, Path(folder, name), name)


def _deliver_model(client: MlflowClient, journal: Journal, step: int) -> None:
    """The folder that `lenet.tracking.run` made of the network -> MLflow's logged model `model`, as
    mlflow.pytorch.log_model makes it. A run has one: an upload that was cut off is gone on with,
    the model of an earlier end is deleted.
    """
    from mlflow.models import Model

    run_id = journal.facts["run_id"]
    run = client.get_run(run_id)
    outputs = run.outputs.model_outputs if run.outputs else []
    steps = {output.model_id: output.step for output in outputs}
    experiment_id, model = run.info.experiment_id, None
    # Not those that the run names: the answer of one that was made may have been lost.
    for old in client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'"):
        if model is None and steps.get(old.model_id, step) == step:
            model = old
        elif registry.VERSIONS_TAG not in old.tags:
            client.delete_logged_model(old.model_id)
    folder = journal.place("model")
    if (model and model.status == LoggedModelStatus.READY) or not (folder / "MLmodel").exists():
        return
    if model is None:
        model = client.create_logged_model(experiment_id, "model", run_id, params=run.data.params)
    if model.model_id not in steps:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
    about = Model.load(str(folder))
    about.run_id, about.model_uuid, about.model_id = run_id, model.model_id, model.model_id
    about.artifact_path = model.artifact_location
    about.save(str(folder / "MLmodel"))
    _upload_model(client, model.model_id, folder)
    values = [point for kind, value in journal.entries if kind == "metrics" for point in value]
    points = [
        Metric(key, number, when, at, model_id=model.model_id, run_id=run_id)
        for key, number, when, at in values
        if at == step
    ]
    for first in range(0, len(points), MOST_METRICS):
        client.log_batch(run_id, metrics=points[first : first + MOST_METRICS])
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _deliver_version(
    client: MlflowClient, journal: Journal, name: str, step: int, facts: Mapping[str, str]
) -> None:
    """The run's model of that step becomes a version of the registered model `name`."""
    run_id = journal.facts["run_id"]
    run = client.get_run(run_id)
    outputs = run.outputs.model_outputs if run.outputs else []
    for model_id in [output.model_id for output in outputs if output.step == step]:
        print(registry.register(client, name, run_id, model_id, facts))


def _upload_model(client: MlflowClient, model_id: str, folder: Path) -> None:
    """File by file, but those that an upload that was cut off brought there."""
    there: dict[str | None, Sequence[FileInfo]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        where = name.rpartition("/")[0] or None
        if where not in there:
            there[where] = client.list_logged_model_artifacts(model_id, where)
        if _has_arrived(there[where], path, name):
            continue
        with tempfile.TemporaryDirectory() as alone:  # MLflow takes folders
            shutil.copyfile(path, Path(alone, path.name))
            client.log_model_artifacts(model_id, alone, where)
        _check_arrived(client.list_logged_model_artifacts(model_id, where), path, name)


def mend_orphans(client: MlflowClient, but: str) -> list[str]:
    """Marks as KILLED the runs of this machine whose process is gone. Returns: their ids."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    running = client.search_runs(experiments, "attributes.status = 'RUNNING'", max_results=1000)
    mended = []
    for run in running:
        host, *process = run.data.tags.get(PROCESS_TAG, "").split()[:3] or [""]
        if run.info.run_id == but or host != platform.node() or is_alive(*process):
            continue
        client.set_tag(run.info.run_id, "error", "its process ended without setting a status")
        client.set_terminated(run.info.run_id, "KILLED")
        mended.append(run.info.run_id)
    return mended


# ---- Reading ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stored:
    """A run as MLflow has it. `metrics` maps each name to its points (step, value) in order."""

    run_id: str
    name: str
    experiment: str
    status: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, list[tuple[int, float]]]


def read_run(run_id: str, uri: str | None = None) -> Stored:
    """Raises: TrackingError where the store can't be reached, or has no such run."""
    client = connect(uri, create=False)
    try:
        run: Run = client.get_run(checked_id(run_id))
        metrics = {name: client.get_metric_history(run_id, name) for name in run.data.metrics}
        experiment = client.get_experiment(run.info.experiment_id).name
    except MlflowException as error:
        if is_passing(error, client.tracking_uri):
            raise Unreachable(f"{run_id}: {reason(error)}") from None
        raise TrackingError(f"{run_id}: no such run ({reason(error)})") from None
    ordered = {
        name: [(p.step, p.value) for p in sorted(points, key=lambda p: (p.step, p.timestamp))]
        for name, points in sorted(metrics.items())
    }
    tags, info = run.data.tags, run.info
    return Stored(run_id, info.run_name, experiment, info.status, run.data.params, tags, ordered)


def named(run: str, uri: str | None = None, sweep: bool = False) -> str:
    """The id of a run that is told by its id, by the first letters of one (4 at least), as
    `latest` (the newest run, or with `sweep` the newest sweep), or by a registered model that it
    made: `models:/NAME@ALIAS`, `models:/NAME/VERSION`.

    Raises: TrackingError where there is none, or several, or the store can't be reached.
    """
    if RUN_ID.fullmatch(run):
        return run
    if run.startswith("models:/"):
        client = connect(uri, create=False)
        with translated(client):
            try:
                return checked_id(registry.run_of(client, run))
            except ValueError as error:
                raise TrackingError(f"{ascii(run)[1:-1][:80]}: {error}") from None
    if run != "latest" and not re.fullmatch("[0-9a-f]{4,31}", run):
        raise TrackingError(
            f"{quoted(run)}: expected a run's id, 32 hexadecimal digits or the first of them, 4 at "
            "least, latest, or models:/NAME@ALIAS"
        )
    client = connect(uri, create=False)
    kinds = f"tags.`{SWEEP_KIND_TAG}` LIKE '%'"
    wanted = f"attributes.run_id LIKE '{run}%'" if run != "latest" else kinds if sweep else ""
    runs = _newest(client, wanted)
    if not wanted:
        runs = _trained(runs)
    with translated(client):
        found = [each.info.run_id for each in islice(runs, 2)]
    if not found:
        what = "sweep" if sweep else "run"
        nothing = f"there is no {what} yet" if run == "latest" else "no run's id begins so"
        raise TrackingError(f"{run}: {nothing} in {masked(client.tracking_uri)}")
    if run != "latest" and len(found) > 1:
        raise TrackingError(f"{run}: several runs' ids begin so: {', '.join(found[:3])} ...")
    return found[0]


def recent(count: int, uri: str | None = None) -> list[tuple[str, str]]:
    """Id and name of the newest finished runs that trained a network.

    Raises: TrackingError where the store can't be reached.
    """
    client = connect(uri, create=False)
    runs = _trained(_newest(client, "attributes.status = 'FINISHED'"))
    with translated(client):
        return [(run.info.run_id, run.info.run_name) for run in islice(runs, count)]


def _trained(runs: Iterator[Run]) -> Iterator[Run]:
    # MLflow can't be asked for runs without a tag; a sweep's own run was never trained.
    return (run for run in runs if SWEEP_KIND_TAG not in run.data.tags)


def _newest(client: MlflowClient, wanted: str) -> Iterator[Run]:
    experiments = [each.experiment_id for each in client.search_experiments()]
    token = None
    while True:
        page = client.search_runs(
            *(experiments, wanted),
            max_results=100,
            order_by=["attributes.start_time DESC"],
            page_token=token,
        )
        yield from page
        if not (token := page.token):
            return


def set_tags(run_id: str, tags: Mapping[str, str], uri: str | None = None) -> None:
    """Raises: TrackingError where the store doesn't take them."""
    try:
        entries = [RunTag(key, value) for key, value in tags.items()]
        connect(uri, create=False).log_batch(checked_id(run_id), tags=entries)
    except MlflowException as error:
        raise TrackingError(f"{run_id}: {reason(error)}") from None


@contextmanager
def fetched(run_id: str, artifact: str, uri: str | None = None) -> Iterator[Path | None]:
    """An artifact of a run, as a file that is gone afterwards; None where the run has none."""
    client = connect(uri, create=False)
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = Path(client.download_artifacts(checked_id(run_id), artifact, folder))
        except (MlflowException, OSError) as error:
            if isinstance(error, MlflowException) and is_passing(error, client.tracking_uri):
                raise Unreachable(f"{run_id}: {artifact}: {reason(error)}") from None
            found = Path(folder, "nothing")
        yield found if found.is_file() else None


def checked_id(run_id: str) -> str:
    """Raises: TrackingError where it is no id: what is one can't lead out of a folder or a URL."""
    if not RUN_ID.fullmatch(run_id):
        raise TrackingError(f"{quoted(run_id)}: expected a run's id, 32 hexadecimal digits")
    return run_id


def quoted(run: str) -> str:
    """What was given for a run's name, to be told that it is none; an empty one is seen."""
    return (run if run.isprintable() and run else ascii(run))[:80]
