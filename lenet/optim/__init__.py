"""The paper's optimizer, and learning rate schedules."""

from lenet.optim.sdlm import SDLM

__all__ = ["SDLM"]
