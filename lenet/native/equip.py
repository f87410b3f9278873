"""How a LeNet5 computes: by the fused C++ kernels, by eager PyTorch, or compiled by torch."""

import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lenet.model.lenet5 import LeNet5
from lenet.native.build import BuildError
from lenet.native.plan import Plan, Unsupported, check_images, is_traced, plan_for

CHOICES = ("auto", "native", "eager", "compile")


class KernelError(ValueError):
    """`device.kernels` names kernels that this model or machine cannot have. One line says why."""


@dataclass(frozen=True)
class Chosen:
    """`name` is native, eager or compile; `why` is one line."""

    name: str
    why: str

    def __str__(self) -> str:
        return f"{self.name} kernels ({self.why})"


class FusedLeNet5:
    """Computes a LeNet5 with the kernels. A batch that they cannot take goes through the model's
    own layers, and one line says why.
    """

    def __init__(self, model: LeNet5) -> None:
        self.model = model
        self._plan: Plan | None = None
        self._reported: set[str] = set()

    def plan(self) -> Plan:
        """Raises: Unsupported if the kernels cannot compute the model as it is now; BuildError."""
        self._plan = plan_for(self.model, self._plan)
        return self._plan

    def forward(self, x: Tensor) -> Tensor:
        """Shapes: (N, 1, 32, 32) -> (N, K)."""
        if is_traced():
            return LeNet5.forward(self.model, x)
        try:
            check_images(x)
            plan = self.plan()
            features = plan.kernels(x, plan.parameters())
        except (Unsupported, BuildError) as error:
            if str(error) not in self._reported:
                self._reported.add(str(error))
                _report(error)
            return LeNet5.forward(self.model, x)
        output: Tensor = features if plan.has_output else self.model.fc3(features)
        return output

    def __getstate__(self) -> dict[str, Any]:
        # A copy makes its own plan: a library cannot be copied.
        return vars(FusedLeNet5(self.model))


def _report(reason: Exception) -> None:
    print(f"Eager PyTorch instead of the native kernels: {reason}", file=sys.stderr)


def equip(model: nn.Module, device: torch.device | str = "cpu", kernels: str = "auto") -> Chosen:
    """Sets how `model` computes, and returns what was chosen and why.

    `auto` takes the native kernels where it can. Elsewhere it takes eager PyTorch, and a line on
    standard error says why. The first use on a machine builds the kernels.

    Raises: KernelError if `native` is not possible, or for an unknown choice.
    """
    if kernels not in CHOICES:
        raise KernelError(f"device.kernels={kernels}: expected one of {', '.join(CHOICES)}")
    if fused_lenet5(model):
        del vars(model)["forward"]
    if kernels == "eager":
        return Chosen("eager", "as asked")
    if kernels == "compile":
        model.compile()
        return Chosen("compile", "as asked")
    kind = torch.device(device).type
    try:
        if kind != "cpu":
            raise Unsupported(f"the device is {kind}")
        if not isinstance(model, LeNet5) or "forward" in vars(model):
            raise Unsupported(f"they compute LeNet5, not {type(model).__name__}")
        fused = FusedLeNet5(model)
        about = fused.plan().kernels.about
    except (Unsupported, BuildError) as error:
        if kernels == "native":
            raise KernelError(f"device.kernels=native: {error}") from None
        if kind == "cpu":  # on another device nobody expects them
            _report(error)
        return Chosen("eager", str(error))
    vars(model)["forward"] = fused.forward
    return Chosen("native", f"built by {about}")


def fused_lenet5(model: nn.Module) -> FusedLeNet5 | None:
    """What computes `model` with the kernels, or None where it computes another way."""
    owner = getattr(vars(model).get("forward"), "__self__", None)
    return owner if isinstance(owner, FusedLeNet5) else None
