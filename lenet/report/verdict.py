"""Which settings of a sweep are worse than the best, and which are not.

A setting is everything that a sweep varies except the seed. Runs that differ only in their seed
repeat the same setting. `lenet.report.layout` has the statistical model.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lenet.config.overrides import job_name
from lenet.report.layout import fit
from lenet.report.results import SEED
from lenet.report.transforms import transform_of, transformed

ALPHA = 0.05
BEST, SAME, WORSE = "best", "no significant difference", "worse"
TOO_FEW, NO_SPREAD = "too few runs", "no spread over seeds"
FAILS, NO_RUN = "not compared", "-"
MOST_SEEDS = 100  # that are advised


@dataclass(frozen=True)
class Power:
    """`seeds` runs of each setting find a `difference` from the best in four of five sweeps;
    `more_seeds` would find half of it.
    """

    seeds: int
    difference: float
    more_seeds: int | None


@dataclass(frozen=True, repr=False)
class Verdict:
    """The ranking of a sweep's settings and how each compares with the best.

    `settings` has a row for each setting, best first. Its columns: key, label, the axes, n, mean,
    sd, low and high (95 % interval of the mean), verdict, difference (to the best; positive is
    worse), difference_low, difference_high, p, seconds (a run), runs, failed (seeds whose newest
    run failed, or has a value that is not finite), unfinished (seeds without a run that ended).

    `runs` holds the runs that count: finished ones with a finite value, the newest of each seed.
    `best` is the label of the setting that the others are compared with, or None where no setting
    has two runs. Intervals of differences and p values hold for all settings together.
    """

    metric: str
    maximize: bool
    axes: list[str]
    settings: pd.DataFrame
    runs: pd.DataFrame
    best: str | None
    power: Power | None

    @property
    def no_worse(self) -> list[str]:
        """Labels of the best setting and of those without a significant difference from it."""
        return list(self.settings.loc[self.settings["verdict"].isin([BEST, SAME]), "label"])

    def __repr__(self) -> str:
        return f"Verdict by {self.metric}: best {self.best}, no worse {self.no_worse}"


def judge(runs: pd.DataFrame, axes: Sequence[str], metric: str, maximize: bool) -> Verdict:
    """The verdict on `runs`, the frame of a `Sweep`. The order of its rows has no influence."""
    varied = [axis for axis in axes if axis != SEED]
    runs = with_settings(runs, varied)
    newest = runs[runs["status"].isin(["FINISHED", "FAILED"])]
    newest = newest.drop_duplicates(["setting", SEED], keep="last")
    counts = (newest["status"] == "FINISHED") & np.isfinite(newest[metric].astype(float))
    table = _ranking(runs, newest, counts, varied, metric, maximize)
    best, power = _compare(table, newest[counts], metric, maximize)
    return Verdict(metric, maximize, varied, table, newest[counts], best, power)


def with_settings(runs: pd.DataFrame, axes: Sequence[str]) -> pd.DataFrame:
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
    runs: pd.DataFrame,
    newest: pd.DataFrame,
    counts: pd.Series,
    axes: list[str],
    metric: str,
    maximize: bool,
) -> pd.DataFrame:
    by_setting = runs.groupby("setting")
    table = by_setting[["label", *axes]].first()
    table["runs"] = by_setting.size()
    done = runs[runs["status"] == "FINISHED"].groupby("setting")
    table["seconds"] = done["seconds"].mean()
    # Sorted, so that the last bits of a sum do not depend on which run started first.
    values = newest[counts].sort_values(metric).groupby("setting")[metric]
    table = table.join(values.agg(n="count", mean="mean", sd="std"))
    table["failed"] = newest[~counts].groupby("setting").size()
    table = table.fillna({"n": 0, "failed": 0}).astype({"n": int, "failed": int})
    table["unfinished"] = by_setting[SEED].nunique(dropna=False) - table["n"] - table["failed"]
    table["low"], table["high"] = transform_of(metric).interval(
        table["n"], table["mean"], table["sd"]
    )
    table = table.reset_index(names="key")
    table["order"] = -table["mean"] if maximize else table["mean"]
    return table.sort_values(["order", "label"], ignore_index=True).drop(columns="order")


def _compare(
    table: pd.DataFrame, counted: pd.DataFrame, metric: str, maximize: bool
) -> tuple[str | None, Power | None]:
    """Adds to the table how each setting compares with the best of those that have two runs or
    more and no failed seed.

    A setting is called worse where a one-sided test at 5 % rejects that no setting is better. The
    test is adjusted for the number of settings: in all but 5 % of sweeps the truly best setting is
    among those that are not called worse.
    """
    table["verdict"] = [
        FAILS if failed else SAME if n >= 2 else TOO_FEW if n else NO_RUN
        for n, failed in zip(table["n"], table["failed"], strict=True)
    ]
    columns = ["difference", "difference_low", "difference_high", "p"]
    table[columns] = math.nan
    compared = table[table["verdict"] == SAME]
    if compared.empty:
        return None, None
    best, *others = compared.index
    table.loc[best, "verdict"] = BEST
    places = {key: place for place, key in enumerate(compared["key"])}
    used = counted[counted["setting"].isin(places)].sort_values(["setting", SEED])
    sign = 1 if maximize else -1
    values = sign * transformed(used[metric].to_numpy(float), metric)
    layout = fit(values, used["setting"].map(places).to_numpy(), pd.factorize(used[SEED])[0])
    table.loc[others, "difference"] = (table["mean"][best] - table["mean"][others]).abs()
    label = str(table["label"][best])
    if layout is None or not others:
        table.loc[others, "verdict"] = NO_SPREAD
        return label, None

    def in_units(behind: float) -> float:
        ends = layout.estimates[0] - np.array([0.0, behind])
        return float(-sign * np.diff(transform_of(metric).back(sign * ends))[0])

    for place, i in enumerate(others, 1):
        behind, half, p = layout.behind(0, place)
        table.loc[i, columns[1:]] = [in_units(behind - half), in_units(behind + half), p]
        table.loc[i, "verdict"] = WORSE if p <= ALPHA else SAME
    seeds = int(table["n"][best])
    found = layout.smallest_found(seeds)
    enough = (n for n in range(seeds, MOST_SEEDS) if layout.smallest_found(n) <= found / 2)
    return label, Power(seeds, in_units(found), next(enough, None))
