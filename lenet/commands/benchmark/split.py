"""Where the time of a training step goes, read off clocks in the training loop itself."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lenet import native
from lenet.commands.benchmark.report import PARTS, Split
from lenet.commands.benchmark.steps import Fitted, Stretch, ready, turns
from lenet.data.sets import Data
from lenet.training.loop import fit


class Clock:
    """Gives the time since it was last looked at to one part of the step, or to none."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.last = 0.0

    def skip(self) -> None:
        self.last = time.perf_counter()

    def take(self, part: str) -> None:
        now = time.perf_counter()
        self.seconds[part] += now - self.last
        self.last = now

    def feed(self, feed: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            self.skip()
            batch = next(feed)
            self.take("indexing")
            yield batch

    def leaving(self, part: str, behind: str) -> Callable[[nn.Module, Any, Tensor], None]:
        """A forward hook: `part` ends here, and here again, backward, ends what comes `behind`."""

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.take(part)
            output.register_hook(lambda gradient: self.take(behind))

        return hook


class ClockedOptimizer:
    def __init__(self, optimizer: torch.optim.Optimizer, clock: Clock) -> None:
        self.optimizer = optimizer
        self.clock = clock
        self.param_groups = optimizer.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.clock.skip()
        self.optimizer.zero_grad(set_to_none)
        self.clock.take("update")

    def step(self) -> None:
        self.clock.take("convolutions")  # the last of the backward pass
        self.optimizer.step()
        self.clock.take("update")


def split_step(trainer: Fitted, steps: int, fused: bool) -> dict[str, float]:
    """Trains for `steps` with a clock at every border. Returns: microseconds a step, by part."""
    clock = Clock()

    def criterion(logits: Tensor, labels: Tensor) -> Tensor:
        loss = trainer.criterion(logits, labels)
        clock.take("loss")
        return loss

    model, watched = trainer.model, criterion
    optimizer: Optimizer = trainer.optimizer
    hooks: list[Any] = []
    inside: AbstractContextManager[dict[str, float]] = nullcontext({})
    if fused:  # it has clocks of its own; any of these would make it leave the step to PyTorch
        inside, watched = native.stopwatch(), trainer.criterion
    else:
        optimizer = cast(Optimizer, ClockedOptimizer(trainer.optimizer, clock))
        hooks = [
            model.register_forward_pre_hook(lambda module, inputs: clock.skip()),
            model.register_forward_hook(clock.leaving("dense", behind="loss")),
            model.pool2.register_forward_hook(clock.leaving("convolutions", behind="dense")),
        ]
    try:
        with inside as cpp:
            stretch = Stretch(clock.feed(trainer.feed), steps)
            [record] = fit(model, stretch, watched, optimizer, epochs=1)
    finally:
        for handle in hooks:
            handle.remove()
    parts = clock.seconds | cpp
    parts["rest"] = record.seconds - sum(parts[name] for name in PARTS if name != "rest")
    return {name: 1e6 / steps * value for name, value in {"step": record.seconds, **parts}.items()}


def measure_splits(
    data: Data, batch: int, variants: Sequence[str], rounds: int, seconds: float
) -> list[Split]:
    """Where a step of eager and of native goes, in turns, on the present threads."""
    trainers = ready([v for v in variants if v in ("eager", "native")], data, batch, seconds, {})
    found: dict[str, list[dict[str, float]]] = {variant: [] for variant in trainers}
    for name in turns(list(trainers), rounds):
        trainer, steps = trainers[name]
        assert isinstance(trainer, Fitted)
        found[name].append(split_step(trainer, steps, fused=name == "native"))
    threads = torch.get_num_threads()
    return [Split(name, threads, batch, parts) for name, parts in found.items()]
