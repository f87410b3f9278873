"""Two runs side by side: configuration, environment, metrics."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lenet.tracking.client import TrackingError
from lenet.tracking.provenance import environment_differences
from lenet.tracking.read import Stored, fetched, read_run, set_tags

Row = tuple[str, str, str]
# Tags that can explain a difference: code, machine, data and network.
MADE_OF = (
    *("git.commit", "git.dirty", "host", "device", "kernels", "kernels.why"),
    *("dataset", "dataset.sha256", "dataset.val_sha256", "model", "model.parameters"),
)
NONE = "-"


@dataclass(frozen=True)
class Difference:
    """The differences of two runs, as rows of (what, in the first run, in the second run).

    `first` is the first step at which a metric differs, with its rows, and `when` is that step in
    words. Metrics that measure time are left out. `points` is the number of compared points.
    """

    settings: list[Row]
    surroundings: list[Row]
    ends: list[Row]
    first: tuple[int, list[Row]] | None
    when: str
    points: int
    weights: tuple[str, str]

    @property
    def same_bits(self) -> bool:
        return self.first is None and self.weights[0] == self.weights[1] and self.points > 0


def compare(a: Stored, b: Stored, environments: tuple[str, str] = ("", "")) -> Difference:
    settings = _rows(a.params, b.params, sorted(a.params.keys() | b.params.keys()))
    ignored = ("tracking.", "resume", "rerun")
    names = [name for name in sorted(a.metrics.keys() | b.metrics.keys()) if not is_timed(name)]
    points = [_points(run, names) for run in (a, b)]
    differing = sorted(k for k in points[0] | points[1] if points[0].get(k) != points[1].get(k))
    first, when = None, ""
    if differing:
        # In the order of the training: the loss of a step comes before that of its epoch.
        step, _ = at = min(differing, key=lambda k: (k[1] != "train/loss_step", k[0]))
        rows = [k for k in differing if k == at or (k[0] == step and at[1] != "train/loss_step")]
        first = step, [(n, *_two(points[0].get((s, n)), points[1].get((s, n)))) for s, n in rows]
        when = f"epoch {step}"
        if at[1] == "train/loss_step":
            when = f"optimizer step {step}{_epoch_of(step, a)}"
    last = [{n: (r.metrics[n][-1][1],) for n in names if n in r.metrics} for r in (a, b)]
    return Difference(
        settings=[row for row in settings if not row[0].startswith(ignored)],
        surroundings=_rows(a.tags, b.tags, MADE_OF) + environment_differences(*environments),
        ends=[(n, *_two(last[0].get(n), last[1].get(n))) for n in names],
        first=first,
        when=when,
        points=len(points[0] | points[1]),
        weights=(a.tags.get("weights.sha256", NONE), b.tags.get("weights.sha256", NONE)),
    )


def _points(run: Stored, names: Sequence[str]) -> dict[tuple[int, str], tuple[float, ...]]:
    """(step, name) -> values; a point that was logged twice has two. All NaN count as equal."""
    found: dict[tuple[int, str], tuple[float, ...]] = {}
    for name in names:
        for step, value in run.metrics.get(name, ()):
            number = math.nan if math.isnan(value) else value  # one object is equal to itself
            found[step, name] = (*found.get((step, name), ()), number)
    return found


def _epoch_of(step: int, run: Stored) -> str:
    """`, in epoch 2`, if the points tell how many steps an epoch has."""
    epochs = max((at for at, _ in run.metrics.get("train/loss", ())), default=0)
    last = max((at for at, _ in run.metrics.get("train/loss_step", ())), default=0)
    if run.status != "FINISHED" or not epochs or last % epochs:
        return ""
    return f", in epoch {-(-step // (last // epochs))}"


def is_timed(metric: str) -> bool:
    """Whether the metric measures time, which differs from run to run."""
    return metric.startswith("seconds/") or metric == "images_per_second"


def _rows(a: Mapping[str, str], b: Mapping[str, str], keys: Sequence[str]) -> list[Row]:
    pairs = [(key, a.get(key, NONE), b.get(key, NONE)) for key in keys]
    return [row for row in pairs if row[1] != row[2]]


def _two(a: Sequence[float] | None, b: Sequence[float] | None) -> tuple[str, str]:
    """The values of two points with six digits, or with all if six don't show the difference."""
    short, whole = (
        [NONE if values is None else " and ".join(map(form, values)) for values in (a, b)]
        for form in ("{:.6g}".format, repr)
    )
    one, other = short if short[0] != short[1] or a == b else whole
    return one, other


def read(run_id: str, uri: str | None = None) -> tuple[Stored, str]:
    """The run and its environment.txt. Raises: TrackingError."""
    run = read_run(run_id, uri)
    with fetched(run_id, "environment.txt", uri) as path:
        return run, path.read_text(errors="replace") if path else ""


def rerun_verdict(before: str, run_id: str, uri: str | None) -> str:
    """Whether a repeated run came out the same, in a few lines; also as its tag `rerun.same`."""
    try:
        (a, env_a), (b, env_b) = read(before, uri), read(run_id, uri)
        difference = compare(a, b, (env_a, env_b))
        tags = {"rerun.same": str(difference.same_bits).lower()}
        set_tags(run_id, tags, uri)
    except TrackingError as error:
        return f"Not compared yet ({error}); later: python -m lenet diff {before} {run_id}"
    if difference.same_bits:
        return f"The same bits as run {before}: {difference.points} points and the weights."
    lines = [f"Not the same as run {before}."]
    if difference.first:
        _, rows = difference.first
        lines += [f"  first at {difference.when}: {n} {x} there, {y} here" for n, x, y in rows[:3]]
    else:
        lines.append("  all points are equal, the weights are not")
    for what, x, y in difference.surroundings[:20]:
        lines.append(f"  {_short(what)}: {_short(x)} there, {_short(y)} here")
    if not difference.surroundings:
        lines.append("  code, data and environment are the same")
    return "\n".join(lines)


def report(a: Stored, b: Stored, difference: Difference) -> str:
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
        _, rows = difference.first
        parts.append(
            f"{difference.points} points compared; the first difference is at {difference.when}:\n"
            + "\n".join(_table([head, *rows]))
        )
    else:
        weights = "differ" if NONE not in difference.weights else "were not recorded in both"
        parts.append(f"All {difference.points} points are equal; the weights {weights}.")
    return "\n\n".join(parts)


def _part(title: str, head: Row, rows: list[Row]) -> str:
    return "\n".join([title, *_table([head, *rows])]) if rows else f"{title}: the same"


def _table(rows: Sequence[Row]) -> list[str]:
    cut = [[_short(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in cut) for i in range(3)]
    return [
        "  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in cut
    ]


def _short(cell: str) -> str:
    line = "".join(c if c.isprintable() else " " for c in cell)
    return line if len(line) <= 44 else line[:41] + "..."
