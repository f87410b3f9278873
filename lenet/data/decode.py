"""The pixels of a picture's file, whatever its format."""

import warnings
from collections.abc import Iterable
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lenet.cli import first_error_line, shortened
from lenet.data.errors import DataError

Floats = NDArray[np.float32]

# Formats of pixels only. For EPS, as an example of others, Pillow starts Ghostscript.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM")


def decoded(content: bytes, name: str, side: int) -> Floats:
    """The picture, its larger side reduced to `side` pixels at most.

    Shapes: -> 0 to 255 (H, W, 4): red, green, blue, opacity.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of broken metadata; only the orientation is used
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(BytesIO(content), formats=FORMATS) as image:
                image.draft(image.mode, (side, side))
                image.load()
                return _reduced(image, side)
        except Image.UnidentifiedImageError:
            kinds = ", ".join(FORMATS)
            raise DataError(f"{name}: expected a picture ({kinds}), found none of these") from None
        except Exception as error:
            # Pillow raises OSError, SyntaxError, struct.error, KeyError and others.
            reason = shortened(first_error_line(error), 120)
            raise DataError(f"{name}: cannot be read as a picture ({reason})") from None


def _reduced(image: Image.Image, side: int) -> Floats:
    if image.mode[0] in "IF":  # 16 or 32 bits a pixel, of unknown range
        levels = np.array(image, np.float32)
        levels -= levels.min()
        levels *= 255 / max(float(levels.max()), 1e-30)
        image = Image.fromarray(levels.round().astype(np.uint8))
    elif image.mode not in ("L", "RGB", "RGBA", "CMYK") or "transparency" in image.info:
        image = image.convert("RGBA")
    image.thumbnail((side, side))
    return np.asarray(ImageOps.exif_transpose(image).convert("RGBA"), np.float32)


def stacked(pictures: Iterable[tuple[str, bytes]], side: int) -> NDArray[np.uint8]:
    """Pictures, each the name and bytes of a file, as one array. A picture larger than `side` is
    resized to a square of that size; where the others have several sizes, they are too.

    Shapes: -> (N, H, W) where none has colours, otherwise (N, H, W, 3).
    Raises: DataError where a file is no picture.
    """
    images = []
    for name, content in pictures:
        rgb = decoded(content, name, 4 * side)[..., :3].round().astype(np.uint8)
        images.append(_squared(rgb, side) if max(rgb.shape) > side else rgb)
    if len({image.shape for image in images}) > 1:
        images = [_squared(image, side) for image in images]
    stack = np.stack(images)
    return stack[..., 0] if (stack == stack[..., :1]).all() else stack


def _squared(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(rgb).resize((side, side), Image.Resampling.BILINEAR))
