"""Data sets: files, checked tensors, splits, batches."""

from typing import Any

__all__ = ["load", "load_files"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lenet.data import sets

    return getattr(sets, name)
