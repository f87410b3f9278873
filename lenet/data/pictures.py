"""A picture of a digit -> MNIST's form of it: 28x28 bytes, light ink on dark ground.

Source of the form: the MNIST page of LeCun, Cortes and Burges: size normalised to fit a 20x20 box,
its aspect ratio kept, antialiased; then placed in 28x28 by its centre of mass.
"""

import warnings
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage
from torch import Tensor

from lenet.cli import one_line
from lenet.data.errors import DataError, why_not_a_file

Floats = NDArray[np.float32]

# Pictures of pixels alone: Pillow's EPS, for one, starts Ghostscript.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF", "QOI")
MAX_PIXELS = 80_000_000  # below Pillow's own limit, so that this one speaks
SCANS = 10  # of a JPEG with MAX_PIXELS, which is decoded again for each; smaller ones may have more
WORKING_SIDE = 512  # a digit a tenth as high as its picture still has 51 pixels
BOX, SIDE = 20, 28
MASS_CENTRE = 14  # as an index: MNIST's digits have theirs at 13.5 ... 14.5, measured

# Shares of full ink: what is ground, what is full, where the digit's edge is, what is 255. Then of
# a blob: its extent's share that a square fills, and what at most a better ground leaves of it.
# All found by trial on digits of MNIST enlarged and cropped, on drawings and made-up photos.
LOW, HIGH, EDGE, FULL_INK, BLOB, LEFT = 0.2, 0.9, 0.25, 1.1, 0.35, 0.15


def read_picture(path: Path) -> Tensor:
    """Reads a picture of one digit, whatever its size, colours and polarity, as MNIST has it.

    Shapes: -> uint8 (28, 28), light ink on a ground of 0.
    Raises: DataError, one line, where there is no picture or no ink in it.
    """
    if reason := why_not_a_file(path):
        raise DataError(f"{one_line(path)}: {reason}")
    try:
        with path.open("rb") as file:
            return _read(file, one_line(path))
    except OSError as error:
        raise DataError(f"{one_line(path)}: no access ({error.strerror})") from None


def read_picture_bytes(content: bytes, name: str) -> Tensor:
    """As `read_picture`, of a file's content; `name` is for the errors."""
    return _read(BytesIO(content), one_line(name))


def read_drawing(ink: Floats) -> Tensor:
    """As `read_picture`, of ink alone, from 0 to 1 on a ground of 0. What is less than a quarter
    as large as the drawing, a stroke that has just begun, stays small.

    Shapes: (H, W) -> uint8 (28, 28).
    Raises: DataError where there is none.
    """
    if not ink.max(initial=0) > 0.5:
        raise DataError("drawing: expected a digit, found none")
    return _as_mnist(_digit(ink), least=max(ink.shape) / 4)


def _read(file: BinaryIO, name: str) -> Tensor:
    picture = _over_ground(_decoded(file, name))
    ink = _ink(picture, _ground(picture))
    if ink is not None and _is_blob(ink):
        local = _ink(picture, _local_ground(picture))
        # What was a sheet or a shadow is gone then; thick strokes are not.
        if local is not None and (local > 0.5).sum() < LEFT * (ink > 0.5).sum():
            ink = local
    if ink is None:
        raise DataError(f"{name}: expected a digit, found a blank picture")
    return _as_mnist(_digit(ink))


def _decoded(file: BinaryIO, name: str) -> Floats:
    """Returns: 0..255 (H, W, 4), red, green, blue, opacity; at most WORKING_SIDE high and wide."""
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about broken metadata, of which orientation alone counts
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file, formats=[f for f in FORMATS if f in Image.OPEN]) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{width} x {height} pixels")
                # A scan of 12 bytes takes as long as one of the whole picture.
                scans = _scans(file) if image.format in ("JPEG", "MPO") else 1
                if scans * width * height > SCANS * MAX_PIXELS:
                    raise ValueError(f"{scans:,} scans of {width} x {height} pixels")
                image.draft(image.mode, (WORKING_SIDE, WORKING_SIDE))
                image.load()
                return _reduced(image)
        except Image.UnidentifiedImageError:
            kinds = ", ".join(FORMATS)
            raise DataError(f"{name}: expected a picture ({kinds}), found none of these") from None
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            limit = f"at most {MAX_PIXELS:,} pixels"
            found = str(error).partition(" exceeds")[0]
            raise DataError(f"{name}: expected {limit}, found {found}") from None
        except Exception as error:
            # Pillow has no closed list of errors: OSError, SyntaxError, struct.error, KeyError ...
            reason = one_line(error).strip()[:120] or type(error).__name__
            raise DataError(
                f"{name}: expected a whole picture, found a damaged one ({reason})"
            ) from None


def _scans(file: BinaryIO) -> int:
    place = file.tell()
    file.seek(0)
    count = file.read().count(b"\xff\xda")
    file.seek(place)
    return count


def _reduced(image: Image.Image) -> Floats:
    if image.mode[0] in "IF":  # 16 bits, 32 bits or floats a pixel: their range is not known
        levels = np.array(image, np.float32)  # in place from here: it may have 320 MB
        np.nan_to_num(levels, copy=False, posinf=0, neginf=0)
        levels -= levels.min()
        levels *= 255 / max(levels.max(), 1e-30)
        orientation = image.getexif()
        image = Image.fromarray(np.rint(levels, out=levels).astype(np.uint8))
        image.info["exif"] = orientation.tobytes()
    elif image.mode not in ("L", "RGB", "RGBA", "CMYK") or "transparency" in image.info:
        image = image.convert("RGBA")
    image.thumbnail((WORKING_SIDE, WORKING_SIDE))
    return np.asarray(ImageOps.exif_transpose(image).convert("RGBA"), np.float32)


