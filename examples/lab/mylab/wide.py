"""`python run.py -cd examples/lab/conf model=wide model.width=12`"""

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn


class Wide(nn.Module):
    """A network with one hidden layer.

    Shapes: images (N, C, H, W) -> scores (N, K).
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        image_size: int,
        width: Annotated[int, Field(ge=1)] = 32,
    ) -> None:
        super().__init__()
        self.hidden = nn.Linear(in_channels * image_size**2, width)
        self.output = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.output(self.hidden(images.flatten(1)).tanh())
