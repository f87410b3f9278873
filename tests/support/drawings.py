"""A picture of a digit, for tests that read pictures."""

from typing import Any

from PIL import Image, ImageDraw

SEVEN = ((0.15, 0.1), (0.8, 0.08), (0.42, 0.95))


def drawn(
    size: tuple[int, int] = (200, 240),
    box: tuple[int, int, int, int] = (60, 50, 80, 120),
    width: int = 14,
    ink: Any = 0,
    paper: Any = 255,
    mode: str = "L",
) -> Image.Image:
    """A 7 in `box` (left, top, width, height), drawn at twice the size and scaled down."""
    left, top, wide, high = (2 * v for v in box)
    mask = Image.new("L", (2 * size[0], 2 * size[1]))
    points = [(left + x * wide, top + y * high) for x, y in SEVEN]
    ImageDraw.Draw(mask).line(points, fill=255, width=2 * width, joint="curve")
    mask = mask.resize(size, Image.Resampling.BOX)
    picture = Image.new(mode, size, paper)
    picture.paste(Image.new(mode, size, ink), mask=mask)
    return picture
