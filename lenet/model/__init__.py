"""LeNet-5, its layers and losses, and the networks that its paper compares with it."""

from lenet.model.equip import CHOICES, Chosen, equip
from lenet.model.fused import KernelError
from lenet.model.lenet5 import LeNet5

__all__ = ["CHOICES", "Chosen", "KernelError", "LeNet5", "equip"]
