"""What MLflow's own variables and context ask for, as in every program that logs to MLflow."""

import os
from collections.abc import Mapping
from typing import Any

from mlflow.entities import RunTag
from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.tracking import MlflowClient
from mlflow.tracking.context.git_context import GitRunContext
from mlflow.tracking.context.registry import resolve_tags

from lenet.tracking.client import ID_TAG, TrackingError, is_own

DEFAULT_EXPERIMENT = "lenet5"


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


def adopt_run(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> str:
    """Gives these tags to a run that exists, but for those that it has. Returns: its id.

    Raises: TrackingError where another training or sweep has the run already.
    """
    run = client.get_run(run_id)
    if is_own(run) and run.data.tags.get(ID_TAG) != tags.get(ID_TAG, ""):
        raise TrackingError(
            f"MLFLOW_RUN_ID={run_id}: the run has a training already; unset MLFLOW_RUN_ID, or "
            f"continue the run with resume={run_id}"
        )
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
