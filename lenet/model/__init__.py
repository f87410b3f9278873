"""LeNet-5, its layers and losses, and the networks that its paper compares with it."""

from lenet.model.lenet5 import LeNet5

__all__ = ["LeNet5"]
