"""PyTorch's optimizers without its compiler, which they import at their first call."""

import functools
from typing import Any

import torch
from torch.optim import Optimizer


def skip_compiler() -> None:
    """Keeps the optimizers of `torch.optim` from importing `torch._dynamo`, which takes longer than
    a short training. They use it to tell `torch.compile` what to leave alone, and compute the same.

    The names are those of torch 2.14. Where another version has others, it imports its compiler.
    """
    for method in vars(Optimizer).values():
        if plain := getattr(method, "__wrapped__", None):
            vars(plain).setdefault("__dynamo_disable", plain)  # where its first call would keep it
    for kind in Optimizer.__subclasses__():
        step: Any = vars(kind).get("step")
        if getattr(getattr(step, "__code__", None), "co_name", "") == "_use_grad":
            kind.step = _stepping(step.__wrapped__)  # type: ignore[method-assign]


def _stepping(step: Any) -> Any:
    @functools.wraps(step)
    def stepping(optimizer: Any, closure: Any = None) -> Any:
        with torch.set_grad_enabled(optimizer.defaults["differentiable"]):
            return step(optimizer, closure)

    return stepping
