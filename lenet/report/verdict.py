"""Which settings of a sweep are worse than the best, and which are not.

A setting is everything that a sweep varies except the seed. Runs that differ only in their seed
repeat the same setting. scipy computes every interval and every p value.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit, logit

from lenet.config.metrics import is_share
from lenet.config.overrides import job_name
from lenet.report.results import SEED

LEVEL, ALPHA = 0.95, 0.05
BEST, SAME, WORSE = "best", "no significant difference", "worse"
UNKNOWN, NO_RUN = "too few runs to tell", "-"
ONE_RUN = "one run has no spread"
NO_SPREAD = "no spread over seeds"


@dataclass(frozen=True)
class Verdict:
    """The ranking of a sweep's settings and how each compares with the best.

    `settings` has a row for each setting, best first. Its columns: key, label, the axes, n, mean,
    sd, low and high (95 % interval of the mean), verdict, test, difference (to the best; positive
    is worse), difference_low, difference_high, p, p_corrected, seconds (a run), runs, unfinished
    (seeds without a run that counts).

    `runs` holds the runs that count: finished ones with a finite value, the newest of each seed.
    `best` is the label of the setting that the others are compared with, or None where no setting
    has two runs. Each p value was multiplied by `comparisons`.
    """

    metric: str
    maximize: bool
    axes: list[str]
    settings: pd.DataFrame
    runs: pd.DataFrame
    best: str | None
    comparisons: int

    @property
    def no_worse(self) -> list[str]:
        """Labels of the best setting and of those without a significant difference from it."""
        return list(self.settings.loc[self.settings["verdict"].isin([BEST, SAME]), "label"])


def judge(runs: pd.DataFrame, axes: Sequence[str], metric: str, maximize: bool) -> Verdict:
    """The verdict on `runs`, a frame from `load_sweep`. The order of its rows has no influence."""
    varied = [axis for axis in axes if axis != SEED]
    runs = _with_settings(runs, varied)
    done = runs[(runs["status"] == "FINISHED") & np.isfinite(runs[metric].astype(float))]
    counted = done.drop_duplicates(["setting", SEED], keep="last")
    table = _ranking(runs, counted, varied, metric, maximize)
    table, best, comparisons = _against_best(table, counted, metric, maximize)
    return Verdict(metric, maximize, varied, table, counted, best, comparisons)


def _with_settings(runs: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """The runs in the order they started, with `setting` (a key) and `label` (for people)."""
    values = runs[list(axes)].astype(object)
    rows = values.where(values.notna(), None).to_dict("records")
    labels = [job_name(row, ", ") or "the only setting" for row in rows]
    keys = [json.dumps(list(row.values()), default=str) for row in rows]
    if len(set(labels)) < len(set(keys)):  # six digits do not tell the settings apart
        labels = [job_name({axis: str(value) for axis, value in row.items()}, ", ") for row in rows]
    named = runs.assign(setting=keys, label=labels)
    return named.sort_values(["start", "run_id"], ignore_index=True)


def _ranking(
    runs: pd.DataFrame, counted: pd.DataFrame, axes: list[str], metric: str, maximize: bool
) -> pd.DataFrame:
    by_setting = runs.groupby("setting")
    table = by_setting[["label", *axes]].first()
    table["runs"] = by_setting.size()
    done = runs[runs["status"] == "FINISHED"].groupby("setting")
    table["seconds"] = done["seconds"].mean()
    # Sorted, so that the last bits of a sum do not depend on which run started first.
    values = counted.sort_values(metric).groupby("setting")[metric]
    table = table.join(values.agg(n="count", mean="mean", sd="std"))
    table["n"] = table["n"].fillna(0).astype(int)
    table["unfinished"] = by_setting[SEED].nunique(dropna=False) - table["n"]
    table["low"], table["high"] = interval(table["n"], table["mean"], table["sd"], is_share(metric))
    table = table.reset_index(names="key")
    table["order"] = -table["mean"] if maximize else table["mean"]
    return table.sort_values(["order", "label"], ignore_index=True).drop(columns="order")


def interval(n: Any, mean: Any, sd: Any, share: bool) -> tuple[np.ndarray, np.ndarray]:
    """Student's 95 % interval of a mean: NaN for one value, width 0 where all values are equal.

    That of a share is computed on the logit scale, so that it stays between 0 and 1: the standard
    deviation there is sd / (mean (1 - mean)), by the delta method.
    """
    n, mean, sd = (np.asarray(a, float) for a in (n, mean, sd))
    with np.errstate(divide="ignore", invalid="ignore"):
        centre, spread = (logit(mean), sd / (mean * (1 - mean))) if share else (mean, sd)
        ends = stats.t.interval(LEVEL, n - 1, loc=centre, scale=spread / np.sqrt(n))
        low, high = map(expit, ends) if share else ends
    is_constant = (sd == 0) & (n > 1)
    return np.where(is_constant, mean, low), np.where(is_constant, mean, high)


def _against_best(
    table: pd.DataFrame, counted: pd.DataFrame, metric: str, maximize: bool
) -> tuple[pd.DataFrame, str | None, int]:
    """Compares each setting with the best one that has at least two runs.

    The tests are two-sided t-tests. With five seeds the smallest p value of Wilcoxon's test is
    2/2^5 = 0.06, so it could never find a difference. Runs are paired by seed where at least half
    of the seeds are shared, because a seed fixes the first weights and the order of the images.
    Otherwise the test is Welch's, because settings differ in their spread. Every p value is
    multiplied by the number of comparisons (Bonferroni).

    The settings that are not called worse form a confidence set of the truly best one, although
    the same numbers picked the setting they are compared with: the truly best one is called worse
    only where one of the k - 1 others beats it by luck, each with probability 0.05/2/(k - 1).

    Source: de Winter 2013, "Using the Student's t-test with extremely small sample sizes"; Welch
    1947; Hsu 1984, "Constrained simultaneous confidence intervals for multiple comparisons with
    the best".
    """
    repeated = table[table["n"] >= 2]
    columns = ["verdict", "test", "difference", "difference_low", "difference_high"]
    columns += ["p", "p_corrected"]
    blank = [math.nan] * 5
    best = None if repeated.empty else repeated.index[0]
    comparisons = max(0, len(repeated) - 1)
    values = {key: group.set_index(SEED)[metric] for key, group in counted.groupby("setting")}
    sign = 1 if maximize else -1
    rows = []
    for i, key, n in zip(table.index, table["key"], table["n"], strict=True):
        if i == best:
            rows.append((BEST, "", *blank))
        elif n < 2:
            rows.append((UNKNOWN, ONE_RUN, *blank) if n else (NO_RUN, "", *blank))
        else:
            rows.append(
                compare(
                    sign * values[table["key"][best]],
                    sign * values[key],
                    comparisons,
                    is_share(metric),
                )
            )
    label = None if best is None else str(table["label"][best])
    return table.join(pd.DataFrame(rows, columns=columns, index=table.index)), label, comparisons


def compare(best: pd.Series, other: pd.Series, comparisons: int, share: bool) -> tuple:
    """(verdict, test, difference, low, high, p, corrected p) of two series indexed by seed.

    More is better. `low` and `high` bound the difference; like p they are corrected, so that all
    intervals of a sweep hold together with 95 % confidence.
    """
    shared = best.index.intersection(other.index)
    paired = len(shared) >= max(2, min(len(best), len(other)) / 2)
    if paired:
        best, other = best[shared], other[shared]
        test = f"paired t, {len(shared)} seeds"
        has_spread = np.ptp(best - other) > 1e-12 * max(best.abs().max(), other.abs().max())
    else:
        test = f"Welch's t, {len(best)} and {len(other)} runs"
        has_spread = any(np.ptp(side) > 1e-12 * side.abs().max() for side in (best, other))
    difference = float(best.mean() - other.mean())
    if not has_spread:  # equal values do not show that the settings never differ
        return UNKNOWN, f"{test}: {NO_SPREAD}", difference, *[math.nan] * 4
    if paired:
        result = stats.ttest_rel(best.to_numpy(), other.to_numpy())
    else:
        result = stats.ttest_ind(best.to_numpy(), other.to_numpy(), equal_var=False)
    p = float(result.pvalue)
    corrected = min(1.0, p * comparisons)
    low, high = result.confidence_interval(1 - ALPHA / comparisons)
    if share:  # no two shares are further apart
        low, high = max(low, -1.0), min(high, 1.0)
    verdict = WORSE if corrected <= ALPHA and difference > 0 else SAME
    return verdict, test, difference, float(low), float(high), p, corrected
