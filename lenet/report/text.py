"""What a report says, in lines and in rows of a table."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from lenet.cli import one_line
from lenet.report.effects import Effect
from lenet.report.published import Comparison, as_printed
from lenet.report.results import Sweep
from lenet.report.verdict import SAME, UNKNOWN, WORSE, Verdict, is_share
from lenet.sweep.jobs import span

ON_SCREEN = 15  # settings
MOST = 10  # failures, levels of a parameter


@dataclass(frozen=True)
class Findings:
    """All that is known of a sweep. `exploratory`: it is judged by the test set, for want of
    another.
    """

    sweep: Sweep
    verdict: Verdict
    effects: list[Effect]
    classes: pd.DataFrame
    exploratory: bool
    compared: list[Comparison]


def number(value: float, metric: str) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{100 * value:.2f}%" if is_share(metric) else f"{value:.4g}"


def difference(value: float, metric: str) -> str:
    if not math.isfinite(value):
        return ""
    text = f"{100 * value:+.2f}" if is_share(metric) else f"{value:+.3g}"
    return "0" if float(text) == 0 else text


def lines(found: Findings, with_failures: bool = True) -> Iterator[str]:
    yield f"\n{headline(found)}"
    yield from _aligned(ranking_rows(found, ON_SCREEN))
    if (more := len(found.verdict.settings) - ON_SCREEN) > 0:
        yield f"  and {more} more on the page"
    yield from judgement(found)
    for compared in by_metric(found.compared):
        yield "Beside what was published:"
        yield from (f"  {line}" for line in _aligned(published_rows(compared)))
    for effect in found.effects[:MOST]:
        yield f"  {effect_line(effect, found.verdict.metric)}"
    yield from class_lines(found)
    yield cost_line(found)
    failed = failures(found)
    if failed and with_failures:
        yield "Failed:"
        yield from (f"  {name}: {reason}" for name, reason in failed[:MOST])
        if len(failed) > MOST:
            yield f"  and {len(failed) - MOST} more"


def headline(found: Findings) -> str:
    runs, verdict = found.sweep.runs, found.verdict
    counts = runs["status"].value_counts()
    states = [("failed", counts.get("FAILED", 0)), ("pruned", int(runs["pruned"].sum()))]
    states += [("unfinished", len(runs) - counts.get("FINISHED", 0) - sum(n for _, n in states))]
    others = "".join(f", {count} {word}" for word, count in states if count)
    settings = len(verdict.settings)
    return (
        f"{verdict.metric} of {len(verdict.runs)} finished run{'s' * (len(verdict.runs) != 1)}, "
        f"{settings} setting{'s' * (settings != 1)}{others}"
    )


def ranking_rows(found: Findings, most: int) -> list[tuple[str, ...]]:
    verdict, metric = found.verdict, found.verdict.metric
    head = ("", "setting", "n", "mean", "95% interval", "behind the best by", "verdict")
    rows: list[tuple[str, ...]] = [head]
    for place, row in enumerate(verdict.settings.head(most).itertuples(), 1):
        between = ""
        if math.isfinite(row.low):
            between = f"{number(row.low, metric)} to {number(row.high, metric)}"
        behind = difference(row.difference, metric)
        p = f" (p {_p(row.p_corrected)})" if math.isfinite(row.p_corrected) else ""
        mean = number(row.mean, metric)
        told = (str(place), one_line(row.label), str(row.n), mean, between, behind + p)
        rows.append((*told, row.verdict))
    return rows


def by_metric(compared: Sequence[Comparison]) -> list[list[Comparison]]:
    metrics = dict.fromkeys(each.metric for each in compared)
    return [[each for each in compared if each.metric == metric] for metric in metrics]


def published_rows(compared: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """Of one metric."""
    name, numbers = as_printed(compared)
    metric = compared[0].metric
    rows: list[tuple[str, ...]] = [("", "setting", "n", name, "sd", "published", "difference")]
    for each in numbers:
        sd = number(each.sd, metric)
        more = difference(each.mean - each.published, metric)
        mean, theirs = number(each.mean, metric), number(each.published, metric)
        rows.append(("", one_line(each.label), str(each.n), mean, sd, theirs, more))
    return rows


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = {1, 6}  # words; numbers stand on the right
    for row in rows:
        cells = (
            text.ljust(width) if i in left else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def judgement(found: Findings) -> Iterator[str]:
    """What the numbers allow to be said, in words, with the test."""
    verdict = found.verdict
    states = list(verdict.settings["verdict"])
    if len(states) == 1:
        return
    if found.exploratory:
        yield (
            f"Exploratory: {verdict.metric} is of the test set, which is no ground to choose on; "
            "data.val_size=5000 objective=val/accuracy gives one."
        )
    if verdict.best is None:
        yield "One run a setting: which is best can't be told from luck; seed=range(5) would tell."
        return
    same, worse, unknown = (states.count(state) for state in (SAME, WORSE, UNKNOWN))
    yield (
        f"Best: {one_line(verdict.best)}. Not told apart from it: {same}; worse: {worse}"
        + (f"; cannot be told: {unknown}" if unknown else "")
        + "."
    )
    tests = dict.fromkeys(
        t.partition(",")[0] for t in verdict.settings["test"] if t.endswith(("seeds", "runs"))
    )
    if tests:
        named = {"paired t": "paired t-test by seed", "Welch's t": "Welch's t-test"}
        text = f"By {' and '.join(named.get(test, test) for test in tests)}, two-sided, 5%"
        if verdict.comparisons > 1:
            text += f"; p values times {verdict.comparisons}, the comparisons (Bonferroni)"
        yield f"{text}. With 95% confidence the truly best is this one or not told apart from it."


def effect_line(effect: Effect, metric: str) -> str:
    if not math.isnan(effect.rho):
        return f"{effect.name}: rank correlation with {metric} {effect.rho:+.2f} (Spearman)"
    rows = effect.levels.head(MOST).itertuples()
    levels = ", ".join(f"{one_line(row.text)} {number(row.mean, metric)}" for row in rows)
    share = "" if math.isnan(effect.share) else f" ({effect.share:.0%} of the variance)"
    return f"{effect.name}{share}: {levels}"


def class_lines(found: Findings) -> Iterator[str]:
    if found.classes.empty:
        return
    best = found.classes.iloc[:, 0]
    yield (
        f"Classes, on the test set: {best.idxmin()} is the hardest for the best setting "
        f"({best.min():.2%}), {best.idxmax()} the easiest ({best.max():.2%})."
    )


def cost_line(found: Findings) -> str:
    seconds = found.sweep.runs["seconds"].dropna()
    if seconds.empty:
        return "Cost: unknown."
    finished = found.verdict.runs["seconds"].dropna()
    return f"Cost: {span(seconds.sum())} of running, {span(finished.median())} a run (median)."


def failures(found: Findings) -> list[tuple[str, str]]:
    failed = found.sweep.runs[found.sweep.runs["status"] == "FAILED"]
    return [
        (one_line(row.name), one_line(row.error or "no reason given"))
        for row in failed[["name", "error"]].itertuples(index=False)
    ]
