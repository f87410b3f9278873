"""Pictures of any kind in the form of a set. MNIST's: 28x28 bytes, light ink on a dark ground.

Source: the MNIST page of LeCun, Cortes and Burges. A digit is scaled to fit a 20x20 box with its
aspect ratio kept, then placed in 28x28 by its centre of mass.
"""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from lenet.cli import one_line
from lenet.data.decode import Floats, decoded
from lenet.data.errors import DataError, why_not_a_file
from lenet.data.form import MNIST, Form

WORKING_SIDE = 512  # a digit with a tenth of the picture's height still has 51 pixels

# Found by trial on MNIST's digits, enlarged and cropped, on drawings and on made-up photos.
# Fractions of full ink: below LOW is ground, above HIGH is full, above EDGE belongs to the digit.
LOW, HIGH, EDGE = 0.2, 0.9, 0.25
FULL_INK = 1.1  # of the mean ink becomes 255
SEVERAL = "it seems to hold several digits; one digit a picture is read"


class Reading(NamedTuple):
    """A picture in the form of a set. `remark` says what may be wrong with it, or is empty."""

    image: Tensor
    remark: str = ""


def read_picture(path: Path, form: Form = MNIST, channels: int = 1) -> Reading:
    """A picture in the form of a set.

    Where the set has a plain ground, the picture is one digit of any size, colours and polarity;
    but a picture that could be one of the set's own, by size and ground, is left as it is. Where it
    has none, a picture is changed in size alone.

    Shapes: image uint8 (form.height, form.width), or (3, ...) for three channels.
    Raises: DataError where the file is no picture, or has no ink.
    """
    if reason := why_not_a_file(path):
        raise DataError(f"{one_line(path)}: {reason}")
    return read_picture_bytes(path.read_bytes(), str(path), form, channels)


def read_picture_bytes(content: bytes, name: str, form: Form = MNIST, channels: int = 1) -> Reading:
    """The same from the bytes of a file. Errors begin with `name`."""
    name = one_line(name)
    rgba = decoded(content, name, max(WORKING_SIDE, form.height, form.width))
    if form.ground is None or _is_one_of(rgba, form):
        return Reading(_sized(rgba, form, channels))
    picture = _over_ground(rgba)
    ink = _ink(picture, _ground(picture))
    if ink is None:
        raise DataError(f"{name}: expected a digit, found a blank picture")
    digit, remark = _digit(ink)
    return Reading(_formed(digit, form), remark)


def read_drawing(ink: Floats, form: Form = MNIST, channels: int = 1) -> Reading:
    """The same from a drawing: ink from 0 to 1 on a ground of 0.

    A digit smaller than a quarter of the drawing is enlarged less: its first stroke stays small.

    Shapes: (H, W) -> image uint8 (form.height, form.width), or (3, ...) for three channels.
    Raises: DataError where there is no ink.
    """
    if not ink.max(initial=0) > 0.5:
        raise DataError("drawing: expected a digit, found none")
    if form.ground is None:
        return Reading(_sized(np.repeat(255 * ink[..., None], 4, axis=2), form, channels))
    digit, remark = _digit(ink)
    return Reading(_formed(digit, form, least=max(ink.shape) / 4), remark)


def _is_one_of(rgba: Floats, form: Form) -> bool:
    """Whether the picture has the size of the set's, is opaque, and has their ground."""
    if rgba.shape[:2] != (form.height, form.width) or rgba[..., 3].min() < 255:
        return False
    grey = rgba[..., :3].mean(2)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return abs(float(np.median(border)) - float(form.ground or 0)) < 128


def _sized(rgba: Floats, form: Form, channels: int) -> Tensor:
    """The picture as it is, in the set's size, in grey or as red, green and blue."""
    image = Image.fromarray(rgba.round().astype(np.uint8)[..., :3])
    image = image if channels == 3 else image.convert("L")
    if image.size != (form.width, form.height):
        image = image.resize((form.width, form.height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image))
    return pixels.permute(2, 0, 1) if channels == 3 else pixels


def _over_ground(rgba: Floats) -> Floats:
    """Colours over a ground in contrast to the ink, where the picture is transparent.

    Shapes: (H, W, 4) -> (H, W, 3).
    """
    colour, alpha = rgba[..., :3], rgba[..., 3:] / np.float32(255)
    visible = colour.mean(2)[alpha[..., 0] > 0.9]  # the greys of opaque pixels
    if alpha.min() == 1 or not visible.size:
        return colour * alpha
    main = np.median(visible)
    ground = 255 if main < 128 else 0
    # Other opaque colours mean a digit on a card: then the card continues. Without them all that
    # is visible is ink.
    if (np.abs(visible - main) > 64).mean() > 0.02:
        ground = main
    return colour * alpha + np.float32(ground) * (1 - alpha)


def _ink(rgb: Floats, ground: Floats) -> Floats | None:
    """How far each pixel is from the ground towards the ink's colour: ground 0, ink about 1.

    Shapes: (H, W, 3) -> (H, W), or None where there is no ink.
    """
    away = rgb - ground
    # Noise cancels in the sum, ink does not. The sign of the direction is the polarity.
    strength = (away**2).sum(2, keepdims=True)
    direction = (away * strength).sum((0, 1))
    length = np.linalg.norm(direction)
    if length < 1e-3:
        return None
    ink = away @ (direction / length)
    level = _level(ink.clip(0))
    noise = np.quantile(np.abs(ink), 0.1) / 0.126  # a normal distribution's standard deviation
    if level < max(2.0, 3 * noise):
        return None
    return ink / level


