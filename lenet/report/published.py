"""A sweep's results compared with the numbers that others published for the same settings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lenet.config.check import metric_of
from lenet.report.verdict import format_value, interval, is_share, short_names


@dataclass(frozen=True)
class Comparison:
    """A setting's mean over its finished runs, and the number published for it. With one run the
    standard deviation and the 95 % interval are NaN.
    """

    label: str
    metric: str
    n: int
    mean: float
    sd: float
    low: float
    high: float
    published: float


def compare_published(runs: pd.DataFrame, entries: Sequence[Any]) -> list[Comparison]:
    """A comparison for each entry that has finished runs, in the order of the entries.

    `runs` is a frame from `load_sweep`. An entry is a mapping of a setting's keys and one metric,
    such as {model: lenet1, test/accuracy: 0.983}; anything else is left out.
    """
    found = []
    for entry in entries:
        try:
            metric = metric_of(entry)
        except ValueError:  # the tag of a run may hold anything
            continue
        setting = {str(key): value for key, value in entry.items() if key != metric}
        if not {metric, *setting} <= set(runs.columns):
            continue
        own = runs[runs["status"] == "FINISHED"]
        for key, value in setting.items():
            own = own[own[key].astype(str) == str(value)]
        values = own[metric].astype(float).dropna()
        if values.empty:
            continue
        n, mean, sd = len(values), float(values.mean()), float(values.std())
        low, high = map(float, interval(n, mean, sd))
        names = short_names(list(setting))
        label = ", ".join(
            f"{k}={format_value(v)}" for k, v in zip(names, setting.values(), strict=True)
        )
        number = float(entry[metric])
        found.append(Comparison(label, metric, n, mean, sd, low, high, number))
    return found


def by_metric(compared: Sequence[Comparison]) -> list[list[Comparison]]:
    metrics = dict.fromkeys(each.metric for each in compared)
    return [[each for each in compared if each.metric == metric] for metric in metrics]


def as_printed(compared: Sequence[Comparison]) -> tuple[str, list[Comparison]]:
    """The name and the numbers of one metric as papers print them: errors instead of accuracies."""
    metric = compared[0].metric
    if not is_share(metric):
        return metric, list(compared)
    errors = [
        replace(c, mean=1 - c.mean, low=1 - c.high, high=1 - c.low, published=1 - c.published)
        for c in compared
    ]
    return metric.replace("accuracy", "error"), errors
