"""How a LeNet5 computes: by the fused C++ kernels, by eager PyTorch, or compiled by torch."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from lenet.model.fused import KernelError, report
from lenet.model.lenet5 import LeNet5
from lenet.model.plan import Unsupported
from lenet.native import get_threads
from lenet.native.build import BuildError

CHOICES = ("auto", "native", "eager", "compile")


@dataclass(frozen=True)
class Chosen:
    """`name` is native, eager or compile; `why` is one line. `threads` are those of the CPU."""

    name: str
    why: str
    threads: int

    def __str__(self) -> str:
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.name} kernels ({self.why}), {threads}"


def equip(model: nn.Module, device: torch.device | str = "cpu", kernels: Any = "auto") -> Chosen:
    """Sets how `model` computes, and returns what was chosen and why.

    `auto` takes the native kernels where it can. Elsewhere it takes eager PyTorch, and a line on
    standard error says why. The first use on a machine builds the kernels.

    Raises: KernelError if `native` is not possible, or for an unknown choice.
    """
    if kernels not in CHOICES:
        raise KernelError(f"device.kernels={kernels}: expected one of {', '.join(CHOICES)}")
    chosen = _chosen(model, torch.device(device).type, kernels)
    if isinstance(model, LeNet5):
        model.kernels = kernels if chosen.name == "native" else "eager"
    if chosen.name == "compile":
        model.compile()
    return chosen


def _chosen(model: Any, device: str, kernels: str) -> Chosen:
    if kernels in ("eager", "compile"):
        return Chosen(kernels, "as asked", torch.get_num_threads())
    try:
        if device != "cpu":
            raise Unsupported(f"the device is {device}")
        if type(model).forward is not LeNet5.forward:
            raise Unsupported(f"they compute LeNet5, not {type(model).__name__}")
        compiler = model.fused.plan(model).kernels.compiler
    except (Unsupported, BuildError) as error:
        if kernels == "native":
            raise KernelError(f"device.kernels=native: {error}") from None
        if device == "cpu":  # on another device nobody expects them
            report(error)
        return Chosen("eager", str(error), torch.get_num_threads())
    return Chosen("native", f"built by {compiler}", get_threads())
