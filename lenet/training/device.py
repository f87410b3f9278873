"""Where the tensors live, on how many threads, and what computes there."""

import os

import torch
from torch import nn

from lenet.native import CHOICES


class DeviceError(ValueError):
    """The machine has no such device: one line that says what it has."""


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are; the CPU for a model without any."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def select(type: str = "auto", threads: int | None = None, kernels: str = "auto") -> torch.device:
    """Sets the number of CPU threads and returns the device, ready to give the same bits again.

    `auto` takes CUDA where it is, else the CPU: LeNet-5 is too small for MPS to be worth its
    launches, so that is only taken when asked for. `threads` is null for torch's own choice.
    `kernels` is what `lenet.native.equip` will be asked for; here it must only fit the device.

    Raises: DeviceError where the device, or that many threads, or its kernels are not to be had.
    """
    cores = os.cpu_count() or 1
    if threads is not None and not 1 <= threads <= cores:
        raise DeviceError(f"device.threads={threads}: expected 1 to {cores}, this machine's cores")
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if type == "auto":
        type = "cuda" if there["cuda"] else "cpu"
    if not there.get(type, False):
        available = ", ".join(name for name, is_there in there.items() if is_there)
        problem = "this machine has none" if type in there else "there is no such device"
        raise DeviceError(f"device={type}: {problem}; expected auto, {available}")
    if kernels not in CHOICES:
        raise DeviceError(f"device.kernels={kernels}: expected one of {', '.join(CHOICES)}")
    if kernels == "native" and type != "cpu":
        raise DeviceError(f"device.kernels=native: these are for the CPU, the device is {type}")
    if threads is not None:
        torch.set_num_threads(threads)
    if type == "cuda":
        # Must be set before the first cuBLAS call; without it sums may come in any order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device(type)
