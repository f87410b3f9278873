"""A report as one file for the browser, which needs no other: no script, no network."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from string import Template

import pandas as pd
from matplotlib.figure import Figure

from lenet.cli import one_line
from lenet.report.text import (
    Findings,
    by_metric,
    cost_line,
    difference,
    effect_line,
    failures,
    headline,
    judgement,
    number,
    published_rows,
    ranking_rows,
)

PAGE = Template((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
ON_PAGE = 100  # settings


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()


def page(found: Findings, figures: Sequence[tuple[str, Figure]]) -> str:
    """One file that needs no other: no script, nothing from the network."""
    pictures = "".join(
        f'<h2>{html.escape(name)}</h2>\n<img alt="{html.escape(name)}" '
        f'src="data:image/png;base64,{_png(figure)}">\n'
        for name, figure in figures
    )
    metric = found.verdict.metric
    sentences = "".join(f"<p>{html.escape(line)}</p>\n" for line in judgement(found))
    effects = [("parameter", "what it does")]
    effects += [tuple(effect_line(e, metric).split(": ", 1)) for e in found.effects]  # type: ignore[misc]
    failed = failures(found)
    published = "".join(
        _section("Beside what was published", published_rows(compared), {0, 2, 3, 4, 5, 6})
        for compared in by_metric(found.compared)
    )
    return PAGE.substitute(
        title=html.escape(one_line(found.sweep.name) or found.sweep.run_id),
        run_id=html.escape(found.sweep.run_id),
        headline=html.escape(headline(found)),
        cost=html.escape(cost_line(found)),
        judgement=sentences,
        ranking=_table(ranking_rows(found, ON_PAGE), numbers={0, 2, 3, 4, 5}),
        published=published,
        effects=_section("Main effects", effects) if found.effects else "",
        classes=_section("Classes", _class_rows(found.classes), numbers=set(range(1, 99))),
        failures=_section("Failed runs", [("run", "reason"), *failed]) if failed else "",
        pictures=pictures,
    )


def _section(title: str, rows: Sequence[tuple[str, ...]], numbers: set[int] | None = None) -> str:
    if len(rows) < 2:
        return ""
    return f"<h2>{html.escape(title)}</h2>\n{_table(rows, numbers or set())}"


def _class_rows(classes: pd.DataFrame) -> list[tuple[str, ...]]:
    """The best setting's accuracy, and the others' difference to it in points."""
    if classes.empty:
        return []
    rows: list[tuple[str, ...]] = [("setting", *map(str, classes.index))]
    for place, (label, column) in enumerate(classes.items()):
        texts = [(difference if place else number)(v, "accuracy") for v in column]
        rows.append((str(label), *texts))
    return rows


def _table(rows: Sequence[tuple[str, ...]], numbers: set[int]) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        marks = [' class="n"' if i in numbers else "" for i in range(len(row))]
        pairs = zip(marks, map(html.escape, row), strict=True)
        return "".join(f"<{tag}{mark}>{text}</{tag}>" for mark, text in pairs)

    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows[1:])
    return f'<div class="wide"><table>\n<tr>{cells(rows[0], "th")}</tr>\n{body}\n</table></div>\n'
