"""Two sweeps compared, setting by setting, where both have the same ones.

A setting is the value of each key that one of the sweeps varies, except the seed. What neither
varies may differ: that is what such a comparison is about.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lenet.cli import one_line, shortened
from lenet.cli.screen import aligned
from lenet.report.findings import Findings, ReportError
from lenet.report.layout import fit
from lenet.report.results import SEED
from lenet.report.text import format_difference, format_number, format_p
from lenet.report.transforms import transform_of, transformed
from lenet.report.verdict import ALPHA, FAILS, NO_SPREAD, SAME, TOO_FEW, with_settings

BETTER, WORSE, SAME_RUNS = "B is better", "B is worse", "the same runs"
MOST_NAMED = 5  # settings or values in a line


@dataclass(frozen=True)
class TwoSweeps:
    """`settings` has a row for each shared setting: label, n_a, n_b, mean_a, mean_b, difference
    (B - A), low and high (its 95 % interval), p, verdict. Intervals and p values hold for all rows
    together.

    `alone` are the labels of the settings that only A has, and of those that only B has. `fixed`
    says which values that neither varies are others in B.
    """

    a: Findings
    b: Findings
    settings: pd.DataFrame
    alone: tuple[list[str], list[str]]
    fixed: list[str]


def compare_sweeps(a: Findings, b: Findings) -> TwoSweeps:
    """Raises: ReportError where the sweeps share no setting, or are judged by other metrics."""
    metric = a.verdict.metric
    if metric != b.verdict.metric:
        raise ReportError(
            f"A is judged by {metric}, B by {b.verdict.metric}; --metric {metric} compares by one"
        )
    axes = list(dict.fromkeys([*a.verdict.axes, *b.verdict.axes]))
    runs = with_settings(pd.concat([_counted(a, "a", axes), _counted(b, "b", axes)]), axes)
    sides = runs.groupby("setting")["sweep"].nunique()
    shared = runs[runs["setting"].map(sides) == 2]
    if shared.empty:
        raise ReportError(
            f"{a.sweep.run_id} and {b.sweep.run_id} share no setting of {', '.join(axes) or 'any'}"
            "; python -m lenet diff compares two runs"
        )
    rest = runs[runs["setting"].map(sides) == 1]
    alone = [sorted(set(rest.loc[rest["sweep"] == side, "label"])) for side in "ab"]
    table = _table(shared, metric, a.verdict.maximize)
    return TwoSweeps(a, b, table, (alone[0], alone[1]), list(_fixed(a, b, axes)))


def _counted(found: Findings, side: str, axes: list[str]) -> pd.DataFrame:
    """The runs that count in a sweep, with a column for each axis."""
    table, runs = found.verdict.settings, found.verdict.runs
    fails = runs["setting"].isin(table.loc[table["failed"] > 0, "key"])
    unset = {axis: None for axis in axes if axis not in runs}
    return runs.assign(sweep=side, fails=fails, **unset)


def _table(shared: pd.DataFrame, metric: str, maximize: bool) -> pd.DataFrame:
    groups = shared.groupby(["setting", "sweep"])
    values = groups[metric].agg(n="count", mean="mean").unstack("sweep")
    table = values.set_axis([f"{name}_{side}" for name, side in values.columns], axis=1)
    table.insert(0, "label", shared.groupby("setting")["label"].first())
    table["difference"] = table["mean_b"] - table["mean_a"]
    table["verdict"] = SAME
    table.loc[(table["n_a"] < 2) | (table["n_b"] < 2), "verdict"] = TOO_FEW
    table.loc[shared.groupby("setting")["fails"].any(), "verdict"] = FAILS
    table.loc[shared.groupby("setting")["run_id"].agg(_repeats), "verdict"] = SAME_RUNS
    table[["low", "high", "p"]] = np.nan
    compared = table.index[table["verdict"] == SAME]
    if len(compared):
        _test(table, shared[shared["setting"].isin(compared)], metric, maximize)
    best = (
        table[["mean_a", "mean_b"]].max(axis=1)
        if maximize
        else -table[["mean_a", "mean_b"]].min(axis=1)
    )
    return table.assign(best=best).sort_values("best", ascending=False).drop(columns="best")


def _repeats(run_ids: pd.Series) -> bool:
    """Whether one run is in both sweeps: B reuses it."""
    return bool(run_ids.duplicated().any())


def _test(table: pd.DataFrame, runs: pd.DataFrame, metric: str, maximize: bool) -> None:
    """Adds intervals, p values and verdicts, all from one layout: a setting in A and the same in B
    are two settings of it, and a seed is the same in both.
    """
    runs = runs.sort_values(["setting", "sweep", SEED])
    keys = sorted(set(runs["setting"]))
    places = runs["setting"].map(keys.index) * 2 + (runs["sweep"] == "b")
    scaled = transformed(runs[metric].to_numpy(float), metric)
    layout = fit(scaled, places.to_numpy(), pd.factorize(runs[SEED])[0])
    if layout is None:
        table.loc[keys, "verdict"] = NO_SPREAD
        return
    first = 2 * np.arange(len(keys))
    ahead, half, p = layout.ahead(first + 1, first)
    back, at = transform_of(metric).back, layout.estimates[first]
    table.loc[keys, "low"] = back(at + ahead - half) - back(at)
    table.loc[keys, "high"] = back(at + ahead + half) - back(at)
    table.loc[keys, "p"] = p
    is_better = (ahead > 0) == maximize
    table.loc[keys, "verdict"] = np.where(p > ALPHA, SAME, np.where(is_better, BETTER, WORSE))


def _fixed(a: Findings, b: Findings, axes: list[str]) -> Iterator[str]:
    """`optimizer.nesterov True instead of False`, for each value that differs between the sweeps
    and is the same in all runs of each.
    """
    names = dict.fromkeys([*a.sweep.parameters, *b.sweep.parameters])
    for name in names:
        sides = [
            f.verdict.runs.get(name, pd.Series(["unset"])).astype(str).unique() for f in (a, b)
        ]
        if name not in axes and all(len(side) == 1 for side in sides) and sides[0] != sides[1]:
            yield f"{name} {sides[1][0]} instead of {sides[0][0]}"


# ---- As text -----------------------------------------------------------------------------------


def comparison_lines(two: TwoSweeps) -> Iterator[str]:
    metric, table = two.a.verdict.metric, two.settings
    count = len(table)
    yield f"{metric} of two sweeps, {count} shared setting{'s' * (count != 1)}"
    names = [("A", two.a.sweep), ("B", two.b.sweep)]
    rows = [[side, each.run_id[:8], one_line(each.name)] for side, each in names]
    yield from aligned(rows, indent=2, header=False)
    if two.fixed:
        yield from aligned([[f"B has {_some(two.fixed)}."]], indent=2, header=False)
    yield from aligned(list(_rows(table, metric)), right=(1, 2, 3, 4, 5, 6))
    states = list(table["verdict"])
    counts = [f"{states.count(word)} {word}" for word in (FAILS, TOO_FEW, NO_SPREAD, SAME_RUNS)]
    others = "".join(f"; {text}" for text in counts if not text.startswith("0 "))
    yield (
        f"B is better in {states.count(BETTER)}, worse in {states.count(WORSE)}, without a "
        f"significant difference in {states.count(SAME)}{others}."
    )
    for side, labels in zip("AB", two.alone, strict=True):
        if labels:
            yield f"Only in {side}: {_some(labels, ' | ')}."


def _rows(table: pd.DataFrame, metric: str) -> Iterator[list[str]]:
    yield ["setting", "n A", "n B", "A", "B", "B - A", "95% interval", "verdict"]
    for row in table.itertuples():
        p = f" (p {format_p(row.p)})" if np.isfinite(row.p) else ""
        ends = [format_difference(end, metric) for end in (row.low, row.high)]
        yield [
            *(one_line(row.label), str(row.n_a), str(row.n_b)),
            *(format_number(mean, metric) for mean in (row.mean_a, row.mean_b)),
            *(format_difference(row.difference, metric), " to ".join(filter(None, ends))),
            row.verdict + p,
        ]


def _some(texts: list[str], between: str = ", ") -> str:
    """The first of the texts, and how many there are beyond."""
    more = len(texts) - MOST_NAMED
    named = between.join(shortened(one_line(text), 80) for text in texts[:MOST_NAMED])
    return named + (f" and {more} more" if more > 0 else "")
