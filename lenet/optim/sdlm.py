"""The paper's optimizer, which torch does not have."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lenet.optim.curvature import OutputCurvature, gauss_newton, second_backward

DIAGONALS = {"second_backward": second_backward, "gauss_newton": gauss_newton}


class SDLM(Optimizer):
    """Stochastic diagonal Levenberg-Marquardt: each parameter's learning rate is lr / (mu + h).

    h is the second derivative of the loss by the parameter, the mean over `samples` training
    examples. `fit` calls `measure` before each epoch; until then h is 0. For `curvature` and
    `output_curvature` see lenet.optim.curvature. `memory` is the share of the last h in the new
    one: with 0 the last one is forgotten, as in the paper, with 1 the first one stays.

    Source: LeCun et al. 1998, appendix C.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 5e-4,
        mu: float = 0.02,
        samples: int = 500,
        curvature: Literal["second_backward", "gauss_newton"] = "second_backward",
        output_curvature: OutputCurvature = "exact",
        memory: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "mu": mu})
        self.samples = samples
        self.curvature = curvature
        self.output_curvature: OutputCurvature = output_curvature
        self.memory = memory

    def measure(
        self, model: nn.Module, criterion: Callable[..., Tensor], inputs: Tensor, labels: Tensor
    ) -> None:
        """Computes h again, from these examples and for this optimizer's own parameters.

        Raises: CurvatureError if the model has a layer whose second derivatives are unknown.
        """
        diagonal = DIAGONALS[self.curvature](
            model, criterion, inputs, labels, self.output_curvature
        )
        own = {p for group in self.param_groups for p in group["params"]}
        for name, parameter in model.named_parameters():
            if parameter in own:
                state, new = self.state[parameter], diagonal[name].contiguous()
                state["curvature"] = new.lerp(state.get("curvature", new), self.memory)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                if "curvature" not in self.state[p]:
                    self.state[p]["curvature"] = torch.zeros_like(p)
                scale = self.state[p]["curvature"] + group["mu"]
                p.addcdiv_(p.grad, scale, value=-group["lr"])
        return loss
