"""Measure how fast LeNet-5 trains on this CPU, in several ways side by side.

The ways take turns, so that other work on the machine slows all of them alike. The result is a
Markdown table; with --output also a picture.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lenet.cli import check_folder, command_parser, number_from, path_of

VARIANTS = {
    "eager": "PyTorch's own kernels",
    "channels_last": "eager, with network and images in torch.channels_last",
    "compile": "eager, with the network through torch.compile",
    "native": "this package's fused C++ kernels",
}


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    if options.output:
        check_folder(options.output)
    if "torch" not in sys.modules:  # run.py sets this too; torch reads it when it starts
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")

    import torch

    from lenet.commands.benchmark.training import Cell, machine, measure, table
    from lenet.data.sets import load

    data = load("auto", options.root)
    print(f"{machine()}; {data.line()}", file=sys.stderr)
    cells: list[Cell] = []
    missing: dict[str, str] = {}
    for threads in sorted({count or torch.get_num_threads() for count in options.threads}):
        for batch in options.batches:
            timing = options.rounds, options.seconds
            cells.append(measure(data, batch, threads, options.variants, *timing, missing))
            print(cells[-1].line(), file=sys.stderr)
    lines = [
        *("# Training LeNet-5 on a CPU", "", f"{machine()}. {data.line()}.", ""),
        *(*table(cells), ""),
        f"Median (min–max) of {options.rounds} rounds. In each round every variant runs for about "
        f"{options.seconds:g} s. The last column is the median of the rounds' ratios.\n",
        *(f"* {name}: {VARIANTS[name]}" for name in options.variants),
        *(f"* Not measured: {name} ({why})" for name, why in missing.items()),
    ]
    page = "\n".join([*lines, ""])
    print(page, end="")
    if options.output:
        from lenet.commands.benchmark.plots import speeds

        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "benchmark.md").write_text(page, encoding="utf-8")
        speeds(cells, machine()).savefig(options.output / "benchmark.png")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__name__, __doc__, "--batches 64,256 --variants eager,native")

    def add(name: str, default: Any, note: str, **how: Any) -> None:
        parser.add_argument(name, default=default, help=f"{note} (default: %(default)s)", **how)

    every = ",".join(VARIANTS)
    add(
        "--batches",
        "16,64,256,1024",
        "batch sizes",
        type=_listed(number_from(1, 4096)),
        metavar="N,N",
    )
    add("--threads", "1,all", "numbers of threads", type=_listed(_threads), metavar="N,N")
    add("--variants", every, "ways to train", type=_listed(_variant), metavar="NAME,NAME")
    add("--rounds", 5, "how often each way is measured", type=number_from(1, 1000), metavar="N")
    add(
        "--seconds",
        0.4,
        "length of one measurement",
        type=number_from(0.001, 60, float),
        metavar="S",
    )
    add("--root", os.environ.get("LENET_DATA", "data"), "where MNIST is", metavar="FOLDER")
    note = "write benchmark.md and benchmark.png to this folder"
    parser.add_argument("--output", type=path_of, metavar="FOLDER", help=note)
    return parser


def _listed(one: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: list(dict.fromkeys(one(item.strip()) for item in text.split(",")))


def _variant(text: str) -> str:
    if text not in VARIANTS:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(VARIANTS)}, got {text!r}")
    return text


def _threads(text: str) -> int | None:
    """None for `all`: only torch knows how many that is, and it is not imported yet."""
    count = number_from(1, os.cpu_count() or 1, note=", or all")
    return None if text == "all" else count(text)
