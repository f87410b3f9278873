"""From the bytes of images to what a network reads."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
CHUNK = 1000  # images that are converted at once, to bound the memory

Level = float | Sequence[float]  # of all pixels, or one of each channel


def as_input(images: Tensor, image_size: int, mean: Level, std: Level) -> Tensor:
    """Images as a network reads them.

    Shapes: uint8 (N, H, W) or (N, C, H, W) -> float32 (N, C, image_size, image_size).
    """
    return normalised(as_pixels(images, image_size), mean, std)


def as_pixels(images: Tensor, image_size: int) -> Tensor:
    """Images of one size: smaller images get an even border of 0, larger ones are resized.

    Shapes: uint8 (N, H, W) or (N, C, H, W) -> uint8 (N, C, image_size, image_size).
    """
    images = images[:, None] if images.ndim == 3 else images
    count, channels, height, width = images.shape
    output = torch.zeros(count, channels, image_size, image_size, dtype=torch.uint8)
    if max(height, width) > image_size:
        size = (image_size, image_size)
        for out, part in zip(output.split(CHUNK), images.split(CHUNK), strict=True):
            out.copy_(interpolate(part.float(), size, mode="bilinear", antialias=True).round())
    else:
        top, left = (image_size - height) // 2, (image_size - width) // 2
        output[:, :, top : top + height, left : left + width] = images
    return output


def normalised(pixels: Tensor, mean: Level, std: Level) -> Tensor:
    """Pixels from 0 to 1, less `mean`, divided by `std`: the same bits as torchvision's.

    Shapes: uint8 (..., C, H, W) -> float32 (..., C, H, W).
    """
    less, by = (
        pixels.new_tensor(level, dtype=torch.float32).view(-1, 1, 1)
        if isinstance(level, Sequence)
        else level
        for level in (mean, std)
    )
    return pixels.to(torch.float32).div_(255).sub_(less).div_(by)


def pixel_statistics(images: Tensor) -> tuple[Level, Level]:
    """Mean and standard deviation of the pixels (0 to 1), to four decimals as is the custom; of
    images in colour those of each channel.

    They come from the counts of the 256 levels, which is exact and needs no copy of the images.

    Shapes: uint8 (N, H, W) or (N, C, H, W).
    """
    if images.ndim == 4 and images.shape[1] > 1:
        means, deviations = zip(*map(_statistics, images.unbind(1)), strict=True)
        return means, deviations
    return _statistics(images)


def _statistics(images: Tensor) -> tuple[float, float]:
    counts = torch.bincount(images.flatten(), minlength=256).double() / images.numel()
    levels = torch.arange(256).double() / 255
    mean = levels @ counts
    std = ((levels - mean) ** 2 @ counts).sqrt()
    return round(mean.item(), 4), round(std.item(), 4) or 1.0
