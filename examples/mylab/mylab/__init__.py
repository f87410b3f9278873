"""A lab of one's own: a network, a loss and a data set."""

import torch
from torch import Tensor, nn

from lenet.data.sets import Data, prepare
from lenet.data.sources import Raw


class Wide(nn.Sequential):
    """One hidden layer. Shapes: images (N, C, H, W) -> scores (N, K)."""

    def __init__(self, num_classes: int, in_channels: int, image_size: int, width: int) -> None:
        hidden = nn.Linear(in_channels * image_size**2, width)
        super().__init__(nn.Flatten(), hidden, nn.Tanh(), nn.Linear(width, num_classes))


class Focal(nn.Module):
    """Cross entropy in which easy images count less. Source: Lin et al. (2017), equation 4."""

    def __init__(self, gamma: float) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        p = scores.softmax(1).gather(1, labels[:, None])
        return -((1 - p) ** self.gamma * p.log()).mean()


def load_bars(noise: float, batch_size: int, test_batch_size: int, seed: int) -> Data:
    """400 training images and 100 test images of horizontal (0) and vertical (1) bars."""
    images = noise * torch.rand(500, 28, 28, generator=torch.Generator().manual_seed(1998))
    labels = torch.arange(500) % 2
    images[0::2, 13:15], images[1::2, :, 13:15] = 1, 1
    pixels = (255 * images).byte()
    train, test = (pixels[100:], labels[100:]), (pixels[:100], labels[:100])
    raw = Raw("bars", train, test, ("horizontal", "vertical"), "made by mylab.load_bars")
    return prepare(raw, batch_size=batch_size, test_batch_size=test_batch_size, seed=seed)
