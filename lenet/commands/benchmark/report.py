"""What the benchmark measured -> medians, ratios and a Markdown page. Knows neither torch nor time.

Every measurement keeps its rounds: a ratio is taken within a round, where both sides met the same
machine, and then the median over the rounds.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median, median_low
from typing import Any

EPOCH = 60_000  # images
MULTIPLY_ADDS = 416_520  # an image, forward
FLOP = 2 * 3 * MULTIPLY_ADDS  # an image: forward, and by custom twice that backward
FLOP_NEEDED = FLOP - 2 * 6 * 28 * 28 * 5 * 5  # nobody asks C1 for the gradient of the image

VARIANTS = {
    "tutorial": "the tutorial's loader and loop: each image through PIL, in two worker processes",
    "eager": "lenet.training.loop.fit over images in memory, torch's own kernels",
    "channels_last": "eager, with the network and the images in torch.channels_last",
    "compile": "eager, with the network through torch.compile",
    "native": "eager, with the network on this package's fused C++ kernels",
}
PARTS = {  # of a step
    "convolutions": "convolutions",
    "dense": "dense layers",
    "loss": "loss",
    "update": "update",
    "indexing": "indexing",
    "rest": "Python and the rest",
}


@dataclass(frozen=True)
class Cell:
    """One batch size on one number of threads: a number for each round.

    `sgemm` is in GFLOP/s, `speeds` in images/s, `images` how many made a stretch.
    """

    threads: int
    batch: int
    sgemm: list[float]
    speeds: dict[str, list[float]]
    images: dict[str, int]

    def line(self) -> str:
        medians = [f"{name} {median(speeds):,.0f}" for name, speeds in self.speeds.items()]
        return (
            f"threads {self.threads}, batch {self.batch}: {', '.join(medians)} images/s, "
            f"SGEMM {median(self.sgemm):.0f} GFLOP/s"
        )


@dataclass(frozen=True)
class Split:
    """Where a variant's step goes, in microseconds: for each round `step` and its PARTS."""

    variant: str
    threads: int
    batch: int
    rounds: list[dict[str, float]]

    @property
    def typical(self) -> dict[str, float]:
        """The round of the median step, whole: medians of the parts would not sum to a step."""
        step = median_low(parts["step"] for parts in self.rounds)
        return next(parts for parts in self.rounds if parts["step"] == step)


@dataclass(frozen=True)
class Report:
    """All of a benchmark. `startup` holds seconds for each child process, where it was measured;
    `missing` says of what was left out why."""

    machine: dict[str, Any]
    data: str
    rounds: int
    seconds: float
    cells: list[Cell]
    splits: list[Split]
    startup: dict[str, list[float]]
    missing: dict[str, str]

    def json(self) -> str:
        return json.dumps({"flop_per_image": FLOP, **asdict(self)}, indent=1) + "\n"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times theirs ours is: the median of the rounds' ratios, not a ratio of medians."""
    return median(x / y for x, y in zip(ours, theirs, strict=True))


def gflops(speeds: Sequence[float]) -> list[float]:
    return [speed * FLOP / 1e9 for speed in speeds]


def machine_line(machine: dict[str, Any]) -> str:
    cores = f"{machine['cores']} core" + "s" * (machine["cores"] != 1)
    if machine["logical"] != machine["cores"]:
        cores += f" ({machine['logical']} hardware threads)"
    return (
        f"{machine['cpu']}, {cores}, {machine['simd']}, torch {machine['torch']}, {machine['os']}"
    )


def spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    """Median (least to most), as Markdown and people take it."""
    return f"{form(median(values))} ({form(min(values))}–{form(max(values))})"


