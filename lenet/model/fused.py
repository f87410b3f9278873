"""LeNet5's forward by the native kernels, where they can compute it."""

import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor

from lenet.model.plan import Plan, Unsupported, check_images, is_traced, plan_for
from lenet.native.build import BuildError


class KernelError(ValueError):
    """The native kernels are asked for, and this model, batch or machine cannot have them. One line
    says why.
    """


class Fused:
    """The kernels of one model. `stages` is the method that they compute."""

    def __init__(self, stages: Callable[..., Any]) -> None:
        self.stages = stages
        self._plan: Plan | None = None
        self._reported: set[str] = set()

    def __reduce__(self) -> tuple[Any, ...]:
        return Fused, (self.stages,)  # a copy makes its own plan: a library cannot be copied

    def plan(self, model: Any) -> Plan:
        """Raises: Unsupported if the kernels cannot compute the model as it is now; BuildError."""
        if type(model).stages is not self.stages:
            raise Unsupported(f"they compute LeNet5, not {type(model).__name__}")
        self._plan = plan_for(model, self._plan)
        return self._plan

    def __call__(self, model: Any, x: Tensor) -> Tensor | None:
        """The output, or None where PyTorch must compute it. One line then says why; none for
        another device, where nobody expects the kernels.

        Shapes: (N, 1, 32, 32) -> (N, K).
        Raises: KernelError if the model's `kernels` is native and they have not computed it before.
        """
        must_be_native = model.kernels == "native" and self._plan is None
        if is_traced() or not (x.is_cpu or must_be_native):
            return None
        try:
            check_images(x)
            plan = self.plan(model)
            features = plan.kernels(x, plan.parameters())
        except (Unsupported, BuildError) as error:
            if must_be_native:
                raise KernelError(f"kernels=native: {error}") from None
            if str(error) not in self._reported:
                self._reported.add(str(error))
                report(error)
            return None
        output: Tensor = features if plan.has_output else model.fc3(features)
        return output


def report(reason: Exception) -> None:
    print(f"Eager PyTorch instead of the native kernels: {reason}", file=sys.stderr)
