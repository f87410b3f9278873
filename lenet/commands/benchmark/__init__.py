"""Measure how fast LeNet-5 trains on this CPU, in several ways side by side."""

import argparse
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import psutil

from lenet.cli import check_folder, one_line, path_of
from lenet.commands.benchmark.report import VARIANTS, Report, machine_line, markdown

MOST_ROUNDS, MOST_SECONDS, MOST_IMAGES = 1000, 60.0, 4096
SPLIT_BATCHES = (64, 256)


def main(argv: Sequence[str]) -> int:
    # As run.py does, for its reason; torch must not have been read in by then.
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    options = _parser().parse_args(argv)
    if options.output:
        check_folder(options.output)
    report = run(options)
    page = markdown(report)
    print(page, end="")
    if options.output:
        from lenet.commands.benchmark.plot import overview

        options.output.mkdir(parents=True, exist_ok=True)
        (options.output / "benchmark.md").write_text(page, encoding="utf-8")
        (options.output / "benchmark.json").write_text(report.json(), encoding="utf-8")
        overview(report).savefig(options.output / "benchmark.png")
    return 0


def run(options: argparse.Namespace) -> Report:
    """Measures what the options ask for; torch's number of threads is put back at the end."""
    import torch

    from lenet.commands.benchmark.split import measure_splits
    from lenet.commands.benchmark.startup import StartupError, startup
    from lenet.commands.benchmark.steps import measure
    from lenet.data.sets import load

    data, machine = load("auto", options.root), describe_machine()
    before, began = torch.get_num_threads(), time.perf_counter()
    timing = options.rounds, options.seconds
    cells, splits, started = [], [], {}
    missing: dict[str, str] = {}

    def tell(what: str) -> None:
        print(f"{time.perf_counter() - began:4.0f} s  {what}", file=sys.stderr)

    tell(f"{machine_line(machine)}; {data.line()}")
    try:
        for threads in sorted({count or before for count in options.threads}):
            torch.set_num_threads(threads)
            for batch in options.batches:
                cells.append(measure(data, batch, options.variants, *timing, missing))
                tell(cells[-1].line())
        for batch in [b for b in options.batches if b in SPLIT_BATCHES] or options.batches[:1]:
            splits += measure_splits(data, batch, options.variants, *timing)
            tell(f"threads {threads}, batch {batch}: where a step goes")
    finally:
        torch.set_num_threads(before)
    if not options.no_startup:
        try:
            started = startup(data.name, options.root)
        except StartupError as error:
            missing["the start"] = str(error)
    return Report(machine, data.line(), *timing, cells, splits, started, missing)


def describe_machine() -> dict[str, Any]:
    import torch

    logical = psutil.cpu_count() or 1
    return {
        "cpu": _cpu_name(),
        "cores": psutil.cpu_count(logical=False) or logical,
        "logical": logical,
        "simd": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "os": f"{platform.system()} {platform.release()}",
        "spin": os.environ.get("GOMP_SPINCOUNT"),
        "load": psutil.getloadavg()[0],  # of the minute before: whether it was alone
    }


def _cpu_name() -> str:
    """The CPU's model; Python itself mostly knows its family alone."""
    if Path("/proc/cpuinfo").is_file():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return platform.processor() or platform.machine()


# ---- Options ---------------------------------------------------------------------------------


class Parser(argparse.ArgumentParser):
    """Answers a bad value with one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {one_line(message)}\n")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m lenet benchmark",
        description="Trains LeNet-5 on the CPU in several ways and says how fast each is.",
        epilog="Example: python -m lenet benchmark --batches 64,256 --variants eager,native",
    )

    def add(name: str, default: Any, note: str, **how: Any) -> None:
        parser.add_argument(name, default=default, help=f"{note} (default: %(default)s)", **how)

    every = ",".join(VARIANTS)
    add("--batches", "16,64,256,1024", "batch sizes", type=_listed(_batch), metavar="N,N")
    add("--threads", "1,all", "numbers of threads", type=_listed(_thread), metavar="N,N")
    add("--variants", every, "ways to train", type=_listed(_variant), metavar="NAME,NAME")
    add("--rounds", 5, "how often everything is measured", type=_rounds, metavar="N")
    add("--seconds", 0.4, "of training in each stretch", type=_seconds, metavar="S")
    add("--root", os.environ.get("LENET_DATA", "data"), "where MNIST lies", metavar="FOLDER")
    parser.add_argument(
        "--output", type=path_of, metavar="FOLDER", help="writes benchmark.md, .json and .png there"
    )
    parser.add_argument(
        "--no-startup", action="store_true", help="leaves out the start of python run.py"
    )
    return parser


def _listed(one: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: list(dict.fromkeys(one(item.strip()) for item in text.split(",")))


def _whole(text: str, most: int, also: str = "") -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
        raise argparse.ArgumentTypeError(f"expected 1 to {most:,}{also}, got {text!r}")
    return int(text)


def _batch(text: str) -> int:
    return _whole(text, MOST_IMAGES)


def _rounds(text: str) -> int:
    return _whole(text, MOST_ROUNDS)


def _thread(text: str) -> int | None:
    """None is all: torch knows how many those are, and has not been read in."""
    return None if text == "all" else _whole(text, os.cpu_count() or 1, ", or all")


def _variant(text: str) -> str:
    if text not in VARIANTS:
        raise argparse.ArgumentTypeError(f"expected some of {', '.join(VARIANTS)}, got {text!r}")
    return text


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"expected above 0, up to {MOST_SECONDS:g}, got {text!r}")
    return value
