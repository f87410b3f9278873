"""The two-way layout of a sweep: setting + seed + noise, with a variance for each setting.

Three seeds say little about one setting's variance, but all settings together say much. So each
variance is shrunk towards the one that is typical of the sweep, as if `PRIOR_DF` more degrees of
freedom had shown that one.

Source: Smyth 2004, "Linear models and empirical Bayes methods for assessing differential
expression in microarray experiments"; Dunnett 1955, "A multiple comparison procedure for comparing
several treatments with a control"; Hsu 1984, "Constrained simultaneous confidence intervals for
multiple comparisons with the best".
"""

import functools
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL, POWER = 0.95, 0.8
PRIOR_DF = 1.25  # more would find more, and be wrong more often where variances differ
ROUNDS = 5  # of weighting by the variances; the estimates hardly change after three
DRAWS = 10_000  # of the largest t value: p = 0.05 has an error of 0.002


@dataclass(frozen=True)
class Layout:
    """Estimates of K settings, their covariance (K, K) for the same seeds, the degrees of freedom
    of each variance and those of all the runs; the typical standard deviation of a run. Higher is
    better.
    """

    estimates: np.ndarray
    covariance: np.ndarray
    df: np.ndarray
    total_df: float
    typical_sd: float

    def behind(self, best: int, other: int) -> tuple[float, float, float]:
        """How far a setting is behind the best one, half the width of that difference's 95 %
        interval, and the p value of the hypothesis that no setting is better than `other`.

        Intervals and p values hold for all settings together: they come from the distribution of
        the largest t value among the differences of all settings from `other`.
        """
        error, largest = self._against(best, other)
        difference = self.estimates[best] - self.estimates[other]
        p = float(np.mean(largest >= difference / error))
        return difference, float(np.quantile(largest, LEVEL)) * error, p

    def chance(self, best: int, other: int, share: float) -> float:
        """The chance that a setting will be called worse than the best one when all its seeds are
        there, by what a `share` of them (0 to 1) tells now.

        Source: Spiegelhalter, Freedman and Blackburn 1986, "Monitoring clinical trials: conditional
        or predictive power?".
        """
        if share >= 1:
            return 0.0
        error, largest = self._against(best, other)
        now = (self.estimates[best] - self.estimates[other]) / error
        missing = np.quantile(largest, LEVEL) * np.sqrt(share) - now
        return float(stats.t.sf(missing / np.sqrt(1 - share), self.df[other]))

    def _against(self, best: int, other: int) -> tuple[float, np.ndarray]:
        """The error of the difference of two settings, and the largest t value among the
        differences of all settings from `other`, if none is better: (DRAWS).
        """
        variance = np.diag(self.covariance)
        errors = np.sqrt(variance + variance[other] - 2 * self.covariance[other])
        errors[other] = np.inf
        spread = np.sqrt(np.random.default_rng(1).chisquare(self.df[other], DRAWS) / self.df[other])
        largest = ((self._noise - self._noise[:, [other]]) / errors).max(axis=1) / spread
        return errors[best], largest

    def ahead(
        self, first: np.ndarray, second: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """How far the settings `first` are ahead of those in `second`, pair by pair, half the
        widths of the 95 % intervals of these differences, and two-sided p values.

        They hold for all pairs together, by the distribution of the largest |t| among the pairs.
        """
        variance = np.diag(self.covariance)
        errors = np.sqrt(variance[first] + variance[second] - 2 * self.covariance[first, second])
        a, b, own_df = variance[first], variance[second], self.df - PRIOR_DF
        # Satterthwaite's formula; what both variances have from the prior counts once.
        df = (a + b) ** 2 / (a**2 / own_df[first] + b**2 / own_df[second]) + PRIOR_DF
        df = np.minimum(df, self.total_df)
        chance = np.random.default_rng(1).random((DRAWS, 1))
        spread = np.sqrt(stats.chi2.ppf(chance, df) / df)
        noise = np.abs(self._noise[:, first] - self._noise[:, second]) / errors
        largest = (noise / spread).max(axis=1)
        difference = self.estimates[first] - self.estimates[second]
        p = np.mean(largest[:, None] >= np.abs(difference) / errors, axis=0)
        return difference, np.quantile(largest, LEVEL) * errors, p

    def smallest_found(self, seeds: int) -> float:
        """The difference from the best that is found with a power of 80 %, for a typical setting,
        if each setting is run with so many seeds.
        """
        count = len(self.estimates)
        df = min(PRIOR_DF + (seeds - 1) * (count - 1) / count, (seeds - 1) * (count - 1))
        spread = np.sqrt(np.random.default_rng(1).chisquare(df, DRAWS) / df)
        largest = self._largest / spread
        error = self.typical_sd * np.sqrt(2 / seeds)
        return float(error * (np.quantile(largest, LEVEL) + stats.t.ppf(POWER, df)))

    @functools.cached_property
    def _largest(self) -> np.ndarray:
        """The largest of the differences of all settings from one, in units of its error, if all
        variances are equal: (DRAWS).
        """
        noise = np.random.default_rng(0).standard_normal((DRAWS, len(self.estimates)))
        return (noise[:, 1:] - noise[:, :1]).max(axis=1) / np.sqrt(2)

    @functools.cached_property
    def _noise(self) -> np.ndarray:
        """Errors of the estimates at random: (DRAWS, K)."""
        rng, zero = np.random.default_rng(0), np.zeros(len(self.estimates))
        return rng.multivariate_normal(zero, self.covariance, DRAWS, method="svd")


def fit(values: np.ndarray, settings: np.ndarray, seeds: np.ndarray) -> Layout | None:
    """The layout of N runs: for each a value, the index of its setting and that of its seed.

    Seeds are a part of the model where settings share enough of them: their effects can be told
    from those of the settings, and take at most half of the degrees of freedom.
    Returns: None where equal settings always gave equal values, so that there is no variance.
    """
    design = np.eye(settings.max() + 1)[settings]
    count = design.shape[1]
    seed_design = np.eye(seeds.max() + 1)[seeds]
    # The effects sum to zero, so that an estimate is that of the average seed.
    full = np.hstack([design, seed_design[:, :-1] - seed_design[:, [-1]]])
    is_cheap = 2 * (full.shape[1] - count) <= len(values) - count
    if is_cheap and np.linalg.matrix_rank(full) == full.shape[1]:
        design = full
    root = np.ones(len(values))
    for _ in range(ROUNDS):
        inverse = np.linalg.pinv(root[:, None] * design)
        coefficients = inverse @ (root * values)
        residuals = values - design @ coefficients
        left = 1 - root * np.einsum("ij,ji->i", design, inverse)
        squares = np.bincount(settings, residuals**2, count)
        own_df = np.bincount(settings, left, count)
        known = own_df > 1e-9
        # A wild setting makes the mean of the variances large, but not their median.
        median = np.median(squares[known] / stats.chi2.median(own_df[known]))
        typical = min(squares.sum() / own_df.sum(), median)
        if not typical > 1e-24 * np.square(values).max():
            return None
        df = PRIOR_DF + own_df
        root = np.sqrt(df / (PRIOR_DF * typical + squares))[settings]
    covariance = np.linalg.pinv(design.T @ (root[:, None] ** 2 * design))
    total = float(own_df.sum())
    df = np.minimum(df, total)
    sd = float(np.sqrt(typical))
    return Layout(coefficients[:count], covariance[:count, :count], df, total, sd)
