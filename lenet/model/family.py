"""The networks that the paper compares with LeNet-5: wiring only.

They read the same 32x32 images as LeNet-5, 28x28 digits with a border, and return a score for each
class. They have no native kernels.

Source: LeCun et al. 1998, sections III.C.1 to III.C.5; LeNet-1's connections: LeCun et al. 1990,
"Handwritten digit recognition with a back-propagation network", table 1.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from lenet.model.layers import ConnectedConv2d, Initialisation, ScaledTanh, Subsample, initialise

# Six maps read the first two H2 maps. Six more read the other two in the same way.
LENET1_TABLE = tuple(
    tuple(first + k for k in maps)
    for first in (0, 2)
    for maps in ((0,), (0, 1), (0, 1), (1,), (0, 1), (0, 1))
)
# Each of sixteen maps reads three of the eight S2 maps. Paper: no table, only "about 260,000
# connections"; here: a choice that has as many.
LENET4_TABLE = tuple(
    tuple(sorted((k + step) % 8 for step in steps))
    for steps in ((0, 1, 2), (0, 3, 5))
    for k in range(8)
)


class LeNet1(nn.Module):
    """Two rounds of convolution and trained subsampling, then the output: 2,578 parameters.

    The digit fills 20x20 pixels of the data. It is reduced to 16x16 pixels in an image of 28x28.

    Shapes: (N, in_channels, H, W) -> (N, num_classes).
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 32,
        activation: Callable[[], nn.Module] = ScaledTanh,
        initialisation: Initialisation = "torch",
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 4, kernel_size=5)
        self.pool1 = Subsample(4, activation())
        self.conv2 = ConnectedConv2d(4, LENET1_TABLE, 5)
        self.pool2 = Subsample(12, activation())
        self.fc1 = nn.Linear(12 * 4 * 4, num_classes)
        self.activation = activation()
        initialise(self, initialisation)

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)["output"]

    def stages(self, x: Tensor) -> dict[str, Tensor]:
        """Every layer's output by the layer's name."""
        small = F.interpolate(x, size=(26, 26), mode="bilinear", antialias=True)  # 26/32: 20 -> 16
        small = F.pad(small, (1, 1, 1, 1), mode="replicate")  # (N, in_channels, 28, 28)
        h1 = self.activation(self.conv1(small))  # (N, 4, 24, 24)
        h2 = self.pool1(h1)  # (N, 4, 12, 12)
        h3 = self.activation(self.conv2(h2))  # (N, 12, 8, 8)
        h4 = self.pool2(h3)  # (N, 12, 4, 4)
        return {"H1": h1, "H2": h2, "H3": h3, "H4": h4, "output": self.fc1(h4.flatten(1))}


class LeNet4(nn.Module):
    """LeNet-5 with 4 C1 maps, each subsampled twice to make 8 S2 maps, and one dense layer of 120
    units before the output: 50,698 parameters.

    Shapes: (N, in_channels, image_size, image_size) -> (N, num_classes).
    Raises: ValueError if image_size is less than 16, which leaves nothing for S4.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 32,
        activation: Callable[[], nn.Module] = ScaledTanh,
        initialisation: Initialisation = "torch",
    ) -> None:
        super().__init__()
        if image_size < 16:
            raise ValueError(f"image_size: expected 16 or more, got {image_size}")
        side = ((image_size - 4) // 2 - 4) // 2
        self.conv1 = nn.Conv2d(in_channels, 4, kernel_size=5)
        self.pool1 = Subsample(4, activation(), copies=2)
        self.conv2 = ConnectedConv2d(8, LENET4_TABLE, 5)
        self.pool2 = Subsample(16, activation())
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, num_classes)
        self.activation = activation()
        initialise(self, initialisation)

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)["output"]

    def stages(self, x: Tensor) -> dict[str, Tensor]:
        """Every layer's output by the layer's name; trailing shapes are for 32x32."""
        c1 = self.activation(self.conv1(x))  # (N, 4, 28, 28)
        s2 = self.pool1(c1)  # (N, 8, 14, 14)
        c3 = self.activation(self.conv2(s2))  # (N, 16, 10, 10)
        s4 = self.pool2(c3)  # (N, 16, 5, 5)
        f5 = self.activation(self.fc1(s4.flatten(1)))  # (N, 120)
        return {"C1": c1, "S2": s2, "C3": c3, "S4": s4, "F5": f5, "output": self.fc2(f5)}


class MLP(nn.Module):
    """Dense layers with `hidden` units; a linear classifier if there are no hidden layers.

    `crop` pixels are cut off along each edge: 2 of 32 leave the paper's 784 inputs.

    Shapes: (N, in_channels, image_size, image_size) -> (N, num_classes).
    Raises: ValueError if the crop leaves nothing of the image.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 32,
        activation: Callable[[], nn.Module] = ScaledTanh,
        hidden: Sequence[int] = (300,),
        crop: int = 2,
        initialisation: Initialisation = "torch",
    ) -> None:
        super().__init__()
        side = image_size - 2 * crop
        if side < 1:
            raise ValueError(f"crop: expected less than half of {image_size} pixels, got {crop}")
        self.crop = crop
        units = [in_channels * side**2, *hidden, num_classes]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(units))
        self.activation = activation()
        initialise(self, initialisation)

    def forward(self, x: Tensor) -> Tensor:
        *hidden, output = self.layers
        x = F.pad(x, (-self.crop,) * 4).flatten(1)
        for layer in hidden:
            x = self.activation(layer(x))
        scores: Tensor = output(x)
        return scores
