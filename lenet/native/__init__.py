"""Fused C++ kernels for LeNet-5 on a CPU."""

from lenet.native.op import get_threads, set_threads

__all__ = ["get_threads", "set_threads"]
