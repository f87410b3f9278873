"""The paper's layers that torch.nn does not have, and how their weights start."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Initialisation = Literal["torch", "lecun1998", "released"]
# Table I of the paper: the S2 maps that feed each C3 map.
TABLE_I = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)
# Figure 3 of the paper: the ten digits as 7x12 bitmaps.
_FIGURE_3 = """
    .#####.  ...##..  .#####.  #######  .#####.  .#####.  ..####.  #######  .#####.  .#####.
    .......  ..###..  .......  .....##  .......  .......  .##....  .....##  ##...##  ##..###
    ..###..  .####..  .#####.  ....##.  .......  #######  ##.....  .....##  ##...##  ##...##
    .##.##.  ...##..  ##...##  ...##..  .##..##  ##.....  ##.....  ....##.  ##...##  ##...##
    ##...##  ...##..  #....##  ..####.  .##..##  ##.....  ######.  ...##..  .#####.  ##..###
    ##...##  ...##..  ....##.  .....##  ###..##  .####..  ###..##  ...##..  ##...##  .######
    ##...##  ...##..  ..###..  .....##  ##...##  ..####.  ##...##  ..##...  ##...##  .....##
    ##...##  ...##..  .##....  .....##  ##...##  .....##  ##...##  ..##...  ##...##  .....##
    .##.##.  ...##..  ##.....  ##...##  ##..###  ##...##  ###..##  ..##...  ##...##  ....##.
    ..###..  .######  #######  .#####.  .######  .#####.  .#####.  ..##...  .#####.  .####..
    .......  .......  .......  .......  .....##  .......  .......  .......  .......  .......
    .......  .......  .......  .......  .....##  .......  .......  .......  .......  .......