def _ground(rgb: Floats) -> Floats:
    """The ground as most of the border shows it: its median, or a quadratic surface if that fits
    better, because light is seldom even.

    Both minimise the absolute distance from the border's pixels, so ink that a close crop leaves
    on the border does not matter.
    """
    height, width, _ = rgb.shape
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=2)
    border = np.ones((height, width), bool)
    edge = 1 + min(height, width) // 50
    border[edge:-edge, edge:-edge] = False
    a, b = terms[border], rgb[border].astype(np.float64)
    surface = np.zeros((6, 3))
    surface[0] = np.median(b, axis=0)
    flat = np.broadcast_to(surface[0], rgb.shape)
    for _ in range(20):  # weights of 1 / distance: to the least absolute distance
        weight = 1 / (np.linalg.norm(b - a @ surface, axis=1) + 1)
        surface = np.linalg.lstsq(a.T * weight @ a, a.T * weight @ b, rcond=None)[0]
    curved = terms @ surface

    def misfit(ground: NDArray[np.float64]) -> float:
        return float(np.abs(rgb - ground).clip(max=20).sum())

    return (curved if misfit(curved) < 0.8 * misfit(flat) else flat).astype(np.float32)


def _digit(ink: Floats) -> tuple[Floats, str]:
    """The ink (0 to 1) without specks, ruled lines and noise, cropped to the digit; and a remark if
    there seem to be several digits.
    """
    step = 1 + max(ink.shape) // 128
    padded = np.pad(ink, [(0, -side % step) for side in ink.shape])
    height, width = (side // step for side in padded.shape)
    mass = (padded > 0.5).reshape(height, step, width, step).mean((1, 3))
    around = np.ones((3, 3))  # parts that touch at a corner count as one
    parts, count = ndimage.label(mass > 0, around)
    masses = ndimage.sum_labels(mass, parts, np.arange(count + 1))
    is_kept = masses >= 0.05 * masses[1:].max()
    is_kept[0] = False  # what is in no part
    kept = is_kept[parts]
    places = [
        place for place, keep in zip(ndimage.find_objects(parts), is_kept[1:], strict=True) if keep
    ]
    near = ndimage.binary_dilation(kept, around).repeat(step, 0).repeat(step, 1)
    clean = (((padded - LOW) / (HIGH - LOW)).clip(0, 1) * near)[: ink.shape[0], : ink.shape[1]]
    rows, columns = (np.flatnonzero((clean > EDGE).any(axis=d)) for d in (1, 0))
    digit = clean[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)
    return digit, SEVERAL if _are_several(places) else ""


def _are_several(places: Sequence[tuple[slice, slice]]) -> bool:
    """Whether parts of ink are several digits: two tall ones side by side, all together twice as
    wide as high, or two large ones one above the other.

    Measured: so are 16 of MNIST's 10,000 test images, 99.6 % of pairs side by side with a gap of
    two pixels and 97.8 % of pairs one above the other. A 5's bar is a part too, but a flat one.
    """
    rows, columns = zip(*places, strict=True)
    height = max(row.stop for row in rows) - min(row.start for row in rows)
    width = max(column.stop for column in columns) - min(column.start for column in columns)
    tall = [(c.start, c.stop) for r, c in places if r.stop - r.start >= height / 2]
    beside = any(stop <= start for (_, stop), (start, _) in pairwise(sorted(tall)))
    large = [(r.start, r.stop) for r, _ in places if r.stop - r.start >= 0.35 * height]
    below = any(stop <= start for (_, stop), (start, _) in pairwise(sorted(large)))
    return beside or width > 2 * height or (below and height > 1.4 * width)


def _formed(digit: Floats, form: Form, least: float = 1) -> Tensor:
    """The digit in its box, on the ground and at the place that the set's have."""
    height, width = digit.shape
    scale = form.box / max(height, width, least)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(digit).resize(size, Image.Resampling.BICUBIC)).clip(0)
    small = (small / (FULL_INK * _level(small))).clip(max=1)
    top = _start(small.sum(1), form.height, form.centre)
    left = _start(small.sum(0), form.width, form.centre)
    out = np.zeros((form.height, form.width), np.float32)
    out[top : top + size[1], left : left + size[0]] = small
    pixels = (255 * out).round().astype(np.uint8)
    return torch.from_numpy(255 - pixels if form.ground else pixels)


def _start(mass: Floats, size: int, centre: str) -> int:
    """The first index of a digit along an axis of `size` pixels that puts its centre in the middle.
    Measured: MNIST's digits have their centre of mass at 13.5 to 14.5 of 28.
    """
    if centre == "box":
        return (size - len(mass)) // 2
    place = float(mass @ np.arange(len(mass), dtype=np.float32) / mass.sum())
    return min(max(0, round(size / 2 - place)), size - len(mass))


def _level(ink: Floats) -> float:
    """The mean ink, each pixel weighted by the square of its own ink."""
    return float((ink**3).sum() / max((ink**2).sum(), 1e-12))
