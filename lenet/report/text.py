"""The words of a report: lines for the terminal, rows for tables."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from lenet.cli import aligned, format_duration, one_line
from lenet.config.metrics import is_share
from lenet.report.effects import Effect
from lenet.report.findings import Findings
from lenet.report.published import Comparison, as_printed, by_metric
from lenet.report.verdict import BEST, SAME, UNKNOWN, WORSE

SETTINGS_ON_SCREEN = 15
NUMBERS = (0, 2, 3, 4, 5)  # columns of a table
MOST_LINES = 10  # effects, and levels of a parameter


def format_number(value: float, metric: str) -> str:
    if not math.isfinite(value):
        return "-"
    return f"{100 * value:.2f}%" if is_share(metric) else f"{value:.4g}"


def format_difference(value: float, metric: str) -> str:
    if not math.isfinite(value):
        return ""
    text = f"{100 * value:+.2f}" if is_share(metric) else f"{value:+.3g}"
    return "0" if float(text) == 0 else text


def report_lines(found: Findings) -> Iterator[str]:
    yield f"\n{headline(found)}"
    yield from aligned(ranking_rows(found, SETTINGS_ON_SCREEN), NUMBERS)
    if (more := len(found.verdict.settings) - SETTINGS_ON_SCREEN) > 0:
        yield f"  and {more} more on the page"
    yield from verdict_sentences(found)
    for compared in by_metric(found.compared):
        yield "Compared with published numbers:"
        yield from (f"  {line}" for line in aligned(published_rows(compared), NUMBERS))
    for effect in found.effects[:MOST_LINES]:
        yield f"  {effect_line(effect, found.verdict.metric)}"
    yield from class_lines(found)
    yield cost_line(found)


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
            between = f"{format_number(row.low, metric)} to {format_number(row.high, metric)}"
        behind = format_difference(row.difference, metric)
        p = f" (p {_p(row.p_corrected)})" if math.isfinite(row.p_corrected) else ""
        mean = format_number(row.mean, metric)
        label = one_line(row.label)
        state = "; ".join(filter(None, [row.verdict, _lacking(row)]))
        rows.append((str(place), label, str(row.n), mean, between, behind + p, state))
    return rows


def _lacking(row: Any) -> str:
    """How many seeds of a setting have no result."""
    seeds = row.n + row.unfinished
    return f"{row.unfinished} of {seeds} seeds without a result" if row.unfinished else ""


def published_rows(compared: Sequence[Comparison]) -> list[tuple[str, ...]]:
    """A table of the comparisons of one metric."""
    name, numbers = as_printed(compared)
    metric = compared[0].metric
    rows: list[tuple[str, ...]] = [("", "setting", "n", name, "sd", "published", "difference")]
    for each in numbers:
        sd = format_number(each.sd, metric)
        more = format_difference(each.mean - each.published, metric)
        mean, theirs = format_number(each.mean, metric), format_number(each.published, metric)
        rows.append(("", one_line(each.label), str(each.n), mean, sd, theirs, more))
    return rows


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def verdict_sentences(found: Findings) -> Iterator[str]:
    """The verdict in sentences, with the test behind it."""
    verdict = found.verdict
    states = list(verdict.settings["verdict"])
    if len(states) == 1:
        return
    if found.exploratory:
        yield (
            f"Exploratory: {verdict.metric} comes from the test set, which must not choose a "
            f"setting; {_validation_advice(found)}."
        )
    if verdict.best is None:
        yield "Each setting has one run, so the best may be luck; 'seed=range(5)' repeats them."
        return
    same, worse, unknown = (states.count(state) for state in (SAME, WORSE, UNKNOWN))
    (best,) = verdict.settings[verdict.settings["verdict"] == BEST].itertuples()
    lacking = f" ({_lacking(best)})" if best.unfinished else ""
    yield (
        f"Best: {one_line(best.label)}{lacking}. No significant difference from it: {same}; "
        f"worse: {worse}" + (f"; too few runs to tell: {unknown}" if unknown else "") + "."
    )
    tests = dict.fromkeys(
        test.partition(",")[0]
        for test in verdict.settings.loc[verdict.settings["p"].notna(), "test"]
    )
    if tests:
        named = {"paired t": "paired t-test by seed", "Welch's t": "Welch's t-test"}
        names = " and ".join(named.get(test, test) for test in tests)
        text = f"Test: {names}, two-sided, 5%"
        if verdict.comparisons > 1:
            text += f"; p values multiplied by {verdict.comparisons} comparisons (Bonferroni)"
        yield f"{text}."
        if not unknown and not verdict.settings["unfinished"].any():
            yield "With 95% confidence the truly best setting is one that is not called worse."


def _validation_advice(found: Findings) -> str:
    if "val/accuracy" in found.sweep.metrics:
        return "--metric val/accuracy judges by the validation set"
    if not found.sweep.val_size:
        return "data.val_size and objective=val/accuracy give a validation set"
    size = f"data.val_size={found.sweep.val_size}"
    return f"{size} objective=val/accuracy gives a validation set"


def effect_line(effect: Effect, metric: str) -> str:
    if not math.isnan(effect.rho):
        return f"{effect.name}: rank correlation with {metric} {effect.rho:+.2f} (Spearman)"
    rows = effect.levels.head(MOST_LINES).itertuples()
    levels = ", ".join(f"{one_line(row.text)} {format_number(row.mean, metric)}" for row in rows)
    share = "" if math.isnan(effect.share) else f" ({effect.share:.0%} of the variance)"
    return f"{effect.name}{share}: {levels}"


def class_lines(found: Findings) -> Iterator[str]:
    if found.classes.empty:
        return
    first = found.classes.iloc[:, 0]
    first_name = one_line(str(first.name))
    yield (
        f"Classes on the test set: for {first_name}, {first.idxmin()} is the hardest "
        f"({first.min():.2%}) and {first.idxmax()} the easiest ({first.max():.2%})."
    )


def cost_line(found: Findings) -> str:
    total = format_duration(found.sweep.runs["seconds"].sum())
    median = format_duration(found.verdict.runs["seconds"].median())
    return f"Cost: {total} in all runs, {median} for a run (median)."


def failures(found: Findings) -> list[tuple[str, str]]:
    failed = found.sweep.runs[found.sweep.runs["status"] == "FAILED"]
    return [
        (one_line(row.name), one_line(row.error or "no reason given"))
        for row in failed[["name", "error"]].itertuples(index=False)
    ]
