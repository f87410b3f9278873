"""The connection to the tracking store, MLflow's server or database, and its errors in one line."""

import getpass
import hashlib
import logging
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import requests
from filelock import FileLock, Timeout
from mlflow.entities import Experiment, Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from lenet.cli import first_error_line, shortened
from lenet.config.record import masked
from lenet.tracking.names import ID_TAG, SWEEP_KIND_TAG, TrackingError, Unreachable, home

FIRST_USE_SECONDS = 60.0  # to wait for another process that creates the database
REFUSALS = (MlflowException, requests.HTTPError)  # the latter for artifacts
logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("mlflow.store.db").setLevel(logging.CRITICAL)  # it raises what it logs
logging.getLogger("alembic").setLevel(logging.WARNING)


def own_uri() -> str:
    """The address of the database that is used if no other is given."""
    return sqlite_uri(home() / "mlflow.db")


def sqlite_uri(file: Path) -> str:
    """The address of an SQLite database; SQLAlchemy writes some characters as percent codes."""
    return URL.create("sqlite", database=str(file)).render_as_string(hide_password=False)


def resolved(uri: str | None) -> str:
    """The store's full address, which means the same in every folder."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or own_uri()
    database = sqlite_file(uri)
    return _moved(uri, database.absolute()) if database else uri


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite address, None for any other address."""
    with suppress(ArgumentError):
        url = make_url(uri)
        is_file = url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:")
        return Path(str(url.database)) if is_file and "uri" not in url.query else None
    return None


def _moved(uri: str, file: Path) -> str:
    """The same address with another file."""
    return make_url(uri).set(database=str(file)).render_as_string(hide_password=False)


def run_page(uri: str, experiment_id: str, run_id: str) -> str:
    """The address of a run's page: on the tracking server, else where `mlflow ui` serves it."""
    server = re.sub("//[^/@]*@", "//", uri) if uri.startswith("http") else "http://127.0.0.1:5000"
    page = f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
    return f"{server.rstrip('/')}/{page}"


def page_lines(uri: str, experiment_id: str, run_id: str) -> str:
    """Where a browser shows a run: its address, in the line after the command that serves it where
    no server runs.
    """
    page = run_page(uri, experiment_id, run_id)
    if uri.startswith("http"):
        return f"  {page}"
    ui = "mlflow ui"
    if uri != own_uri() or home() != Path.cwd():  # mlflow.db in this folder is its default
        ui += f" --backend-store-uri {shlex.quote(masked(uri))}"
    return f"  {ui}\n  {page}"


def is_there(uri: str | None) -> bool:
    """Whether the store can hold any run: not if its database does not exist yet."""
    database = sqlite_file(resolved(uri))
    return database is None or database.is_file()


def connect(uri: str | None = None, create: bool = True) -> MlflowClient:
    """A client of the store, which has answered a first request. A database that does not exist
    is created unless `create` is false.

    Raises: TrackingError where the store can't be used, Unreachable where it does not answer.
    """
    uri = resolved(uri)
    database = sqlite_file(uri)
    if database and not create and not database.is_file():
        raise TrackingError(f"tracking.uri={uri}: no such database, so no runs to read")
    if uri.startswith("http") and not urlsplit(uri).hostname:
        raise TrackingError(f"tracking.uri={masked(uri)}: expected http://HOST:PORT")
    mlflow.set_tracking_uri(uri)  # MLflow looks artifacts up by it
    try:
        is_database = "://" in uri and not uri.startswith(("http", "file:"))
        return _connect_to_database(uri, database) if is_database else _ask(uri)
    except Exception as error:  # sqlalchemy's, requests' and MLflow's own
        kind = Unreachable if is_passing(error, uri) else TrackingError
        text = f"tracking.uri={masked(uri)}: cannot be used ({reason(error)})"
        raise kind(text) from None


def _connect_to_database(uri: str, database: Path | None) -> MlflowClient:
    """Creates a new database under a lock, because two processes that do it at once both fail.
    A new file gets its name when it is complete, so a kill leaves no half database.
    """
    from mlflow.store.db import utils

    utils.MAX_RETRY_COUNT = 1  # instead of 10, which take 102 seconds
    # It takes percent codes for names: it would make a folder `a%2520b` beside the folder `a%20b`.
    utils._make_parent_dirs_if_sqlite = lambda db_uri: None
    with first_use_lock(uri):
        if database and not database.exists():
            database.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(
                prefix=".mlflow-", dir=database.parent, ignore_cleanup_errors=True
            ) as folder:
                new = Path(folder, "new.db")
                _ask(_moved(uri, new))
                os.replace(new, database)
        return _ask(uri)


