"""Training steps of each variant, measured in turns with torch.utils.benchmark."""

import itertools
import math
import platform
import re
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Timer

from lenet.cli import first_error_line
from lenet.data.batches import Batches
from lenet.data.sets import Data
from lenet.model.lenet5 import LeNet5
from lenet.native import KernelError, equip
from lenet.training.epoch import Step

EPOCH = 60_000  # images


class UnavailableError(RuntimeError):
    """This machine cannot train in that way; the message says why."""


@dataclass(frozen=True)
class Cell:
    """Images a second of each variant at one batch size and number of threads, for each round."""

    threads: int
    batch: int
    speeds: dict[str, list[float]]

    def line(self) -> str:
        medians = [f"{name} {median(speeds):,.0f}" for name, speeds in self.speeds.items()]
        return f"threads {self.threads}, batch {self.batch}: {', '.join(medians)} images/s"

    def times_eager(self, variant: str) -> float | None:
        """How many times as fast as eager: the median of the rounds' ratios."""
        if "eager" not in self.speeds:
            return None
        pairs = zip(self.speeds[variant], self.speeds["eager"], strict=True)
        return median(ours / eager for ours, eager in pairs)


class Trainer:
    """Trains LeNet-5 as the default run does, one step at a time, without an end."""

    def __init__(self, variant: str, data: Data, batch: int) -> None:
        torch.manual_seed(0)
        model = LeNet5()
        self.layout = torch.contiguous_format
        if variant == "channels_last":
            self.layout = torch.channels_last
            model.to(memory_format=torch.channels_last)
        elif variant == "compile":
            torch._dynamo.reset()  # it compiles only the first eight networks of a process
        if variant in ("compile", "native"):
            try:
                equip(model, "cpu", variant)
            except KernelError as error:
                raise UnavailableError(str(error)) from None
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, fused=True)
        self.step = Step(model, nn.CrossEntropyLoss(), optimizer)
        if variant == "native" and self.step.fused is None:
            raise UnavailableError("the kernels do not take this network's step")
        self.batches = full_batches(data.train, batch)

    def take_step(self) -> None:
        inputs, labels = next(self.batches)
        self.step(inputs.to(memory_format=self.layout), labels)


def full_batches(train: Batches, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless batches of exactly this size; a smaller set is repeated."""
    index = torch.arange(max(train.count, size)) % train.count
    images, labels = train.images[index], train.labels[index]
    batches = Batches(images, labels, size, seed=0, transform=train.transform)
    for epoch in itertools.count(1):
        batches.set_epoch(epoch)
        yield from (batch for batch in batches if len(batch[1]) == size)


def measure(
    data: Data,
    batch: int,
    threads: int,
    variants: Sequence[str],
    rounds: int,
    seconds: float,
    missing: dict[str, str],
) -> Cell:
    """The speed of each variant, measured once a round in an order that rotates each round.

    A variant that this machine cannot run goes to `missing`, with the reason.
    """
    timers: dict[str, tuple[Timer, int]] = {}
    for variant in variants:
        try:
            trainer = Trainer(variant, data, batch)
            names = {"take_step": trainer.take_step}
            timer = Timer("take_step()", globals=names, num_threads=threads)
            typical = timer.blocked_autorange(min_run_time=seconds).median  # the warm-up
        except Exception as error:  # a missing compiler: each part of torch has its own error
            if variant not in ("compile", "native"):
                raise
            missing[variant] = first_error_line(error)
            continue
        timers[variant] = timer, math.ceil(seconds / typical)
    speeds: dict[str, list[float]] = {variant: [] for variant in timers}
    order = deque(timers)
    for _ in range(rounds):
        for variant in order:
            timer, steps = timers[variant]
            speeds[variant].append(batch / timer.timeit(steps).mean)
        order.rotate(-1)
    return Cell(threads, batch, speeds)


def table(cells: Sequence[Cell]) -> list[str]:
    """The lines of a Markdown table."""
    lines = ["| threads | batch | variant | images/s | s an epoch | times eager |"]
    lines.append("| ---: | ---: | --- | ---: | ---: | ---: |")
    for cell in cells:
        for variant, speeds in cell.speeds.items():
            middle, times = median(speeds), cell.times_eager(variant)
            row = [
                *(str(cell.threads), str(cell.batch), variant),
                f"{middle:,.0f} ({min(speeds):,.0f}–{max(speeds):,.0f})",
                *(f"{EPOCH / middle:.2f}", "" if times is None else f"{times:.2f}"),
            ]
            lines.append(f"| {' | '.join(row)} |")
    return lines


def machine() -> str:
    """The machine in a line: CPU, instructions, versions."""
    cpu, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file() and (found := re.search(r"model name\s*: (.*)", info.read_text())):
        cpu = found[1]
    simd = torch.backends.cpu.get_cpu_capability()
    return f"{cpu}, {simd}, torch {torch.__version__}, {platform.system()} {platform.release()}"
