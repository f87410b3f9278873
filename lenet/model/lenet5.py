"""LeNet-5: wiring only.

Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition",
Proc. IEEE 86(11), 1998. The default is the tutorial's modern form: every S2 map feeds every C3 map,
pooling has no parameters, and the output is linear; 61,706 parameters in all.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn

from lenet.model.fused import Fused
from lenet.model.layers import (
    RBF,
    TABLE_I,
    ConnectedConv2d,
    Initialisation,
    ScaledTanh,
    Subsample,
    initialise,
)

average_pooling = partial(nn.AvgPool2d, kernel_size=2, stride=2)
# The keys are the names in conf/model.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "scaled_tanh": ScaledTanh,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
}
POOLINGS: dict[str, Callable[..., nn.Module]] = {
    "avg": average_pooling,
    "max": partial(nn.MaxPool2d, kernel_size=2, stride=2),
    "subsample": Subsample,
}
CONNECTIONS: dict[str, Sequence[Sequence[int]] | None] = {"full": None, "table_i": TABLE_I}


class LeNet5(nn.Module):
    """Two rounds of convolution, activation and pooling, then three dense layers; returns logits.

    `activation` is called without arguments and returns a module. `pooling` too, or with `channels`
    and `activation` if it takes them. `connections=table_i` is the paper's choice of S2 maps for
    each C3 map. `output=rbf` is the paper's: squared distances to ten bitmaps, which are not
    trained, times `distance_scale`. For `initialisation` see `lenet.model.layers.initialise`.

    On a CPU the native kernels compute it. What they cannot compute, `kernels=auto` leaves to
    PyTorch, and one line says so; `native` raises KernelError; `eager` is PyTorch alone.

    Shapes: (N, in_channels, image_size, image_size) -> (N, num_classes).
    Raises: ValueError if image_size is less than 16, which leaves nothing for S4, or if a class has
    no bitmap.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: int = 32,
        activation: Callable[[], nn.Module] = nn.Tanh,
        pooling: Callable[..., nn.Module] = average_pooling,
        connections: Literal["full", "table_i"] = "full",
        output: Literal["linear", "rbf"] = "linear",
        distance_scale: float = 1.0,
        initialisation: Initialisation = "torch",
        kernels: Literal["auto", "native", "eager"] = "auto",
    ) -> None:
        super().__init__()
        self.kernels, self.fused = kernels, Fused(LeNet5.stages)
        if image_size < 16:
            raise ValueError(f"image_size: expected 16 or more, got {image_size}")
        side = ((image_size - 4) // 2 - 4) // 2  # 32 -> C1 28 -> S2 14 -> C3 10 -> S4 5
        trained = "channels" in inspect.signature(pooling).parameters
        table = CONNECTIONS[connections]
        self.conv1 = nn.Conv2d(in_channels, 6, kernel_size=5)
        self.pool1 = pooling(channels=6, activation=activation()) if trained else pooling()
        self.conv2 = ConnectedConv2d(6, table, 5) if table else nn.Conv2d(6, 16, kernel_size=5)
        self.pool2 = pooling(channels=16, activation=activation()) if trained else pooling()
        self.fc1 = nn.Linear(16 * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        if output == "rbf":
            self.fc3: nn.Module = RBF(84, num_classes, distance_scale)
        else:
            self.fc3 = nn.Linear(84, num_classes)
        self.activation = activation()
        initialise(self, initialisation)

    def forward(self, x: Tensor) -> Tensor:
        output = None if self.kernels == "eager" else self.fused(self, x)
        return self.stages(x)["output"] if output is None else output

    def stages(self, x: Tensor) -> dict[str, Tensor]:
        """Every layer's output under the paper's name for it; trailing shapes are for 32x32."""
        c1 = self.activation(self.conv1(x))  # (N, 6, 28, 28)
        s2 = self.pool1(c1)  # (N, 6, 14, 14)
        c3 = self.activation(self.conv2(s2))  # (N, 16, 10, 10)
        s4 = self.pool2(c3)  # (N, 16, 5, 5)
        # flatten, because view fails on images in channels-last order.
        c5 = self.activation(self.fc1(s4.flatten(1)))  # (N, 120)
        f6 = self.activation(self.fc2(c5))  # (N, 84)
        output = self.fc3(f6)  # (N, num_classes)
        return {"C1": c1, "S2": s2, "C3": c3, "S4": s4, "C5": c5, "F6": f6, "output": output}


def count_parameters(model: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)
