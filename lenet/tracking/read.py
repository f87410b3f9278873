"""What is read from the tracking store: runs, sweeps, their points and artifacts."""

import math
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from lenet.config.record import masked
from lenet.tracking import registry
from lenet.tracking.client import connect, is_passing, reason, translated
from lenet.tracking.names import ID_TAG, SWEEP_KIND_TAG, TrackingError, Unreachable
from lenet.tracking.turns import TURN, is_worked_on, last_turn

RUN_ID = re.compile("[0-9a-f]{32}")
MAX_BYTES = 100_000  # of a text; a run's have 10,000, and PyYAML takes a second for this many
READERS = 8  # requests at a time
PAGE = 1000  # runs that one request returns


@dataclass(frozen=True)
class Summary:
    """A run with the newest value of each metric. Times in milliseconds.

    `holder` is the process that resumed it last, '' if none did: see `lenet.tracking.turns`.
    `points` has every point, after `with_points`: name -> (step, value) in the order of steps.
    """

    run_id: str
    name: str
    status: str
    start: int
    end: int | None
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]
    points: Mapping[str, list[tuple[int, float]]] = field(default_factory=dict)
    holder: str = ""
    stage: str = "active"  # or deleted
    experiment_id: str = ""

    @classmethod
    def of(cls, run: Run) -> "Summary":
        info, data = run.info, run.data
        name, start = info.run_name or "", info.start_time or 0
        return cls(
            *(info.run_id, name, info.status, start, info.end_time),
            *({k: v for k, v in data.params.items() if not TURN.fullmatch(k)}, data.tags),
            {name: _as_logged(value) for name, value in data.metrics.items()},
            holder=last_turn(data.params)[1],
            stage=info.lifecycle_stage,
            experiment_id=info.experiment_id,
        )

    @property
    def is_worked_on(self) -> bool | None:
        """Whether a living process writes the run; None if nobody can tell."""
        return is_worked_on(self.status, self.tags, self.holder)


def resolve_run(run: str, uri: str | None = None, sweep: bool = False) -> str:
    """The id of the run that a user means by its id, by the first letters of it (4 at least), by
    `latest` (the newest run, or with `sweep` the newest sweep), or by a registered model that it
    made: `models:/NAME@ALIAS`, `models:/NAME/VERSION`.

    Raises: TrackingError where there is none, or several, or the store can't be reached.
    """
    if RUN_ID.fullmatch(run):
        return run
    if run.startswith("models:/"):
        client = connect(uri, create=False)
        with translated(client):
            return checked_id(registry.run_of(client, run))
    if run != "latest" and not re.fullmatch("[0-9a-f]{4,31}", run):
        raise TrackingError(
            f"{quoted(run)}: expected a run's id, 32 hexadecimal digits or the first of them, 4 at "
            "least, latest, or models:/NAME@ALIAS"
        )
    client = connect(uri, create=False)
    with translated(client):
        if run == "latest":
            return _latest(client, sweep)
        runs = _newest(client, f"attributes.run_id LIKE '{run}%'")
        found = [str(each.info.run_id) for each in islice(runs, 2)]
    if len(found) == 1:
        return found[0]
    problem = f"no run id starts with {run!r} in {masked(client.tracking_uri)}"
    if found:
        problem = f"several run ids start with it: {', '.join(found)} ..."
    raise TrackingError(f"{run}: {problem}")


def _latest(client: MlflowClient, sweep: bool) -> str:
    for run in _newest(client, f"tags.`{SWEEP_KIND_TAG if sweep else ID_TAG}` LIKE '%'"):
        return str(run.info.run_id)
    kind, where = "sweep" if sweep else "run", masked(client.tracking_uri)
    raise TrackingError(f"latest: there is no {kind} yet in {where}")


def checked_id(run_id: str) -> str:
    """The id, which can't lead out of a folder or a URL. Raises: TrackingError for any other."""
    if not RUN_ID.fullmatch(run_id):
        raise TrackingError(f"{quoted(run_id)}: expected a run's id, 32 hexadecimal digits")
    return run_id


def quoted(run: str) -> str:
    """What was given for a run, so that it can be shown; an empty text is seen as such."""
    return (run if run.isprintable() and run else ascii(run))[:80]


def recent(count: int, uri: str | None = None) -> list[Summary]:
    """The newest finished runs that trained a network, the newest first.

    Raises: TrackingError where the store can't be reached.
    """
    client = connect(uri, create=False)
    with translated(client):
        runs = _newest(client, f"attributes.status = 'FINISHED' and tags.`{ID_TAG}` LIKE '%'")
        return [Summary.of(run) for run in islice(runs, count)]


