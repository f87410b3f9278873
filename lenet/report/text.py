"""The words of a report: lines for the terminal, rows for tables."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from lenet.cli import format_duration, one_line
from lenet.cli.screen import aligned
from lenet.config.metrics import is_share
from lenet.report.effects import Effect
from lenet.report.findings import Findings
from lenet.report.published import Comparison, as_printed, by_metric
from lenet.report.verdict import (
    BEST,
    FAILS,
    NO_SPREAD,
    SAME,
    TOO_FEW,
    WORSE,
    Power,
    with_settings,
)

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
    yield from _paragraphs(verdict_sentences(found))
    for compared in by_metric(found.compared):
        yield "Compared with published numbers:"
        yield from aligned(published_rows(compared), NUMBERS, indent=2)
    effects = [effect_line(effect, found.verdict.metric) for effect in found.effects[:MOST_LINES]]
    yield from _paragraphs(effects, indent=2)
    yield from _paragraphs([*class_lines(found), cost_line(found)])


def _paragraphs(texts: Iterable[str], indent: int = 0) -> Iterator[str]:
    """Lines that end with a whole word, where a terminal is too narrow for the text."""
    for text in texts:
        yield from aligned([[text]], indent=indent, header=False)


def headline(found: Findings) -> str:
    verdict = found.verdict
    jobs = with_settings(found.sweep.runs, found.sweep.axes).rename(columns={"setting": "job"})
    done = jobs.loc[jobs["status"] == "FINISHED", "job"]
    rest = jobs[~jobs["job"].isin(done)].drop_duplicates("job", keep="last")
    states = [("failed", sum(rest["status"] == "FAILED")), ("pruned", sum(rest["pruned"]))]
    states += [("unfinished", len(rest) - sum(count for _, count in states))]
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
        p = f" (p {format_p(row.p)})" if math.isfinite(row.p) else ""
        mean = format_number(row.mean, metric)
        label = one_line(row.label)
        state = "; ".join(filter(None, [row.verdict, lacking(row)]))
        rows.append((str(place), label, str(row.n), mean, between, behind + p, state))
    return rows


def lacking(row: Any) -> str:
    """How many seeds of a setting failed, or have no result yet."""
    seeds = row.n + row.failed + row.unfinished
    parts = [f"{row.failed} of {seeds} seeds failed"] if row.failed else []
    parts += [f"{row.unfinished} of {seeds} seeds without a result"] if row.unfinished else []
    return ", ".join(parts)


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


def format_p(value: float) -> str:
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
    (best,) = verdict.settings[verdict.settings["verdict"] == BEST].itertuples()
    without = f" ({lacking(best)})" if best.unfinished else ""
    counts = [f"no significant difference from it: {states.count(SAME)}"]
    counts += [f"{word}: {states.count(word)}" for word in (WORSE, FAILS, TOO_FEW, NO_SPREAD)]
    said = "; ".join(c for c in counts if not c.endswith(": 0") or c.startswith((WORSE, "no sig")))
    yield f"Best: {one_line(best.label)}{without}. {said[0].upper()}{said[1:]}."
    if verdict.power and not (set(states) - {BEST, SAME, WORSE} or best.unfinished):
        yield "With 95% confidence the truly best setting is one that is not called worse."
    if verdict.power and SAME in states:
        yield power_sentence(found, verdict.power)


def power_sentence(found: Findings, power: Power) -> str:
    """What so few seeds can find, and what more of them would."""
    metric, settings = found.verdict.metric, found.verdict.settings
    found_now, half = (
        format_difference(size, metric).lstrip("+")
        for size in (power.difference, power.difference / 2)
    )
    points = " points" if is_share(metric) else ""
    text = f"{power.seeds} seeds find differences above about {found_now}{points} here"
    if power.more_seeds is None:
        return f"{text}."
    added = int((power.more_seeds - settings["n"][settings["n"] >= 2]).clip(lower=0).sum())
    cost = format_duration(added * found.verdict.runs["seconds"].median())
    return (
        f"{text}; for {half} run {power.more_seeds}: "
        f"'seed=range({power.more_seeds})' adds {added} runs, {cost} of computing."
    )


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


def failures(found: Findings) -> list[tuple[str, str, str]]:
    """The id, the name and the reason of each failed run."""
    failed = found.sweep.runs[found.sweep.runs["status"] == "FAILED"]
    return [
        (row.run_id, one_line(row.name), one_line(row.error or "no reason given"))
        for row in failed.itertuples()
    ]