def _over_ground(rgba: Floats) -> Floats:
    """Puts what is transparent on a ground that the ink shows on.

    Shapes: (H, W, 4) -> (H, W, 3).
    """
    colour, alpha = rgba[..., :3], rgba[..., 3:] / np.float32(255)
    if alpha.min() == 1 or alpha.max() == 0:
        return colour * alpha
    grey, weight = colour.mean(2).ravel(), alpha.ravel()
    order = np.argsort(grey)
    middle = np.searchsorted(weight[order].cumsum(), weight.sum() / 2)
    main = grey[order[min(middle, len(order) - 1)]]
    ground = 255 if main < 128 else 0
    # A card with a digit on it: go on with the card. Else all that can be seen is ink. The edges of
    # ink, half transparent, may have any colour.
    if weight[(np.abs(grey - main) > 64) & (weight > 0.9)].sum() > 0.02 * weight.sum():
        ground = main
    return colour * alpha + ground * (1 - alpha)


def _ink(rgb: Floats, ground: Floats) -> Floats | None:
    """How far each pixel goes from the ground towards the ink's colour: 0 ground, about 1 ink.

    The ground is what most of the border is, as a smooth surface, for light is seldom even.

    Shapes: (H, W, 3) -> (H, W), or None where there is no ink.
    """
    away = rgb - ground
    # Noise goes both ways and cancels, ink does not. One direction in colour is polarity too.
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


def _is_blob(ink: Floats) -> bool:
    """Is a square of a third of the ink's extent full of it? Few strokes are so thick."""
    strong = ink > 0.5
    extent = max(np.ptp(np.flatnonzero(strong.any(axis=d))) for d in (0, 1)) + 1
    side = int(BLOB * extent)
    if not 0 < side <= min(ink.shape):
        return False
    sums = np.pad(strong, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    full = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return bool(full.max() > 0.95 * side**2)


def _ground(rgb: Floats) -> Floats:
    """What most of the border is: its median, or a quadratic surface where that is nearer to more.

    The surface has the least absolute distance from the border's pixels, as the median has, so
    neither minds the ink of a close crop.
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
    for _ in range(20):  # least squares, weighted by 1 / distance again and again
        weight = 1 / (np.linalg.norm(b - a @ surface, axis=1) + 1)
        surface = np.linalg.lstsq(a.T * weight @ a, a.T * weight @ b, rcond=None)[0]
    curved = terms @ surface

    def misfit(ground: NDArray[np.float64]) -> float:
        return float(np.abs(rgb - ground).clip(max=20).sum())

    return (curved if misfit(curved) < 0.8 * misfit(flat) else flat).astype(np.float32)


def _local_ground(rgb: Floats) -> Floats:
    """For a hard shadow or a sheet on a table: the nearest to each pixel of the medians around."""
    height, width, _ = rgb.shape
    image = Image.fromarray(rgb.astype(np.uint8))
    small = image.resize((min(width, 96), min(height, 96)), Image.Resampling.BOX)
    median = small.filter(ImageFilter.MedianFilter(21))
    # Within reach of an edge of the ground either side of it will do.
    low, high = (
        np.asarray(median.filter(f).resize(image.size), np.float32)
        for f in (ImageFilter.MinFilter(5), ImageFilter.MaxFilter(5))
    )
    return np.clip(rgb, low, high)


def _digit(ink: Floats) -> Floats:
    """Ink without specks, ruled lines and noise, cropped: 0..1."""
    step = 1 + max(ink.shape) // 128
    padded = np.pad(ink, [(0, -side % step) for side in ink.shape])
    height, width = (side // step for side in padded.shape)
    mass = (padded > 0.5).reshape(height, step, width, step).mean((1, 3))
    around = np.ones((3, 3))  # parts that touch at a corner are one
    parts, count = ndimage.label(mass > 0, around)
    masses = ndimage.sum_labels(mass, parts, np.arange(count + 1))
    kept = (masses >= 0.05 * masses[1:].max())[parts] & (parts > 0)
    near = ndimage.binary_dilation(kept, around).repeat(step, 0).repeat(step, 1)
    clean = (((padded - LOW) / (HIGH - LOW)).clip(0, 1) * near)[: ink.shape[0], : ink.shape[1]]
    rows, columns = (np.flatnonzero((clean > EDGE).any(axis=d)) for d in (1, 0))
    return clean[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.float32)


def _as_mnist(digit: Floats, least: float = 1) -> Tensor:
    height, width = digit.shape
    scale = BOX / max(height, width, least)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = np.asarray(Image.fromarray(digit).resize(size, Image.Resampling.BICUBIC)).clip(0)
    small = (small / (FULL_INK * _level(small))).clip(max=1)
    top, left = (_start(small.sum(axis)) for axis in (1, 0))
    out = np.zeros((SIDE, SIDE), np.float32)
    out[top : top + size[1], left : left + size[0]] = small
    return torch.from_numpy((255 * out).round().astype(np.uint8))


def _start(mass: Floats) -> int:
    """Where along an axis a digit begins, so that its centre of mass is in the middle."""
    centre = float(mass @ np.arange(len(mass), dtype=np.float32) / mass.sum())
    return min(max(0, round(MASS_CENTRE - centre)), SIDE - len(mass))


def _level(ink: Floats) -> float:
    """What ink there is on average, each pixel weighing by the square of its own ink."""
    return float((ink**3).sum() / max((ink**2).sum(), 1e-12))
