"""A laboratory for LeNet-5. Read in this order: data, layers, model, train, evaluate.

The names of the tutorial this began as are here; each is imported when it is first used, so that
`import lenet` costs nothing and a command imports only what it needs.
"""

from importlib import import_module
from typing import Any

_HOME = {
    "MNISTDataset": "data.sets",
    "get_data_loaders": "data.sets",
    "visualize_samples": "training.plots",
    "LeNet5": "model.lenet5",
    "train_model": "training.loop",
    "evaluate_model": "training.evaluate",
    "evaluate_per_class": "training.evaluate",
    "save_model": "training.checkpoints",
    "load_model": "training.checkpoints",
    "plot_training_loss": "training.plots",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'lenet' has no attribute {name!r}")
    return getattr(import_module(f"lenet.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
