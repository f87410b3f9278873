"""How the pictures of a set are made: their size, their ground, how large the ink is and where."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

SAMPLE = 1000  # images that are looked at
NEAR = 16  # levels of 255: what is closer to the ground is ground
PLAIN = 0.95  # the share of the border's pixels that are ground in a set with a plain ground

Side = Annotated[int, Field(ge=1, le=4096)]


@dataclass(frozen=True)
class Form:
    """The form of a set's pictures: `height` and `width` in pixels.

    `ground` is the level around the ink of all of them, 0 or 255. The larger side of the ink is
    `box` pixels, and `centre` says which of its centres is in the middle: that of its mass or that
    of its box. Where `ground` is None, the pictures have no plain ground.
    """

    height: Side = 28
    width: Side = 28
    ground: Literal[0, 255] | None = 0
    box: Side = 20
    centre: Literal["mass", "box"] = "mass"

    def in_words(self) -> str:
        ground = {0: " on black", 255: " on white", None: ""}[self.ground]
        return f"{self.width}x{self.height} pixels{ground}"

    def unlike(self, other: "Form") -> str:
        """How pictures of this form differ from those of another, or '' where they do not."""
        mine, theirs = self.in_words(), other.in_words()
        if mine == theirs:
            return ""
        return f"its pictures are {mine}, the network learned from {theirs}; expect more mistakes"


MNIST = Form()


def form_of(images: Tensor) -> Form:
    """The form that these images have.

    Shapes: uint8 (N, H, W) or (N, C, H, W).
    """
    height, width = images.shape[-2:]
    sample = images[:: max(1, len(images) // SAMPLE)][:SAMPLE]
    if sample.ndim == 4 and sample.shape[1] == 1:
        sample = sample[:, 0]
    if sample.ndim == 4:
        return Form(height, width, ground=None)
    for ground in (0, 255):
        ink = (sample.float() - ground).abs()
        border = torch.cat([ink[:, 0], ink[:, -1], ink[:, :, 0], ink[:, :, -1]], dim=1)
        inked = ink[(ink > NEAR).any(2).any(1)]
        if (border <= NEAR).float().mean() >= PLAIN and len(inked):
            return _form_of_ink(inked, ground)
    return Form(height, width, ground=None)


def _form_of_ink(ink: Tensor, ground: Literal[0, 255]) -> Form:
    """Shapes: float32 (N, H, W), 0 for ground."""
    height, width = ink.shape[1:]
    sides, by_mass, by_box = [], [], []
    for across, size in ((2, height), (1, width)):
        places = torch.arange(size, dtype=torch.float32)
        mass = ink.sum(across)
        by_mass.append((mass * places).sum(1) / mass.sum(1))
        has_ink = (ink > NEAR).any(across)
        first = torch.where(has_ink, places, size).amin(1)
        last = torch.where(has_ink, places, -1).amax(1)
        sides.append(last - first + 1)
        by_box.append((first + last) / 2)
    box = int(torch.maximum(*sides).median())
    # What is in the middle varies less.
    mass_spread, box_spread = (torch.stack(c).std(1).sum() for c in (by_mass, by_box))
    return Form(height, width, ground, box, "mass" if mass_spread < box_spread else "box")
