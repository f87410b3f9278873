"""A laboratory for LeNet-5. Read in this order: data, layers, model, train, evaluate.

The names of the tutorial this began as are here; each is imported when it is first used, so that
`import lenet` costs nothing and a command imports only what it needs.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "MNISTDataset": "data.sets",
    "get_data_loaders": "data.sets",
    "visualize_samples": "plots",
    "LeNet5": "model.lenet5",
    "train_model": "train",
    "evaluate_model": "evaluate",
    "evaluate_per_class": "evaluate",
    "save_model": "checkpoint",
    "load_model": "checkpoint",
    "plot_training_loss": "plots",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lenet' has no attribute {name!r}")
    return getattr(import_module(f"lenet.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
