"""Fused C++ kernels for LeNet5 on a CPU."""

from lenet.native.equip import CHOICES, Chosen, KernelError, equip
from lenet.native.op import stopwatch

__all__ = ["CHOICES", "Chosen", "KernelError", "equip", "stopwatch"]
