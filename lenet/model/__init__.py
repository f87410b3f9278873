"""LeNet-5, its layers, losses and relatives."""

from lenet.model.lenet5 import LeNet5

__all__ = ["LeNet5"]
