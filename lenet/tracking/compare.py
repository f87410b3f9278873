"""Two runs side by side: configuration, environment, metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lenet.cli import one_line
from lenet.cli.screen import aligned
from lenet.config.errors import clip
from lenet.config.record import changes_nothing, flatten
from lenet.tracking.additions import add_records
from lenet.tracking.names import WEIGHTS_TAG, TrackingError, command
from lenet.tracking.provenance import environment_differences, short_name
from lenet.tracking.read import Summary, fetched, read_run, text_of, with_points
from lenet.tracking.stored_config import read_config

Row = tuple[str, str, str]
# Tags that can explain a difference: code, machine, data and network.
MADE_OF = (
    *("mlflow.source.git.commit", "lenet.git.dirty", "lenet.host", "lenet.device"),
    *("lenet.kernels", "lenet.kernels.why", "lenet.dataset", "lenet.dataset.sha256"),
    *("lenet.dataset.val_sha256", "lenet.model", "lenet.model.parameters"),
)
NONE = "-"


@dataclass(frozen=True)
class Difference:
    """The differences of two runs, as rows of (what, in the first run, in the second run).

    `first` is the first step at which a metric differs, in words, with its rows. Metrics that
    measure time or the machine are left out. `points` is the number of compared points.
    """

    settings: list[Row]
    surroundings: list[Row]
    ends: list[Row]
    first: tuple[str, list[Row]] | None
    points: int
    weights: tuple[str, str]

    @property
    def same_bits(self) -> bool | None:
        """None where nothing differs, but weights or points were not recorded."""
        if self.first or (NONE not in self.weights and self.weights[0] != self.weights[1]):
            return False
        return None if NONE in self.weights or not self.points else True


def compare(a: Summary, b: Summary, environments: tuple[str, str] = ("", "")) -> Difference:
    settings = [row for row in _rows(a.params, b.params) if not changes_nothing(row[0])]
    tags = [
        {short_name(tag): run.tags[tag] for tag in MADE_OF if tag in run.tags} for run in (a, b)
    ]
    names = sorted(name for name in a.points.keys() | b.points.keys() if not is_timed(name))
    points = [
        {(step, name): repr(value) for name in names for step, value in run.points.get(name, ())}
        for run in (a, b)
    ]
    last = [{name: repr(value) for name, value in run.metrics.items()} for run in (a, b)]
    return Difference(
        settings=settings,
        surroundings=_rows(*tags) + _environment_rows(*environments),
        ends=[(name, *_digits(*(each.get(name, NONE) for each in last))) for name in names],
        first=_first(_rows(*points)),
        points=len(points[0] | points[1]),
        weights=(a.tags.get(WEIGHTS_TAG, NONE), b.tags.get(WEIGHTS_TAG, NONE)),
    )


def _environment_rows(a: str, b: str) -> list[Row]:
    if a and b:
        return environment_differences(a, b)
    first, second = ("recorded" if each else "not recorded" for each in (a, b))
    return [("environment", first, second)]


def _rows(a: Mapping[Any, str], b: Mapping[Any, str]) -> list[tuple[Any, str, str]]:
    """What differs, with both values."""
    pairs = [(key, a.get(key, NONE), b.get(key, NONE)) for key in sorted(a.keys() | b.keys())]
    return [row for row in pairs if row[1] != row[2]]


def _first(rows: Sequence[tuple[tuple[int, str], str, str]]) -> tuple[str, list[Row]] | None:
    """The first rows in the order of the training: an epoch comes after its optimizer steps."""
    steps = [row for row in rows if row[0][1] == "train/loss_step"]
    if not rows:
        return None
    kind, chosen = ("optimizer step", steps) if steps else ("epoch", rows)
    first = chosen[0][0][0]
    found = [(name, *_digits(x, y)) for (step, name), x, y in chosen if step == first]
    return f"{kind} {first}", found


def _digits(x: str, y: str) -> tuple[str, str]:
    """Two numbers with six digits, or with all if six don't show the difference."""
    short = [text if text == NONE else f"{float(text):.6g}" for text in (x, y)]
    return (x, y) if short[0] == short[1] else (short[0], short[1])


