"""The scale on which the values of a metric are compared, where their spread is even."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import expit, logit

from lenet.config.metrics import metric

LEVEL = 0.95


@dataclass(frozen=True)
class Transform:
    """`forward` brings values to a scale, `back` brings them back, `slope` is its derivative."""

    forward: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]
    slope: Callable[[np.ndarray], np.ndarray]

    def interval(self, n: object, mean: object, sd: object) -> tuple[np.ndarray, np.ndarray]:
        """Student's 95 % interval of a mean, computed on this scale by the delta method, so that it
        stays among the possible values. NaN for one value, width 0 where all values are equal.
        """
        n, mean, sd = (np.asarray(a, float) for a in (n, mean, sd))
        with np.errstate(divide="ignore", invalid="ignore"):
            error = sd * self.slope(mean) / np.sqrt(n)
            low, high = map(self.back, stats.t.interval(LEVEL, n - 1, self.forward(mean), error))
        is_constant = (sd == 0) & (n > 1)
        return np.where(is_constant, mean, low), np.where(is_constant, mean, high)


def linear(values: np.ndarray) -> np.ndarray:
    return values


TRANSFORMS = {
    "linear": Transform(linear, linear, np.ones_like),
    "log": Transform(np.log, np.exp, lambda x: 1 / x),
    "logit": Transform(logit, expit, lambda x: 1 / (x * (1 - x))),
}


def transform_of(name: str) -> Transform:
    return TRANSFORMS[metric(name).scale]


def transformed(values: np.ndarray, name: str) -> np.ndarray:
    """Values of a metric on its scale. One at an end, such as an accuracy of 1, is taken to be half
    as far from it as the nearest other value.
    """
    scale = metric(name).scale
    if scale == "logit":
        between = values[(values > 0) & (values < 1)]
        nearest = np.minimum(between, 1 - between).min(initial=0.5)
        values = np.clip(values, nearest / 2, 1 - nearest / 2)
    elif scale == "log":
        values = np.maximum(values, values[values > 0].min(initial=1.0) / 2)
    return TRANSFORMS[scale].forward(values)
