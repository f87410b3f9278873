"""Measure how fast LeNet-5 trains on this CPU, in several ways side by side.

The ways take turns, so that other work on the machine slows all of them alike. The result is a
table; with --output also a picture.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from lenet.cli import command_parser, number_from, path_of

VARIANTS = {
    "eager": "PyTorch's own kernels",
    "channels_last": "eager, with network and images in torch.channels_last",
    "compile": "eager, with the network through torch.compile",
    "native": "this package's fused C++ kernels",
}


def main(argv: Sequence[str]) -> int:
    options = _parser().parse_args(argv)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)

    import pandas as pd
    import torch

    from lenet.commands.benchmark.training import machine, measure, table
    from lenet.data.sets import load

    data = load("auto", options.root)
    print(f"{machine()}; {data.line()}", file=sys.stderr)
    rounds: list[dict[str, Any]] = []
    missing: dict[str, str] = {}
    for threads in sorted({count or torch.get_num_threads() for count in options.threads}):
        for batch in options.batches:
            print(f"threads {threads}, batch size {batch} ...", file=sys.stderr)
            how = options.variants, options.rounds, options.seconds
            found, refused = measure(data, batch, threads, *how)
            rounds += found
            missing |= refused
    if not rounds:
        raise ValueError("; ".join(f"{name}: {why}" for name, why in missing.items()))
    speeds = pd.DataFrame(rounds)
    lines = [
        f"Training LeNet-5 on {machine()}; {data.line()}",
        f"Images a second in {options.rounds} rounds of {options.seconds:g} s each:\n",
        table(speeds),
        "",
        *(f"{name}: {VARIANTS[name]}" for name in options.variants if name not in missing),
        *(f"not measured: {name} ({why})" for name, why in missing.items()),
    ]
    print("\n".join(lines))
    if options.output:
        from lenet.commands.benchmark.plots import plot
        from lenet.training.plots.style import caption, save

        (options.output / "benchmark.txt").write_text("\n".join([*lines, ""]), encoding="utf-8")
        figure = caption(plot(speeds), f"{machine()}; {data.line()}")
        save(figure, options.output / "benchmark.png")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(__name__, __doc__, "--batches 64,256 --variants eager,native")

    def add(name: str, default: Any, metavar: str, note: str, kind: Any = str) -> None:
        note += " (default: %(default)s)"
        parser.add_argument(name, default=default, metavar=metavar, help=note, type=kind)

    add("--batches", "16,64,256,1024", "N,N", "batch sizes", _listed(number_from(1, 4096)))
    add("--threads", "1,all", "N,N", "numbers of threads", _listed(_threads))
    add("--variants", ",".join(VARIANTS), "NAME,NAME", "ways to train", _listed(_variant))
    add("--rounds", 5, "N", "how often each way is measured", number_from(1, 1000))
    add("--seconds", 0.4, "S", "length of one measurement", number_from(0.001, 60, float))
    add("--root", os.environ.get("LENET_DATA", "data"), "FOLDER", "where MNIST is")
    note = "write benchmark.txt and benchmark.png to this folder"
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
    return None if text == "all" else int(number_from(1, os.cpu_count() or 1)(text))
