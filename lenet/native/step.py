"""A whole step of training in one call of the kernels, where it is one that they know.

That is LeNet5 with the native kernels, cross entropy and torch.optim.SGD. Parameters, momenta and
gradients are still the tensors of PyTorch's own objects, so schedules, checkpoints and whatever
looks at them between two steps find what they would have found.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import torch.optim.optimizer as hooked
from torch import Tensor, nn

from lenet import native
from lenet.native.build import BuildError
from lenet.native.op import sgd_type

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None]
MOST_CLASSES = 1000


def whole_step(model: nn.Module, criterion: Any, optimizer: torch.optim.Optimizer) -> Step | None:
    """A function of (images, labels) that takes one training step and returns its mean loss and
    its outputs; or None, and nothing was done, where PyTorch must take this one. None instead of
    the function where it would never do anything.
    """
    smoothing = _smoothing(criterion)
    if getattr(model, "kernels", "") != "native" or smoothing is None:
        return None
    if type(optimizer) is not torch.optim.SGD or len(optimizer.param_groups) != 1:
        return None
    grads: dict[Tensor, Tensor] = {}

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        group = optimizer.param_groups[0]
        found = _state(model, optimizer, group)
        if found is None or not _plain(images, labels):
            return None
        plan, parameters, momenta = found
        for p in parameters:
            if p is not None and p not in grads:
                grads[p] = torch.empty_like(p)
        own = [p if p is None else grads[p] for p in parameters]
        options = sgd_type(torch.float32)(
            group["lr"],
            group["momentum"],
            group["dampening"],
            group["weight_decay"],
            smoothing,
            group["nesterov"],
            group["maximize"],
        )
        result = plan.kernels.step(images, labels, parameters, momenta, own, options)
        if result is None:
            return None
        changed = [p for p in parameters if p is not None]
        torch.autograd.graph.increment_version(changed)
        for p in changed:
            p.grad = grads[p]
        optimizer._opt_called = True  # type: ignore[attr-defined]  # as step() tells a schedule
        losses, outputs = result
        return losses.mean(), outputs

    return step


def _smoothing(criterion: Any) -> float | None:
    """Of a cross entropy that is the batch's mean over all its images; None for another loss."""
    if criterion is F.cross_entropy:
        return 0.0
    if type(criterion) is not nn.CrossEntropyLoss or criterion._forward_hooks:
        return None
    if criterion.weight is not None or criterion.reduction != "mean":
        return None
    if criterion.ignore_index >= 0:  # a class; below 0 it is PyTorch that finds it
        return None
    return float(criterion.label_smoothing)


def _plain(images: Tensor, labels: Tensor) -> bool:
    """Whether the kernels take this batch; what they don't take, the model will say why."""
    try:
        native._check_images(images)
    except native.Unsupported:
        return False
    plain = type(labels) is Tensor and labels.is_cpu and labels.dtype == torch.int64
    return plain and labels.shape == images.shape[:1] and torch.is_grad_enabled()


def _state(
    model: Any, optimizer: torch.optim.SGD, group: dict[str, Any]
) -> tuple[native.Plan, list[Tensor | None], list[Tensor | None] | None] | None:
    """Parameters and momenta in the kernels' order. None where anyone listens to a part of the
    step, or some parameter is not this optimizer's, or it has yet to take its first step.
    """
    if _listened_to(model, optimizer) or native._traced() or isinstance(group["lr"], Tensor):
        return None
    try:
        plan = native._plan(model)
        parameters = native._parameters(plan)
    except (native.Unsupported, BuildError):
        return None
    if not plan.to_the_end or plan.kernels.outputs > MOST_CLASSES:
        return None
    theirs = {id(p) for p in group["params"]}
    momenta: list[Tensor | None] = []
    for p in parameters:
        if p is None:
            momenta.append(None)
            continue
        if id(p) not in theirs or not p.requires_grad or p._backward_hooks:
            return None
        if p._post_accumulate_grad_hooks:
            return None
        momentum = optimizer.state.get(p, {}).get("momentum_buffer")
        if group["momentum"] and (momentum is None or not momentum.is_contiguous()):
            return None  # the first step, which begins the momenta, is PyTorch's
        momenta.append(momentum)
    count = sum(p is not None for p in parameters)
    if count != len(theirs):
        return None
    return plan, parameters, momenta if group["momentum"] else None


def _listened_to(model: Any, optimizer: Any) -> bool:
    """Whether anything but PyTorch's own parts is called in the step, or looks into it."""
    if getattr(type(model).forward, "__qualname__", "") != "LeNet5.forward":
        return True
    step = vars(optimizer).get("step")  # torch's schedules put a counter there
    if "forward" in vars(model) or (step and not hasattr(step, "_wrapped_by_lr_sched")):
        return True
    return bool(
        model._forward_hooks
        or model._forward_pre_hooks
        or model._backward_hooks
        or model._backward_pre_hooks
        or model._compiled_call_impl
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or hooked._global_optimizer_pre_hooks
        or hooked._global_optimizer_post_hooks
        or torch.is_anomaly_enabled()
        or torch.autograd.profiler._is_profiler_enabled
    )
