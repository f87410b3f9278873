"""The effect of each parameter of a sweep on the metric, and of each setting on each class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lenet.config.overrides import format_value, short_names
from lenet.report.transforms import transform_of
from lenet.report.verdict import Verdict

CLASS = "test/class_accuracy/"
UNSET = "not set"
MOST_LEVELS = 12  # A number with more values is a trend, not a set of levels.


@dataclass(frozen=True)
class Effect:
    """What one parameter does to the metric.

    `levels` has a row for each value: value, text, n (runs), mean, sd, low and high (95 % interval
    of the mean). `share` is the part of the runs' variance that lies between the values: eta
    squared, the sum of squares between values divided by the total. For a number with many values
    `levels` is empty, and `rho` is Spearman's rank correlation with the metric.
    """

    axis: str
    name: str
    levels: pd.DataFrame
    share: float
    rho: float


def main_effects(verdict: Verdict) -> list[Effect]:
    """The effect of each parameter, averaged over the others. The strongest comes first."""
    names = short_names(verdict.axes)
    effects = [
        _effect(verdict.runs, axis, name, verdict.metric)
        for axis, name in zip(verdict.axes, names, strict=True)
    ]
    return sorted(effects, key=lambda effect: -_strength(effect))


def _strength(effect: Effect) -> float:
    strength = effect.share if math.isnan(effect.rho) else effect.rho**2
    return -1.0 if math.isnan(strength) else strength


def _effect(runs: pd.DataFrame, axis: str, name: str, metric: str) -> Effect:
    values = runs[axis].astype(object)
    values = values.where(values.notna(), UNSET)
    measured = runs[metric].astype(float)
    distinct = list(dict.fromkeys(values))
    if len(distinct) > MOST_LEVELS and all(_is_number(value) for value in distinct):
        numbers = values.astype(float)
        rho = math.nan if _is_constant(measured) else stats.spearmanr(numbers, measured).statistic
        return Effect(axis, name, pd.DataFrame(), math.nan, float(rho))
    groups = measured.groupby(values, sort=False)
    levels = groups.agg(n="count", mean="mean", sd="std").reset_index(names="value")
    texts = [format_value(value) for value in distinct]
    levels.insert(1, "text", texts if len(set(texts)) == len(texts) else list(map(str, distinct)))
    levels["low"], levels["high"] = transform_of(metric).interval(
        levels["n"], levels["mean"], levels["sd"]
    )
    if all(_is_number(value) for value in distinct):
        levels = levels.sort_values("value", ignore_index=True)
    total = float(((measured - measured.mean()) ** 2).sum())
    between = float((levels["n"] * (levels["mean"] - measured.mean()) ** 2).sum())
    share = math.nan if _is_constant(measured) else between / total
    return Effect(axis, name, levels, share, math.nan)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool)


def _is_constant(values: pd.Series) -> bool:
    return len(values) < 2 or np.ptp(values) <= 1e-12 * values.abs().max()


def class_differences(verdict: Verdict, most: int = 8) -> pd.DataFrame:
    """A row for each class: the best setting's mean test accuracy, then the difference of each
    following setting from it. Empty where no class was scored.
    """
    scored = [column for column in verdict.runs.columns if column.startswith(CLASS)]
    ranked = verdict.settings[verdict.settings["n"] > 0].head(most)
    if not scored or ranked.empty:
        return pd.DataFrame()
    scored.sort(key=lambda column: int(column.removeprefix(CLASS)))
    means = verdict.runs.groupby("setting")[scored].mean().loc[ranked["key"]]
    best = means.iloc[0]
    rows: dict[str, Sequence[float]] = {str(ranked["label"].iloc[0]): best.to_list()}
    for label, (_, row) in zip(ranked["label"].iloc[1:], means.iloc[1:].iterrows(), strict=True):
        rows[str(label)] = (row - best).to_list()
    classes = [column.removeprefix(CLASS) for column in scored]
    return pd.DataFrame(rows, index=pd.Index(classes, name="class"))
