"""Runs in MLflow: recording, sending, reading, resuming."""

import os
import warnings
from typing import Any

# MLflow reads its settings when it is imported, which happens in this package alone.
# No retries of MLflow's own: a repeated request whose answer was lost would make a second run.
os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")  # seconds; MLflow's default is 120
os.environ.setdefault("PGCONNECT_TIMEOUT", "10")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
warnings.filterwarnings("ignore", "IProgress not found")  # of MLflow's bars, which nobody sees

__all__ = ["Run"]


def __getattr__(name: str) -> Any:
    if name != "Run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lenet.tracking.run import Run

    return Run
