"""Optimizers that torch lacks."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lenet.optim.curvature import gauss_newton, second_backward

DIAGONALS = {"second_backward": second_backward, "gauss_newton": gauss_newton}


class SDLM(Optimizer):
    """Stochastic diagonal Levenberg-Marquardt: each parameter w has its own learning rate
    lr / (mu + h), with h the second derivative of the loss by w, on average over `samples` training
    examples. `fit` has it measured before each epoch, through `measure`; until then h is 0.

    `curvature` is `second_backward`, the paper's, or `gauss_newton`, the whole diagonal of which
    that is an approximation; see lenet.optim.curvature.

    Source: LeCun et al. 1998, appendix C.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 5e-4,
        mu: float = 0.02,
        samples: int = 500,
        curvature: Literal["second_backward", "gauss_newton"] = "second_backward",
    ) -> None:
        super().__init__(params, {"lr": lr, "mu": mu})
        self.samples = samples
        self.curvature = curvature

    def measure(
        self, model: nn.Module, criterion: Callable[..., Tensor], inputs: Tensor, labels: Tensor
    ) -> None:
        """Takes h anew from these examples; parameters that are none of this optimizer's are left
        out.

        Raises: CurvatureError where the model has a layer without a rule for it.
        """
        diagonal = DIAGONALS[self.curvature](model, criterion, inputs, labels)
        own = {p for group in self.param_groups for p in group["params"]}
        for name, parameter in model.named_parameters():
            if parameter in own:
                self.state[parameter]["curvature"] = diagonal[name].contiguous()

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
