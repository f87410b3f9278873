"""A sweep's results compared with the numbers that others published for the same settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lenet.config.check import metric_of
from lenet.config.metrics import is_maximized, is_share
from lenet.config.overrides import job_name
from lenet.report.transforms import transform_of


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


def compare_published(runs: pd.DataFrame, entries: Sequence[Mapping[str, Any]]) -> list[Comparison]:
    """A comparison for each entry that has finished runs, in the order of the entries.

    `runs` is the frame of a `Sweep`, with one run of each setting and seed. An entry is a
    mapping of a setting's keys and one metric, such as {model: lenet1, test/accuracy: 0.983}.
    """
    found = []
    finished = runs[runs["status"] == "FINISHED"]
    for entry in entries:
        if not entry.keys() <= set(runs.columns):
            continue
        metric, own = metric_of(entry), finished
        setting = {key: value for key, value in entry.items() if key != metric}
        for key, value in setting.items():
            own = own[own[key].astype(str) == str(value)]
        values = own[metric].astype(float).dropna()
        if values.empty:
            continue
        n, mean, sd = len(values), float(values.mean()), float(values.std())
        low, high = map(float, transform_of(metric).interval(n, mean, sd))
        label, number = job_name(setting, ", "), float(entry[metric])
        found.append(Comparison(label, metric, n, mean, sd, low, high, number))
    return found


def by_metric(compared: Sequence[Comparison]) -> list[list[Comparison]]:
    metrics = dict.fromkeys(each.metric for each in compared)
    return [[each for each in compared if each.metric == metric] for metric in metrics]


def as_printed(compared: Sequence[Comparison]) -> tuple[str, list[Comparison]]:
    """The name and the numbers of one metric as papers print them: errors instead of accuracies."""
    metric = compared[0].metric
    if not (is_share(metric) and is_maximized(metric)):
        return metric, list(compared)
    errors = [
        replace(c, mean=1 - c.mean, low=1 - c.high, high=1 - c.low, published=1 - c.published)
        for c in compared
    ]
    return metric.replace("accuracy", "error"), errors
