"""Layers that torch.nn lacks."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Table I of the paper: the S2 maps that feed each C3 map.
TABLE_I = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)


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


class Subsample(nn.Module):
    """The paper's pooling: f(coefficient * sum of each 2x2 block + bias), one pair a map.

    It begins as the mean of the block: coefficient 1/4, bias 0.

    Shapes: (N, channels, H, W) -> (N, channels, H/2, W/2).
    Source: LeCun et al. 1998, section II.B, layers S2 and S4.
    """

    def __init__(self, channels: int, activation: nn.Module) -> None:
        super().__init__()
        self.coefficient = nn.Parameter(torch.full((channels,), 0.25))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        sums = 4 * F.avg_pool2d(x, 2)
        output: Tensor = self.activation(
            self.coefficient[:, None, None] * sums + self.bias[:, None, None]
        )
        return output


class ConnectedConv2d(nn.Module):
    """A convolution where `table` says which input maps feed each output map.

    Only the connections that exist have weights: (connections, kernel_size, kernel_size), in the
    table's order.

    Shapes: (N, in_channels, H, W) -> (N, len(table), H - kernel_size + 1, W - kernel_size + 1).
    Raises: ValueError where the table names a map that is not there, or one twice.
    """

    pairs: Tensor

    def __init__(self, in_channels: int, table: Sequence[Sequence[int]], kernel_size: int) -> None:
        super().__init__()
        for maps in table:
            if not set(maps) <= set(range(in_channels)) or len(set(maps)) < len(maps):
                raise ValueError(
                    f"table: expected different maps from 0 to {in_channels - 1}, got {list(maps)}"
                )
        self.in_channels, self.out_channels = in_channels, len(table)
        self.kernel_size = (kernel_size, kernel_size)
        pairs = [(out, into) for out, maps in enumerate(table) for into in maps]
        self.register_buffer("pairs", torch.tensor(pairs).T, persistent=False)
        self.weight = nn.Parameter(torch.empty(len(pairs), kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(len(table)))
        # As torch.nn.Conv2d does it, each output with its own number of inputs.
        with torch.no_grad():
            fan_in = torch.tensor([len(maps) for maps in table]) * kernel_size**2
            bounds = fan_in.rsqrt()
            self.weight.uniform_(-1, 1).mul_(bounds[self.pairs[0]][:, None, None])
            self.bias.uniform_(-1, 1).mul_(bounds)

    def dense_weight(self) -> Tensor:
        """The weights among zeros, as torch.nn.Conv2d has them."""
        shape = (self.out_channels, self.in_channels, *self.kernel_size)
        return self.weight.new_zeros(shape).index_put(tuple(self.pairs), self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.dense_weight(), self.bias)
