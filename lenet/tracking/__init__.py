"""Runs in MLflow: recording, sending, reading, resuming."""

from typing import Any

__all__ = ["Run"]


def __getattr__(name: str) -> Any:
    if name != "Run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lenet.tracking.run import Run

    return Run
