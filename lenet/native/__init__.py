"""Fused C++ kernels for LeNet5 on a CPU."""

from lenet.native.equip import CHOICES, Chosen, KernelError, equip

__all__ = ["CHOICES", "Chosen", "KernelError", "equip"]
