"""The objective: the metric that a run returns and by which a search compares runs."""

from collections.abc import Sequence


class Result(float):
    """A run's objective, with its value after each epoch.

    It is a float, so that any sampler can take it. `pruned` is true if the run was ended early
    because other trials were better after as many epochs.
    """

    curve: tuple[float, ...]
    pruned: bool

    def __new__(cls, value: float, curve: Sequence[float] = (), pruned: bool = False) -> "Result":
        result = super().__new__(cls, value)
        result.curve, result.pruned = tuple(curve), pruned
        return result


def is_hopeless(curve: Sequence[float], bounds: Sequence[float | None], maximize: bool) -> bool:
    """Whether the best epoch so far is worse than the bound for the last epoch."""
    bound = bounds[len(curve) - 1] if 0 < len(curve) <= len(bounds) else None
    if bound is None:
        return False
    return max(curve) < bound if maximize else min(curve) > bound
