"""Which device holds the tensors, and how many threads compute."""

import os

import torch
from torch import nn


class DeviceError(ValueError):
    """The machine has no such device: one line that names those it has."""


def select(type: str = "auto", threads: int | None = None, kernels: str = "auto") -> torch.device:
    """The device, set up so that it gives the same bits again. Sets the number of CPU threads.

    `auto` is CUDA where there is one, else the CPU. MPS is used only by name: LeNet-5 is too small
    for its launches to pay. `threads` null leaves torch's own choice. `kernels` is for
    `lenet.native.equip`, which comes after the model is built.

    Raises: DeviceError where the machine has no such device, or not as many cores as threads.
    """
    cores = os.cpu_count() or 1
    if threads is not None and threads > cores:
        raise DeviceError(f"device.threads={threads}: expected 1 to {cores}, this machine's cores")
    has = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if type == "auto":
        type = "cuda" if has["cuda"] else "cpu"
    if not has.get(type, False):
        available = ", ".join(name for name, is_there in has.items() if is_there)
        raise DeviceError(f"device={type}: this machine has none; expected auto, {available}")
    if threads is not None:
        torch.set_num_threads(threads)
    if type == "cuda":
        # cuBLAS reads this at its first call. Without it, sums may come in any order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device(type)


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's parameters; the CPU for a model without any."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
