"""A sweep's results beside the numbers that others published for the same settings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lenet.config.check import metric_of
from lenet.report.verdict import interval, is_share, short_names, shown


@dataclass(frozen=True)
class Comparison:
    """A setting's mean over its finished runs with the standard deviation and 95 % interval (nan
    where there is but one), and the number published for it.
    """

    label: str
    metric: str
    n: int
    mean: float
    sd: float
    low: float
    high: float
    published: float


def beside(runs: pd.DataFrame, entries: Sequence[Any]) -> list[Comparison]:
    """In the entries' order; one that no finished run is of is left out, as is what is no entry.

    `runs` as `lenet.report.results.load_sweep` gives them.
    """
    found = []
    for entry in entries:
        try:
            metric = metric_of(entry)
        except ValueError:  # a tag of a run may hold anything
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
        label = ", ".join(f"{k}={shown(v)}" for k, v in zip(names, setting.values(), strict=True))
        number = float(entry[metric])
        found.append(Comparison(label, metric, n, mean, sd, low, high, number))
    return found


def as_printed(compared: Sequence[Comparison]) -> tuple[str, list[Comparison]]:
    """What to call one metric's numbers, and these: of an accuracy the error, as papers have it."""
    metric = compared[0].metric
    if not is_share(metric):
        return metric, list(compared)
    errors = [
        replace(c, mean=1 - c.mean, low=1 - c.high, high=1 - c.low, published=1 - c.published)
        for c in compared
    ]
    return metric.replace("accuracy", "error"), errors