def _newest(client: MlflowClient, wanted: str) -> Iterator[Run]:
    experiments = [each.experiment_id for each in client.search_experiments()]
    return search(client, experiments, wanted, "DESC", page=100)


def search(
    client: MlflowClient,
    experiments: Sequence[str],
    wanted: str,
    order: str = "ASC",
    page: int = PAGE,
) -> Iterator[Run]:
    """All runs that MLflow's filter `wanted` finds, by the time of their start."""
    token = None
    while True:
        found = client.search_runs(
            *(list(experiments), wanted),
            max_results=page,
            order_by=[f"attributes.start_time {order}"],
            page_token=token,
        )
        yield from found
        if not (token := found.token):
            return


def read_run(run_id: str, uri: str | None = None) -> Summary:
    """Raises: TrackingError where the store can't be reached, or has no such run."""
    client = connect(uri, create=False)
    with translated(client, f"{checked_id(run_id)}: no such run in {masked(client.tracking_uri)}"):
        return Summary.of(client.get_run(run_id))


def with_points(run: Summary, uri: str | None = None) -> Summary:
    """The run with all its points. Raises: TrackingError."""
    points: dict[str, list[tuple[int, float]]] = {}
    for _, name, step, value in read_points([run.run_id], sorted(run.metrics), uri):
        points.setdefault(name, []).append((step, value))
    return replace(run, points=points)


def points_of(client: MlflowClient, run_id: str, metric: str) -> list[tuple[int, float]]:
    """(step, value) in the order of steps."""
    points = client.get_metric_history(run_id, metric)
    ordered = sorted(points, key=lambda point: (point.step, point.timestamp))
    return [(point.step, _as_logged(point.value)) for point in ordered]


def _as_logged(value: float) -> float:
    """The value that was logged: MLflow's SQL stores keep infinity as the largest float."""
    return math.copysign(math.inf, value) if abs(value) == sys.float_info.max else value


@contextmanager
def fetched(run_id: str, artifact: str, uri: str | None = None) -> Iterator[Path | None]:
    """An artifact of a run as a temporary file; None where the run has none."""
    client = connect(uri, create=False)
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = Path(client.download_artifacts(checked_id(run_id), artifact, folder))
        except (MlflowException, OSError) as error:
            if isinstance(error, MlflowException) and is_passing(error, client.tracking_uri):
                raise Unreachable(f"{run_id}: {artifact}: {reason(error)}") from None
            found = Path(folder, "nothing")
        yield found if found.is_file() else None


def artifacts(run_id: str, folder: str, uri: str | None = None) -> list[str]:
    """The names of a run's artifacts in a folder. Raises: TrackingError."""
    client = connect(uri, create=False)
    with translated(client, f"{checked_id(run_id)}: no such run"):
        found = client.list_artifacts(run_id, folder)
        return [each.path.removeprefix(f"{folder}/") for each in found]


def read_text(run_id: str, artifact: str, uri: str | None = None) -> str:
    """A run's artifact as text. Raises: TrackingError where there is none, or it is no text."""
    with fetched(run_id, artifact, uri) as path:
        if path is None:
            check_is_no_sweep(read_run(run_id, uri))
            raise TrackingError(f"{run_id}: the run has no artifact {artifact}")
        return text_of(path)


def text_of(path: Path) -> str:
    """Raises: TrackingError where the file is no text, or larger than any that a run writes."""
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise TrackingError(f"{path.name}: expected at most {MAX_BYTES:,} bytes")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise TrackingError(f"{path.name}: expected a text") from None


def check_is_no_sweep(run: Summary) -> None:
    """Raises: TrackingError where the run is a sweep, which has no network of its own."""
    if SWEEP_KIND_TAG in run.tags:
        raise TrackingError(
            f"{run.run_id}: this is a sweep; take one of its runs, which python -m lenet runs "
            f"--sweep {run.run_id[:8]} lists. To continue a sweep, give its command again"
        )


def read_points(
    run_ids: Sequence[str], metrics: Sequence[str], uri: str | None = None
) -> list[tuple[str, str, int, float]]:
    """(run_id, metric, step, value) of all points, in the order of the arguments and of steps.

    MLflow has no call for several runs at once, so this is one request for each run and metric.

    Raises: TrackingError.
    """
    client = connect(uri, create=False)
    wanted = [(checked_id(run_id), metric) for run_id in run_ids for metric in metrics]
    with translated(client, "metrics: cannot be read"), ThreadPoolExecutor(READERS) as pool:
        histories = pool.map(lambda pair: points_of(client, *pair), wanted)
        return [
            (run_id, metric, step, value)
            for (run_id, metric), points in zip(wanted, histories, strict=True)
            for step, value in points
        ]
