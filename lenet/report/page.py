"""A report as one HTML file that needs no script, no other file and no network."""

import base64
import html
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from string import Template

import pandas as pd

from lenet.cli import one_line
from lenet.report.effects import CLASS
from lenet.report.findings import Findings
from lenet.report.published import by_metric
from lenet.report.text import (
    cost_line,
    effect_line,
    failures,
    format_difference,
    format_number,
    headline,
    published_rows,
    ranking_rows,
    verdict_sentences,
)

PAGE = Template((Path(__file__).parent / "report.html").read_text(encoding="utf-8"))
SETTINGS_ON_PAGE = 100


def page(found: Findings, pictures: Iterable[tuple[str, bytes]]) -> str:
    """The HTML text. `pictures` are titles and PNG files."""
    images = "".join(
        f'<h2>{html.escape(title)}</h2>\n<img alt="{html.escape(title)}" '
        f'src="data:image/png;base64,{base64.b64encode(png).decode()}">\n'
        for title, png in pictures
    )
    metric = found.verdict.metric
    sentences = "".join(f"<p>{html.escape(line)}</p>\n" for line in verdict_sentences(found))
    effects = [effect_line(effect, metric).partition(": ")[::2] for effect in found.effects]
    sections = [
        _section("Compared with published numbers", published_rows(compared), {0, 2, 3, 4, 5, 6})
        for compared in by_metric(found.compared)
    ]
    sections += [
        _section("Main effects", [("parameter", "what it does"), *effects]),
        _section("Classes", _class_rows(found.classes), range(1, 99)),
        _section("Failed runs", [("run", "reason"), *failures(found)]),
    ]
    return PAGE.substitute(
        title=html.escape(one_line(found.sweep.name) or found.sweep.run_id),
        run_id=html.escape(found.sweep.run_id),
        headline=html.escape(headline(found)),
        cost=html.escape(cost_line(found)),
        judgement=sentences,
        ranking=_table(ranking_rows(found, SETTINGS_ON_PAGE), numbers={0, 2, 3, 4, 5}),
        pictures=images,
        sections="\n".join(sections),
    )


def _section(title: str, rows: Sequence[tuple[str, ...]], numbers: Collection[int] = ()) -> str:
    if len(rows) < 2:
        return ""
    return f"<h2>{html.escape(title)}</h2>\n{_table(rows, numbers)}"


def _class_rows(classes: pd.DataFrame) -> list[tuple[str, ...]]:
    """The first setting's accuracy, and the differences of the others from it in points."""
    rows: list[tuple[str, ...]] = [("setting", *map(str, classes.index))]
    for place, (label, column) in enumerate(classes.items()):
        form = format_difference if place else format_number
        texts = [form(value, f"{CLASS}{k}") for k, value in column.items()]
        rows.append((str(label), *texts))
    return rows


def _table(rows: Sequence[tuple[str, ...]], numbers: Collection[int]) -> str:
    def cells(row: Sequence[str], tag: str) -> str:
        marks = [' class="n"' if i in numbers else "" for i in range(len(row))]
        pairs = zip(marks, map(html.escape, row), strict=True)
        return "".join(f"<{tag}{mark}>{text}</{tag}>" for mark, text in pairs)

    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows[1:])
    return f'<div class="wide"><table>\n<tr>{cells(rows[0], "th")}</tr>\n{body}\n</table></div>\n'
