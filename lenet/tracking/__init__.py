"""Runs in MLflow: what is recorded, sent, read back and resumed."""

from typing import Any

__all__ = ["Run"]


def __getattr__(name: str) -> Any:
    if name != "Run":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lenet.tracking.run import Run

    return Run
