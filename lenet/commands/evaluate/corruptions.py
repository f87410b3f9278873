"""Distorted copies of test images, each by a known amount.

Every function takes pixels from 0 to 1 and a CPU generator, and returns pixels.

Shapes: (N, C, H, W) -> float32 (N, C, H, W).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lenet.data.augment import resample, sources_of

CHUNK = 1000  # images at a time


def rotation(images: Tensor, degrees: float, generator: Generator) -> Tensor:
    """Turned by this angle, to one side or the other at random."""
    angles = math.radians(degrees) * _signs(len(images), generator)
    rows = [angles.cos(), -angles.sin(), angles.sin(), angles.cos()]
    return _mapped(images, torch.stack(rows, dim=1), torch.zeros(len(images), 2))


def shift(images: Tensor, pixels: float, generator: Generator) -> Tensor:
    """Moved by this distance in a random direction; what leaves the image is cut off."""
    angles = torch.rand(len(images), generator=generator) * (2 * math.pi)
    shifts = pixels * torch.stack([angles.cos(), angles.sin()], dim=1)
    return _mapped(images, torch.eye(2).flatten().repeat(len(images), 1), shifts)


def scale(images: Tensor, factor: float, generator: Generator) -> Tensor:
    """Enlarged or shrunk by this factor, at random."""
    factors = factor ** _signs(len(images), generator)
    matrices = torch.eye(2).flatten() * factors[:, None]
    return _mapped(images, matrices, torch.zeros(len(images), 2))


def noise(images: Tensor, deviation: float, generator: Generator) -> Tensor:
    """With Gaussian noise, independent for each pixel, and clamped to 0 to 1."""
    drawn = torch.randn(images.shape, generator=generator)
    return (images.float() + deviation * drawn).clamp_(0, 1)


def blur(images: Tensor, sigma: float, generator: Generator) -> Tensor:
    """Blurred by a Gaussian with this sigma in pixels; outside the image is 0."""
    reach = math.ceil(3 * sigma)
    weights = torch.exp(-(torch.arange(-reach, reach + 1.0) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    channels = images.shape[1]
    column = weights.view(1, 1, -1, 1).repeat(channels, 1, 1, 1)
    images = F.conv2d(images.float(), column, padding=(reach, 0), groups=channels)
    row = column.transpose(2, 3)
    return F.conv2d(images, row, padding=(0, reach), groups=channels)


def contrast(images: Tensor, factor: float, generator: Generator) -> Tensor:
    """With this part of the contrast kept: each pixel's distance to the image's mean is scaled."""
    images = images.float()
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + factor * (images - mean)


Corruption = Callable[[Tensor, float, Generator], Tensor]
# By name: the function, the unit of its amount, and the amount at each severity.
CORRUPTIONS: dict[str, tuple[Corruption, str, tuple[float, ...]]] = {
    "rotation": (rotation, "degrees", (10.0, 20.0, 30.0, 45.0, 60.0)),
    "shift": (shift, "pixels", (1.0, 2.0, 3.0, 4.0, 6.0)),
    "scale": (scale, "times", (1.1, 1.25, 1.4, 1.6, 2.0)),
    "noise": (noise, "of the range", (0.1, 0.2, 0.3, 0.45, 0.6)),
    "blur": (blur, "sigma in pixels", (0.75, 1.0, 1.5, 2.0, 3.0)),
    "contrast": (contrast, "contrast kept", (0.7, 0.5, 0.3, 0.15, 0.05)),
}


def corrupted(images: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """Distorted images at this severity, 1 to 5; the same for the same seed.

    Shapes: uint8 (N, C, H, W) -> uint8 (N, C, H, W).
    """
    function, _, amounts = CORRUPTIONS[name]
    generator = torch.Generator().manual_seed(seed)
    parts = [
        function(part.float() / 255, amounts[severity - 1], generator)
        for part in images.cpu().split(CHUNK)
    ]
    return (torch.cat(parts) * 255).round().to(torch.uint8)


def _signs(count: int, generator: Generator) -> Tensor:
    return torch.randint(2, (count,), generator=generator) * 2.0 - 1.0


def _mapped(images: Tensor, matrices: Tensor, shifts: Tensor) -> Tensor:
    sources = sources_of(matrices.view(-1, 2, 2), shifts, *images.shape[2:])
    return resample(images, sources)
