"""Which settings of a sweep are no worse than the best, and what each parameter does.

Frames in, frames out; scipy computes every interval and every p value. A setting is what a job
varies without its seed; runs that differ in their seed alone are its repetitions.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lenet.report.results import SEED

LEVEL, ALPHA = 0.95, 0.05
BEST, SAME, WORSE, UNKNOWN, NOTHING = "best", "not told apart", "worse", "cannot be told", "-"
TOO_FEW = "one run: no spread to judge by"
NO_SPREAD = "no spread over seeds"
MOST_LEVELS = 12  # values of a number; with more of them it is a trend, not a set of levels


@dataclass(frozen=True)
class Verdict:
    """`settings` has a row a setting, best first: key, label, the axes, n, mean, sd, low, high
    (of the mean, 95 %), verdict, test, difference (to the best, positive = worse), its low and
    high, p, p_corrected, seconds (a run), runs, unfinished.

    `runs` are the runs that count: finished, with a finite value, the newest of each seed; `again`
    is the number of those that newer ones replaced. `best` is the label that the others are held
    against, None where no setting has two runs. `comparisons` is what p values were multiplied by.
    """

    metric: str
    maximize: bool
    axes: list[str]
    settings: pd.DataFrame
    runs: pd.DataFrame
    best: str | None
    comparisons: int
    again: int

    @property
    def no_worse(self) -> list[str]:
        """Labels of the best and of those that the numbers don't tell apart from it."""
        return list(self.settings.loc[self.settings["verdict"].isin([BEST, SAME]), "label"])


def judge(runs: pd.DataFrame, axes: Sequence[str], metric: str, maximize: bool) -> Verdict:
    """`runs` as `lenet.report.results.load_sweep` gives them; the order of rows doesn't matter."""
    varied = [axis for axis in axes if axis != SEED]
    runs = with_settings(runs, varied)
    done = runs[(runs["status"] == "FINISHED") & np.isfinite(runs[metric].astype(float))]
    seeded = done[SEED].notna()
    newest = done[seeded].drop_duplicates(["setting", SEED], keep="last")
    counted = pd.concat([newest, done[~seeded]]).sort_index()
    table = _ranking(runs, counted, varied, metric, maximize)
    table, best, comparisons = _against_best(table, counted, metric, maximize)
    return Verdict(
        metric, maximize, varied, table, counted, best, comparisons, len(done) - len(counted)
    )