def is_timed(metric: str) -> bool:
    """Whether the metric measures time or the machine, which differ from run to run."""
    return metric.startswith(("seconds/", "system/")) or metric == "images_per_second"


def read(run_id: str, uri: str | None = None) -> tuple[Summary, str]:
    """The run, with all of its config.yaml as `params`, and its environment.txt.

    Raises: TrackingError, ConfigError.
    """
    run = with_points(read_run(run_id, uri), uri)
    with fetched(run_id, "config.yaml", uri) as path:
        if path:
            config = flatten(read_config(text_of(path)))
            run = replace(run, params={key: str(value) for key, value in config.items()})
    with fetched(run_id, "environment.txt", uri) as path:
        return run, path.read_text("utf-8", errors="replace") if path else ""


def rerun_verdict(before: str, run_id: str, uri: str | None) -> str:
    """Whether a repeated run came out the same, in a few lines; also its tag `lenet.rerun.same`."""
    try:
        (a, env_a), (b, env_b) = read(before, uri), read(run_id, uri)
        difference = compare(a, b, (env_a, env_b))
        same = {True: "true", False: "false", None: "unknown"}[difference.same_bits]
        add_records(run_id, uri, {"lenet.rerun.same": same})
    except TrackingError as error:
        return f"Not compared yet ({error}); later: {command('diff', before, run_id, uri=uri)}"
    return verdict(before, difference)


def verdict(before: str, difference: Difference) -> str:
    """What differs from the run `before` first, and what may be why."""
    if difference.same_bits:
        return f"The same bits as run {before}: {difference.points} points and the weights."
    if difference.same_bits is None:
        return f"Not known to be the same as run {before}.\n  {_equal_points(difference)}"
    when, rows = difference.first or ("", [])
    lines = [f"Not the same as run {before}."]
    lines += [f"  first at {when}: {n} {x} there, {y} here" for n, x, y in rows[:3]]
    if not rows:
        lines.append(f"  {_equal_points(difference)}")
    for row in difference.surroundings[:20]:
        lines.append("  {}: {} there, {} here".format(*map(_short, row)))
    if not difference.surroundings:
        lines.append("  code, data and environment are the same")
    return "\n".join(lines)


def report(a: Summary, b: Summary, difference: Difference) -> str:
    head: Row = ("", a.run_id[:8], b.run_id[:8])
    parts = [
        "\n".join(_table([head, ("name", a.name, b.name), ("status", a.status, b.status)])),
        _part("Configuration", head, difference.settings),
        _part("Code, data and environment", head, difference.surroundings),
        _part("Metrics at the end", head, difference.ends),
    ]
    if difference.same_bits:
        parts.append(f"The same bits: {difference.points} points and the weights.")
    elif difference.first:
        when, rows = difference.first
        parts.append(
            f"{difference.points} points compared; the first difference is at {when}:\n"
            + "\n".join(_table([head, *rows]))
        )
    else:
        parts.append(f"{_equal_points(difference)}.")
    return "\n\n".join(parts)


def _equal_points(difference: Difference) -> str:
    """What is known of two runs whose points do not differ."""
    points = f"all {difference.points} points are equal" if difference.points else "no points"
    a, b = difference.weights
    weights = "are equal" if a == b else "differ"
    if NONE in difference.weights:
        weights = "were not recorded in both"
    return f"{points}; the weights {weights}"


def _part(title: str, head: Row, rows: list[Row]) -> str:
    return "\n".join([title, *_table([head, *rows])]) if rows else f"{title}: the same"


def _table(rows: Sequence[Row]) -> list[str]:
    return aligned([[_short(cell) for cell in row] for row in rows], indent=2)


def _short(cell: str) -> str:
    return clip(one_line(cell), 44)
