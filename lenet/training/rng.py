"""The states of every generator that a model, a loss or a transform may draw from."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

WORDS = 624  # of the Mersenne Twister, which Python and numpy both have


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def random_state() -> dict[str, Any]:
    """As plain values and tensors: a number in a tensor is saved ten times as fast."""
    version, words, gauss = random.getstate()
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": (version, torch.tensor(words, dtype=torch.int64), gauss),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Raises: ValueError, TypeError or another where it is none; the generators may then be half
    changed.
    """
    version, words, gauss = state["python"]
    name, keys, position, has_gauss, cached = state["numpy"]
    # Python believes what the next normal number is, and numpy where in its memory it reads.
    if not isinstance(gauss, float | None) or not isinstance(cached, float):
        raise TypeError("random: expected a number kept for later")
    if type(position) is not int or not 0 <= position <= WORDS or keys.shape != (WORDS,):
        raise ValueError(f"random: expected a position in {WORDS} words")
    random.setstate((version, tuple(words.tolist()), gauss))
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, int(has_gauss), cached))
    torch.set_rng_state(state["torch"])
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