def markdown(report: Report) -> str:
    """The page: a table of speeds, one of where a step goes, the start, and how it was done."""
    sections = [
        "# Training LeNet-5 on a CPU",
        f"{machine_line(report.machine)}. {report.data}.",
        _table(_speed_rows(report.cells)),
        "\n".join(f"* {note}" for note in _notes(report)),
    ]
    if report.splits:
        sections += ["## Where a step goes", _table(_split_rows(report.splits)), _SPLIT_NOTE]
    if report.startup:
        first, imports = (
            spread(report.startup[name], "{:.2f}".format) for name in ("first_step", "imports")
        )
        count = len(report.startup["first_step"])
        sections += [
            "## Start",
            f"`python run.py` to the end of its first optimizer step: {first} s. Importing torch "
            f"and mlflow alone: {imports} s. Median (min–max) of {count} processes each, files "
            "cached, with an existing MLflow database.",
        ]
    if report.missing:
        left_out = [f"Left out: {name} ({why})." for name, why in report.missing.items()]
        sections.append("\n".join(left_out))
    return "\n\n".join(sections) + "\n"


def _table(rows: Iterator[Sequence[str]]) -> str:
    head, *body = rows
    rule = ["---" if column in ("variant", "step of") else "---:" for column in head]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def _speed_rows(cells: Sequence[Cell]) -> Iterator[Sequence[str]]:
    head = "threads, batch, variant, images/s, s an epoch, GFLOP/s, of SGEMM, times eager"
    yield head.split(", ")
    for cell in cells:
        place = str(cell.threads), str(cell.batch)
        for variant, speeds in cell.speeds.items():
            rates = gflops(speeds)
            eager = cell.speeds.get("eager")
            yield (
                *place,
                variant,
                spread(speeds, "{:,.0f}".format),
                f"{EPOCH / median(speeds):.2f}",
                f"{median(rates):.1f}",
                f"{ratio(rates, cell.sgemm):.1%}",
                f"{ratio(speeds, eager):.2f}" if eager else "",
            )
        yield *place, "SGEMM", "", "", spread(cell.sgemm, "{:.0f}".format), "100%", ""


def _split_rows(splits: Sequence[Split]) -> Iterator[Sequence[str]]:
    yield "step of", "threads", "batch", "µs a step", *PARTS.values()
    for split in splits:
        parts = split.typical
        step = parts["step"]
        cells = [f"{parts[part]:,.0f} ({parts[part] / step:.0%})" for part in PARTS]
        yield split.variant, str(split.threads), str(split.batch), f"{step:,.0f}", *cells


def _notes(report: Report) -> Iterator[str]:
    yield (
        f"One process, one run. Rounds: {report.rounds}; in each, every variant of a threads-batch "
        f"pair and the SGEMM get a stretch of about {report.seconds:g} s, in an order that moves "
        "on by one a round, after a warm-up stretch that is not counted. Medians (min–max) over "
        "the rounds; both ratios are taken round by round, then their median."
    )
    yield (
        f"GFLOP/s counts {FLOP / 1e6:.2f} MFLOP an image: {MULTIPLY_ADDS:,} multiply-adds forward, "
        "two FLOP each, times three for forward and backward. That is the custom; it includes the "
        f"gradient of the image, which nobody computes. Without it: {FLOP_NEEDED / 1e6:.2f}."
    )
    yield "SGEMM is torch.mm of square float32 matrices on the same threads."
    used = {variant for cell in report.cells for variant in cell.speeds}
    yield "; ".join(f"{name}: {text}" for name, text in VARIANTS.items() if name in used) + "."
    if "tutorial" in used:
        yield (
            "The tutorial's worker processes come on top of its threads. They start anew with "
            "every epoch, which is not counted: its clock starts when the loop, after the first "
            "batches, has to wait for them, and stops after a whole number of their rounds."
        )
    if spin := report.machine.get("spin"):
        text = f"GOMP_SPINCOUNT={spin} for every variant, which is what run.py sets unless told."
        if "tutorial" in used:
            text += (
                " The tutorial's own script sets none: its threads then spin beside its workers."
            )
        yield text


_SPLIT_NOTE = (
    "Taken in the training loop itself; the round of the median step, whole, so that the parts sum "
    "to the step. Forward and backward together; activations and pooling count as convolutions "
    "up to S4, as dense after it. Update: zero_grad and step. Indexing: making the batch. For "
    "native, the first four are the seconds inside the C++, the call to it is in the rest; for "
    "eager the calls are part of their layers."
)