def with_settings(runs: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
    """Adds `setting`, a key, and `label`, the same for reading; sorts by start."""
    names = short_names(axes)
    values = runs[list(axes)].astype(object)
    rows = values.where(values.notna(), None).values.tolist()
    labels = [
        ", ".join(f"{n}={shown(v)}" for n, v in zip(names, row, strict=True)) or "the one setting"
        for row in rows
    ]
    keys = [json.dumps(row, default=str) for row in rows]
    added = runs.assign(setting=keys, label=labels)
    if SEED not in added:
        added[SEED] = None
    return added.sort_values(["start", "run_id"], ignore_index=True)


def short_names(axes: Sequence[str]) -> list[str]:
    """The last part of each name, or as many parts as tell it from the others."""
    parts = [axis.replace("/", ".").split(".") for axis in axes]

    def tail(i: int, count: int) -> str:
        return ".".join(parts[i][-count:])

    def alone(i: int, count: int) -> bool:
        return all(tail(i, count) != tail(j, count) for j in range(len(axes)) if j != i)

    counts = [range(1, len(part) + 1) for part in parts]
    return [
        tail(i, next((n for n in counts[i] if alone(i, n)), len(parts[i])))
        for i in range(len(axes))
    ]


def is_share(metric: str) -> bool:
    return "accuracy" in metric


def shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _ranking(
    runs: pd.DataFrame, counted: pd.DataFrame, axes: list[str], metric: str, maximize: bool
) -> pd.DataFrame:
    everything = runs.groupby("setting")
    table = everything[["label", *axes]].first()
    table["runs"] = everything.size()
    done = runs[runs["status"] == "FINISHED"].groupby("setting")
    table["unfinished"] = (table["runs"] - done.size()).fillna(table["runs"]).astype(int)
    table["seconds"] = done["seconds"].mean()
    # Sorted, so that the last bits of a sum don't depend on which run started first.
    values = counted.sort_values(metric).groupby("setting")[metric]
    table = table.join(values.agg(n="count", mean="mean", sd="std"))
    table["n"] = table["n"].fillna(0).astype(int)
    table["low"], table["high"] = interval(table["n"], table["mean"], table["sd"])
    table = table.reset_index(names="key")
    table["order"] = -table["mean"] if maximize else table["mean"]
    return table.sort_values(["order", "label"], ignore_index=True).drop(columns="order")


def interval(n: Any, mean: Any, sd: Any) -> tuple[np.ndarray, np.ndarray]:
    """Student's 95 % interval of a mean; NaN for one value, no width where all are the same."""
    n, mean, sd = (np.asarray(a, float) for a in (n, mean, sd))
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = stats.t.interval(LEVEL, n - 1, loc=mean, scale=sd / np.sqrt(n))
    still = (sd == 0) & (n > 1)
    return np.where(still, mean, low), np.where(still, mean, high)


def _against_best(
    table: pd.DataFrame, counted: pd.DataFrame, metric: str, maximize: bool
) -> tuple[pd.DataFrame, str | None, int]:
    """Holds each setting against the best that has at least two runs.

    Two-sided t-tests, since with five seeds Wilcoxon's least p value is 2/2^5 = 0.06 and nothing
    could ever be told apart. Paired by seed where half of the seeds or more are shared, as a seed
    fixes first weights and order of the images; else Welch's, since settings differ in their
    spread. Every p value is multiplied by the number of comparisons (Bonferroni).

    What is not called worse is then a confidence set of the truly best setting, although the one
    it is compared with was picked by the same numbers: it is called worse only where one of the
    k - 1 others beats it by luck, each with a probability of 0.05/2/(k - 1) at most.

    Source: de Winter 2013, "Using the Student's t-test with extremely small sample sizes"; Welch
    1947; Hsu 1984, "Constrained simultaneous confidence intervals for multiple comparisons with
    the best".
    """
    able = table[table["n"] >= 2]
    columns = ["verdict", "test", "difference", "difference_low", "difference_high"]
    columns += ["p", "p_corrected"]
    blank = [math.nan] * 5
    best = None if able.empty else able.index[0]
    comparisons = max(0, len(able) - 1)
    values = {key: group.set_index(SEED)[metric] for key, group in counted.groupby("setting")}
    sign = 1 if maximize else -1
    rows = []
    for i, key, n in zip(table.index, table["key"], table["n"], strict=True):
        if i == best:
            rows.append((BEST, "", *blank))
        elif n < 2:
            rows.append((UNKNOWN, TOO_FEW, *blank) if n else (NOTHING, "", *blank))
        else:
            rows.append(compare(sign * values[table["key"][best]], sign * values[key], comparisons))
    label = None if best is None else str(table["label"][best])
    return table.join(pd.DataFrame(rows, columns=columns, index=table.index)), label, comparisons


def compare(best: pd.Series, other: pd.Series, comparisons: int = 1) -> tuple:
    """(verdict, test, difference, low, high, p, corrected p) of two series by seed, more = better.

    The interval is of the difference, corrected as p is: all of them hold at once with 95 %.
    """
    shared = best.index.dropna().intersection(other.index.dropna())
    paired = len(shared) >= max(2, min(len(best), len(other)) / 2)
    if paired:
        best, other = best[shared], other[shared]
        test = f"paired t, {len(shared)} seeds"
        still = np.ptp(best - other) <= 1e-12 * max(best.abs().max(), other.abs().max())
    else:
        test = f"Welch's t, {len(best)} and {len(other)} runs"
        still = all(np.ptp(side) <= 1e-12 * side.abs().max() for side in (best, other))
    difference = float(best.mean() - other.mean())
    if still:  # also where all values are equal: that they ever differ can't be told
        return UNKNOWN, f"{test}: {NO_SPREAD}", difference, *[math.nan] * 4
    if paired:
        result = stats.ttest_rel(best.to_numpy(), other.to_numpy())
    else:
        result = stats.ttest_ind(best.to_numpy(), other.to_numpy(), equal_var=False)
    p = float(result.pvalue)
    corrected = min(1.0, p * comparisons)
    low, high = result.confidence_interval(1 - ALPHA / comparisons)
    verdict = WORSE if corrected <= ALPHA and difference > 0 else SAME
    return verdict, test, difference, float(low), float(high), p, corrected
