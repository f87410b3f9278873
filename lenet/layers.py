"""Layers that torch.nn lacks."""

import torch
from torch import Tensor, nn


class ScaledTanh(nn.Module):
    """The paper's squashing function, A tanh(S a): f(1) = 1 and f(-1) = -1.

    Source: LeCun et al. 1998, appendix A: A = 1.7159, S = 2/3.
    """

    def __init__(self, amplitude: float = 1.7159, slope: float = 2 / 3) -> None:
        super().__init__()
        self.amplitude = amplitude
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        return self.amplitude * torch.tanh(self.slope * x)

    def extra_repr(self) -> str:
        return f"amplitude={self.amplitude}, slope={self.slope:.6g}"
