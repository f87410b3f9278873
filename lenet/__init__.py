"""A laboratory for LeNet-5. Read in this order: model, data, training, tracking, then run.py.

The ten names of the tutorial that this began as can be imported from here. They are loaded when
they are first used, so that `import lenet` costs nothing.
"""

from importlib import import_module
from typing import Any

__all__ = [
    *("LeNet5", "MNISTDataset", "evaluate_model", "evaluate_per_class", "get_data_loaders"),
    *("load_model", "plot_training_loss", "save_model", "train_model", "visualize_samples"),
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lenet' has no attribute {name!r}")
    return getattr(import_module("lenet.tutorial"), name)


def __dir__() -> list[str]:
    return __all__
