"""A laboratory for LeNet-5. Read in this order: model, data, training, tracking, then run.py.

`run`, `sweep`, `load_run` and `load_sweep` are for notebooks. The other ten names are those of the
tutorial that this began as. They are loaded when they are first used, so that `import lenet` costs
nothing.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "lenet.commands.run.notebook": ("run", "sweep"),
    "lenet.report.loaded": ("load_run", "load_sweep"),
    "lenet.tutorial": (
        *("LeNet5", "MNISTDataset", "evaluate_model", "evaluate_per_class", "get_data_loaders"),
        *("load_model", "plot_training_loss", "save_model", "train_model", "visualize_samples"),
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'lenet' has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
