"""Which device holds the tensors, and how many threads compute."""

import os

import torch
from torch import nn

from lenet.native import set_threads

TORCHS_CHOICE = torch.get_num_threads()  # before `select` changes it


class DeviceError(ValueError):
    """The machine has no such device: one line that names those it has."""


def select(type: str = "auto", threads: int | None = None, kernels: str = "auto") -> torch.device:
    """The device, set up so that it gives the same bits again. Sets the number of CPU threads.

    `auto` is CUDA where there is one, else the CPU; `cuda:1` is the second GPU. MPS is used only by
    name: LeNet-5 is too small for its launches to pay. `kernels` is for `lenet.model.equip`, which
    comes after the model is built.

    With `threads` null the native kernels take as many as torch would, and PyTorch's own operators
    one: with two they are slower than with one as soon as another program is busy.

    Raises: DeviceError where the machine has no such device, or not as many cores as threads.
    """
    cores = os.cpu_count() or 1
    if threads is not None and threads > cores:
        raise DeviceError(f"device.threads={threads}: expected 1 to {cores}, this machine's cores")
    gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    available = ["cpu", *(["cuda"] if gpus else []), *gpus]
    available += ["mps"] if torch.backends.mps.is_available() else []
    if type == "auto":
        type = "cuda" if gpus else "cpu"
    if type not in available:
        raise DeviceError(
            f"device.type={type}: this machine has none; expected auto, {', '.join(available)}"
        )
    torch.set_num_threads(threads or 1)
    set_threads(threads or TORCHS_CHOICE)
    if type.startswith("cuda"):
        # cuBLAS reads this at its first call. Without it, sums may come in any order.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device(type)


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's parameters; the CPU for a model without any."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
