"""What MLflow's own variables and context ask for, as in every program that logs to MLflow."""

from collections.abc import Mapping
from typing import Any

from mlflow.entities import RunTag
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.git_context import GitRunContext
from mlflow.tracking.context.registry import resolve_tags

from lenet.tracking.client import is_own
from lenet.tracking.names import ID_TAG, Outdated, TrackingError
from lenet.tracking.turns import check_turn, last_turn, take_turn


def adopt_run(client: MlflowClient, run_id: str, tags: Mapping[str, str], process: str) -> str:
    """Gives a run that exists to the process, with these tags but for those that it has. Returns:
    its id.

    Raises: TrackingError where another training or sweep has the run already.
    """
    run = client.get_run(run_id)
    try:
        if is_own(run) and run.data.tags.get(ID_TAG) != tags.get(ID_TAG, ""):
            raise Outdated
        check_turn(run_id, last_turn(run.data.params)[1], [process])
        take_turn(client, run, process)
    except Outdated:
        raise TrackingError(
            f"MLFLOW_RUN_ID={run_id}: another training or sweep has this run; unset MLFLOW_RUN_ID"
        ) from None
    new = [RunTag(key, text) for key, text in tags.items() if key not in run.data.tags]
    client.log_batch(run_id, tags=new)
    client.update_run(run_id, "RUNNING")
    return run_id


def context_tags() -> dict[str, str]:
    """The tags that MLflow's pages show as Created by and Source."""
    without: Any = [GitRunContext]  # `code_state` has the commit
    tags: dict[str, str] = resolve_tags(ignore=without)
    return tags


def start_monitor(run_id: str, uri: str, is_resumed: bool) -> SystemMetricsMonitor | None:
    """MLflow's monitor of processor and memory, where MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING asks
    for it. Its points go to the store directly.
    """
    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        return None
    monitor = SystemMetricsMonitor(run_id, resume_logging=is_resumed, tracking_uri=uri)
    monitor.start()
    return monitor
