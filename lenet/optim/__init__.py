"""Optimizers and schedules that torch does not have."""

from lenet.optim.sdlm import SDLM

__all__ = ["SDLM"]
