"""Training steps of each variant, measured in turns with torch.utils.benchmark."""

import itertools
import math
import platform
import re
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from lenet.cli import first_error_line
from lenet.data.batches import Batches
from lenet.data.sets import Data
from lenet.model import equip
from lenet.model.lenet5 import LeNet5
from lenet.training.epoch import Step


def training_step(
    model: LeNet5, variant: str, batches: Iterator[tuple[Tensor, Tensor]]
) -> Callable[[], None]:
    """A function that trains the model on the next batch as the default run does.

    Raises: an error of torch's or KernelError if this machine cannot train in that way.
    """
    layout = torch.channels_last if variant == "channels_last" else torch.contiguous_format
    model.to(memory_format=layout)
    torch._dynamo.reset()  # it compiles only the first eight networks of a process
    equip(model, "cpu", variant if variant in ("compile", "native") else "eager")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
    step = Step(model, nn.CrossEntropyLoss(), optimizer)

    def take_step() -> None:
        inputs, labels = next(batches)
        step(inputs.to(memory_format=layout), labels)

    return take_step


def full_batches(train: Batches, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of exactly this size; a smaller set is repeated."""
    index = torch.arange(max(train.count, size)) % train.count
    images, labels = train.images[index], train.labels[index]
    batches = Batches(images, labels, size, seed=0, transform=train.transform)
    for epoch in itertools.count(1):
        batches.set_epoch(epoch)
        yield from (batch for batch in batches if len(batch[1]) == size)


def measure(
    data: Data, batch: int, threads: int, variants: Sequence[str], rounds: int, seconds: float
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The speed of each variant in each round, in an order that rotates from round to round, and
    the variants that this machine cannot run, with the reason.
    """
    timers, missing = {}, {}
    for variant in variants:
        try:
            torch.manual_seed(0)
            take_step = training_step(LeNet5(), variant, full_batches(data.train, batch))
            take_step()  # this compiles
        except Exception as error:  # a missing compiler: each part of torch has its own error
            if variant not in ("compile", "native"):
                raise
            missing[variant] = first_error_line(error)
        else:
            timers[variant] = Timer("f()", globals={"f": take_step}, num_threads=threads)
    rows, order = [], deque(timers)
    for _ in range(rounds):
        speeds = {
            variant: batch / timers[variant].blocked_autorange(min_run_time=seconds).median
            for variant in order
        }
        for variant in timers:
            speed, eager = speeds[variant], speeds.get("eager", math.nan)
            row = {"threads": threads, "batch": batch, "variant": variant}
            rows.append({**row, "speed": speed, "times_eager": speed / eager})
        order.rotate(-1)
    return rows, missing


def table(speeds: pd.DataFrame) -> str:
    """Median, lowest and highest speed of each variant, and how many times as fast as eager."""
    found = speeds.groupby(["threads", "batch", "variant"], sort=False).agg(
        median=("speed", "median"),
        lowest=("speed", "min"),
        highest=("speed", "max"),
        times_eager=("times_eager", "median"),
    )
    formats = dict.fromkeys(("median", "lowest", "highest"), "{:,.0f}".format)
    formats["times_eager"] = "{:.1f}".format
    return found.reset_index().to_string(index=False, formatters=formats, na_rep="")


def machine() -> str:
    """The machine in a line: CPU, instructions, versions."""
    cpu, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file() and (found := re.search(r"model name\s*: (.*)", info.read_text())):
        cpu = found[1]
    simd = torch.backends.cpu.get_cpu_capability()
    return f"{cpu}, {simd}, torch {torch.__version__}, {platform.system()} {platform.release()}"
