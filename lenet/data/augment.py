"""Random distortions of a batch of images, another one for each image."""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lenet.native.distort import distort

SPACING = 4  # pixels between the points where an elastic field is drawn
CHUNK = 512  # images that are distorted at once


@dataclass(frozen=True)
class Distortion:
    """A random affine map and a random elastic field, which say where each pixel is read from.

    The image is read bilinearly, and is 0 outside. Every extent 0 changes nothing.

    The numbers of the affine map are uniform between minus and plus their extent: `rotation` in
    degrees; `scale`, the relative change of size (0.1: from 1/1.1 to 1.1 times); `squeeze`, the
    same along x and its inverse along y; `shear` in columns a row; `shift` in pixels along each
    axis. `elastic` is the standard deviation, in pixels, of the field's normal displacements;
    `smoothness` is the sigma, in pixels, of the Gaussian that smooths them.

    Source: Simard, Steinkraus, Platt 2003, for the elastic field; LeCun et al. 1998, section
    III.A, for shift, scale, squeeze and shear.
    """

    rotation: float = 0.0
    scale: float = 0.0
    squeeze: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    smoothness: float = 4.0

    @property
    def changes_nothing(self) -> bool:
        extents = (self.rotation, self.scale, self.squeeze, self.shear, self.shift, self.elastic)
        return not any(extents)

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """The distorted images. `generator` is on the CPU: all devices get the same distortions.

        Shapes: (N, C, H, W), any real type -> float32 (N, C, H, W).
        """
        return torch.cat([self._distorted(part, generator) for part in images.split(CHUNK)])

    def _distorted(self, images: Tensor, generator: Generator) -> Tensor:
        height, width = images.shape[2:]
        matrices, shifts = self.affine(len(images), generator)
        noise = self.noise(len(images), height, width, generator) if self.elastic else None
        smoothers = _smoother(height, self.smoothness), _smoother(width, self.smoothness).T
        affine = torch.cat([_inverse(matrices).flatten(1), shifts], dim=1)
        distorted = distort(images, affine, noise, *smoothers)
        if distorted is not None:
            return distorted
        sources = sources_of(matrices, shifts, height, width)
        if noise is not None:
            sources += field(noise, *smoothers) * _per_pixel(height, width)[:, None, None]
        return resample(images, sources.to(images.device))

    def affine(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Random maps of a point (x, y), in pixels from the centre, to matrix @ point + shift.

        Shapes: -> matrices (N, 2, 2), shifts (N, 2).
        """
        draws = torch.rand(6, count, generator=generator) * 2 - 1
        angle = draws[0] * math.radians(self.rotation)
        size = (draws[1] * math.log1p(self.scale)).exp()
        squeeze = (draws[2] * math.log1p(self.squeeze)).exp()
        across, down = size * squeeze, size / squeeze
        shear = draws[3] * self.shear
        cos, sin = angle.cos(), angle.sin()
        # Scaled first, then sheared, then rotated.
        rows = [cos * across, (cos * shear - sin) * down, sin * across, (sin * shear + cos) * down]
        return torch.stack(rows, dim=1).view(-1, 2, 2), draws[4:].T * self.shift

    def noise(self, count: int, height: int, width: int, generator: Generator) -> Tensor:
        """Independent random numbers that `field` makes a smooth field of.

        Shapes: -> (N, 2, P, Q) in pixels.
        """
        points = (_smoother(side, self.smoothness).shape[1] for side in (height, width))
        return torch.randn(count, 2, *points, generator=generator) * self.elastic


def field(noise: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Random smooth displacements along x and y.

    Shapes: (N, 2, P, Q), (H, P), (Q, W) -> (N, 2, H, W) in pixels.
    """
    return rows @ noise @ columns


def sources_of(matrices: Tensor, shifts: Tensor, height: int, width: int) -> Tensor:
    """For each pixel of the result, the point of the image that an affine map moves there.

    The maps are those of `Distortion.affine`.

    Shapes: (N, 2, 2), (N, 2) -> (N, 2, H, W) in the unit of `resample`.
    """
    inverse = _inverse(matrices) * _per_pixel(height, width)[:, None]
    x, y = _centred(width) - shifts[:, :1], _centred(height) - shifts[:, 1:]
    along_x, along_y = inverse[:, :, :1] * x[:, None], inverse[:, :, 1:] * y[:, None]
    return along_x[:, :, None, :] + along_y[:, :, :, None]


def resample(images: Tensor, sources: Tensor) -> Tensor:
    """The images read at these points, bilinearly; they are 0 outside.

    Shapes: (N, C, H, W), (N, 2, H, W) from -1 to 1 between the image's edges -> float32
    (N, C, H, W).
    """
    grid = sources.permute(0, 2, 3, 1)
    return F.grid_sample(images.float(), grid, padding_mode="zeros", align_corners=False)


def _inverse(matrices: Tensor) -> Tensor:
    """Shapes: (N, 2, 2) -> (N, 2, 2)."""
    a, b, c, d = matrices.flatten(1).T
    return torch.stack([d, -b, -c, a], dim=1).view(-1, 2, 2) / (a * d - b * c)[:, None, None]


def _per_pixel(height: int, width: int) -> Tensor:
    """The size of a pixel along x and along y in the unit of `resample`."""
    return torch.tensor([2 / width, 2 / height])


def _centred(size: int) -> Tensor:
    return torch.arange(size) - (size - 1) / 2


@functools.cache
def _smoother(size: int, sigma: float) -> Tensor:
    """The matrix that makes smooth numbers at the pixels from independent normal ones.

    Those are at points SPACING apart, some outside the image. The results have standard deviation
    1 everywhere.

    Shapes: -> (size, points).
    """
    margin = math.ceil(3 * sigma / SPACING) * SPACING
    points = torch.arange(-margin, size + margin, SPACING) + (SPACING - 1) / 2
    weights = torch.exp(-((torch.arange(size)[:, None] - points) ** 2) / (2 * sigma**2))
    return weights / weights.norm(dim=1, keepdim=True)
