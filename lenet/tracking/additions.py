"""What commands add to earlier runs: tags, metrics, parameters, artifacts."""

import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow.entities import Metric, Param, RunTag

from lenet.tracking.client import connect, run_page, translated
from lenet.tracking.read import checked_id


def add_records(
    run_id: str,
    uri: str | None = None,
    tags: Mapping[str, str] = {},
    metrics: Mapping[str, float] = {},
    params: Mapping[str, str] = {},
) -> None:
    """Raises: TrackingError where the store doesn't take them: a parameter can't change."""
    client, now = connect(uri, create=False), int(time.time() * 1000)
    points = [Metric(key, value, now, 0) for key, value in metrics.items()]
    with translated(client, f"{run_id}: takes no records"):
        client.log_batch(run_id, points, tags=[RunTag(*tag) for tag in tags.items()])
        client.log_batch(run_id, params=[Param(*param) for param in params.items()])


def add_artifacts(run_id: str, folder: Path, where: str, uri: str | None = None) -> str:
    """Logs the files in `folder` below the artifact path `where`.

    Returns: where to look at them.
    Raises: TrackingError.
    """
    client = connect(uri, create=False)
    with translated(client, f"{checked_id(run_id)}: takes no artifacts"):
        client.log_artifacts(run_id, str(folder), where)
        info = client.get_run(run_id).info
    if client.tracking_uri.startswith("http"):
        page = run_page(client.tracking_uri, info.experiment_id, run_id).partition("?")[0]
        return f"{page}/artifacts/{where}"
    place = f"{info.artifact_uri}/{where}"
    return unquote(urlsplit(place).path) if place.startswith("file:") else place