"""


def bitmaps() -> Tensor:
    """The target states of the ten digits as figure 3 draws them: ink +1, paper -1.

    Shapes: -> (10, 12, 7).
    """
    rows = [line.split() for line in _FIGURE_3.split("\n") if line.strip()]
    cells = [[[cell == "#" for cell in row[digit]] for row in rows] for digit in range(10)]
    return torch.tensor(cells).float() * 2 - 1


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
    """The paper's pooling: f(coefficient * sum of each 2x2 block + bias).

    Each output map has its own coefficient and bias, at first 1/4 and 0: the mean of the block.
    `copies` makes several output maps of each input map (LeNet-4's S2 makes two).

    Shapes: (N, channels, H, W) -> (N, channels * copies, H/2, W/2).
    Source: LeCun et al. 1998, section II.B, layers S2 and S4.
    """

    def __init__(self, channels: int, activation: nn.Module, copies: int = 1) -> None:
        super().__init__()
        self.copies = copies
        self.coefficient = nn.Parameter(torch.full((channels * copies,), 0.25))
        self.bias = nn.Parameter(torch.zeros(channels * copies))
        self.activation = activation

    def sums(self, x: Tensor) -> Tensor:
        """The sum of each 2x2 block, for each output map."""
        sums = 4 * F.avg_pool2d(x, 2)
        return sums if self.copies == 1 else sums.repeat_interleave(self.copies, dim=1)

    def affine(self, x: Tensor) -> Tensor:
        """Pre-activation: coefficient * block sum + bias."""
        return self.coefficient[:, None, None] * self.sums(x) + self.bias[:, None, None]

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.activation(self.affine(x))
        return output


class ConnectedConv2d(nn.Module):
    """A convolution in which `table` lists the input maps of each output map.

    Its weights are those of the connections alone, in the table's order: (connections,
    kernel_size, kernel_size).

    Shapes: (N, in_channels, H, W) -> (N, len(table), H - kernel_size + 1, W - kernel_size + 1).
    Raises: ValueError if the table has a map that does not exist, or one twice for an output map.
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
        self.register_buffer("pairs", torch.tensor(pairs).T.contiguous(), persistent=False)
        self.weight = nn.Parameter(torch.empty(len(pairs), kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(len(table)))
        # As torch.nn.Conv2d does, but each output map has its own number of inputs.
        with torch.no_grad():
            fan_in = torch.tensor([len(maps) for maps in table]) * kernel_size**2
            bounds = fan_in.rsqrt()
            self.weight.uniform_(-1, 1).mul_(bounds[self.pairs[0]][:, None, None])
            self.bias.uniform_(-1, 1).mul_(bounds)

    def dense_weight(self) -> Tensor:
        """The weights of an nn.Conv2d that computes the same: 0 where there is no connection."""
        shape = (self.out_channels, self.in_channels, *self.kernel_size)
        return self.weight.new_zeros(shape).index_put(tuple(self.pairs), self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.dense_weight(), self.bias)


class RBF(nn.Module):
    """Scores by squared distance: the closer the inputs are to a digit's bitmap, the higher.

    A score is minus `scale` times the squared distance. It has no trained parameters.

    Shapes: (N, 84) -> (N, 10).
    Source: LeCun et al. 1998, section II.B, equation 7.
    Raises: ValueError for other numbers of inputs or classes, since there are ten 7x12 bitmaps.
    """

    centres: Tensor

    def __init__(self, in_features: int = 84, num_classes: int = 10, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        if (in_features, num_classes) != (84, 10):
            raise ValueError(
                "output=rbf: expected 84 units and the 10 digits that have a bitmap, got "
                f"{in_features} and {num_classes}"
            )
        self.register_buffer("centres", bitmaps().flatten(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # Paper: the penalty y, smallest for the best class; here: -y, because the output of every
        # other network is a score, highest for the best class.
        norms = x.square().sum(dim=1, keepdim=True) + self.centres.shape[1]
        return self.scale * (2 * x @ self.centres.T - norms)


def initialise(network: nn.Module, how: Initialisation) -> None:
    """Sets the starting weights of a network, where F is a unit's number of inputs.

    `torch` leaves what each layer has. `lecun1998` draws every parameter uniformly from -2.4/F to
    2.4/F, as printed. `released` draws weights uniformly from -1/sqrt(F) to 1/sqrt(F), and sets
    biases to 0 and the subsampling coefficients to 0.5.

    Source: LeCun et al. 1998, appendix A; the authors' own code, released with Lush.
    """
    if how == "torch":
        return
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            _draw(how, layer.weight, layer.bias, layer.weight[0].numel())
        elif isinstance(layer, ConnectedConv2d):
            for k, bias in enumerate(layer.bias.data):
                own = layer.pairs[0] == k
                weight = layer.weight.data[own]
                _draw(how, weight, bias, weight.numel())
                layer.weight.data[own] = weight
        elif isinstance(layer, Subsample):
            _draw(how, layer.coefficient, layer.bias, 4)
            if how == "released":
                nn.init.constant_(layer.coefficient, 0.5)


def _draw(how: str, weight: Tensor, bias: Tensor | None, fan_in: int) -> None:
    bound = 2.4 / fan_in if how == "lecun1998" else fan_in**-0.5
    nn.init.uniform_(weight, -bound, bound)
    if bias is not None:
        bias_bound = bound if how == "lecun1998" else 0.0
        nn.init.uniform_(bias, -bias_bound, bias_bound)


# ---- Helpers for pages that draw the network -----------------------------------------------------


def feeding(layer: nn.Conv2d | ConnectedConv2d, k: int) -> list[int]:
    """The input maps of output map k of a convolution, in order."""
    if isinstance(layer, ConnectedConv2d):
        return sorted(int(m) for out, m in layer.pairs.T.tolist() if out == k)
    return list(range(layer.in_channels))


def function_of(activation: nn.Module) -> str:
    """The activation as a formula of its input `a`."""
    if isinstance(activation, ScaledTanh):
        return f"{activation.amplitude:g} tanh({activation.slope:.4g} a)"
    names = {nn.Tanh: "tanh(a)", nn.ReLU: "max(0, a)", nn.Sigmoid: "1 / (1 + exp(-a))"}
    return names.get(type(activation), f"{type(activation).__name__}(a)")