def _ask(uri: str) -> MlflowClient:
    client = MlflowClient(uri)
    client.search_experiments(max_results=1)
    return client


def first_use_lock(uri: str) -> FileLock:
    """A lock for this user's processes on this machine, one for each address."""
    name = hashlib.sha256(uri.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir(), f"lenet-{getpass.getuser()}-{name}.lock")
    return FileLock(path, timeout=FIRST_USE_SECONDS)


def is_own(run: Run) -> bool:
    """Whether it is a run or a sweep of this lab: a store may hold other projects."""
    return ID_TAG in run.data.tags or SWEEP_KIND_TAG in run.data.tags


def find_experiment(client: MlflowClient, experiment: str | int) -> Experiment | None:
    """The experiment of that name, or with that number as its id.

    Raises: TrackingError where no experiment has the id.
    """
    if isinstance(experiment, str):
        return client.get_experiment_by_name(experiment)
    try:
        return client.get_experiment(str(experiment))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise TrackingError(
            f"tracking.experiment={experiment}: no experiment has this id"
        ) from None


def experiment_id_of(client: MlflowClient, experiment: str | int) -> str:
    """The experiment's id; one with a new name is created.

    Raises: TrackingError where no experiment has the id, or it is deleted.
    """
    found = find_experiment(client, experiment)
    if found is None:
        name = str(experiment)
        own = client.tracking_uri == own_uri()
        location = (home() / "mlruns").as_uri() if own else None
        try:
            # With this tag `mlflow ui` opens the experiment's page for training, with its charts.
            kind = {"mlflow.experimentKind": "custom_model_development"}
            return str(client.create_experiment(name, location, kind))
        except MlflowException:  # another process was first
            found = client.get_experiment_by_name(name)
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise TrackingError(
            f"experiment {found.name!r} is deleted; give another one, tracking.experiment=NAME, or "
            f"restore it: mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return str(found.experiment_id)


def reason(error: BaseException) -> str:
    """The first line of an error, short and without what MLflow wraps around it."""
    text = first_error_line(error)
    for pattern, short in _REASONS:
        if re.search(pattern, text):
            return short
    return shortened(masked(text), 200)


_REASONS = [
    ("Connection refused", "connection refused"),
    ("NameResolutionError|Name or service not known", "no such host"),
    ("[Tt]imed out|[Tt]imeout", "no answer in time"),
    ("Connection aborted|RemoteDisconnected|Connection reset", "connection lost"),
    ("too many (\\d+) error responses", "it answers with server errors"),
    ("filesystem tracking backend", "expected sqlite:///FILE or http://HOST:PORT"),
    ("^Expecting value: ", "it answers with something else than MLflow's JSON"),
]


def is_passing(error: Exception, uri: str) -> bool:
    """Whether a later try may succeed: the server is down, as opposed to it refuses."""
    if isinstance(error, Unreachable | Timeout):
        return True
    if isinstance(error, TrackingError | ImportError):  # no driver for the database
        return False
    if isinstance(error, MlflowException) and "API request to" not in str(error):  # MLflow answered
        status = error.get_http_status_code()
        if 400 <= status < 500 and status not in (408, 429):
            return False
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code not in (400, 413, 422)
    if uri.startswith("sqlite:"):
        words = "locked|busy|full|disk I/O|No space left|[Dd]isk quota"
        return bool(re.search(words, str(error)))
    return "://" in uri and not re.search("[Uu]nsupported URI|InvalidURL", str(error))


@contextmanager
def translated(client: MlflowClient, refused: str | None = None) -> Iterator[None]:
    """Turns MLflow's errors into one line: `refused` and the reason, or that the store is down.

    Raises: TrackingError, Unreachable.
    """
    try:
        yield
    except REFUSALS as error:
        is_down = is_passing(error, client.tracking_uri)
        if is_down or not refused:
            refused = f"tracking.uri={masked(client.tracking_uri)}: cannot be used"
        kind = Unreachable if is_down else TrackingError
        raise kind(f"{refused} ({reason(error)})") from None
