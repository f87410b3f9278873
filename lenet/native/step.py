"""A whole step of training in one call of the kernels, where it is one that they know.

That is LeNet5 with the native kernels, cross entropy and torch.optim.SGD; for an image alone also
the paper's connections, output, losses and optimizer. Parameters, momenta and
gradients are still the tensors of PyTorch's own objects, so schedules, checkpoints and whatever
looks at them between two steps find what they would have found.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torch.optim.optimizer as hooked
from torch import Tensor, nn

from lenet import native
from lenet.layers import RBF, ConnectedConv2d
from lenet.losses import MAP, MSE
from lenet.native.build import BuildError
from lenet.native.op import sgd_type, single_type
from lenet.optim import SDLM

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None]
MOST_CLASSES = 1000


@dataclass(frozen=True)
class Loss:
    """What the kernels know of a criterion; `kind` is single.h's."""

    kind: int  # 0 cross entropy, 1 maximum a posteriori, 2 squared error
    smoothing: float = 0.0
    rubbish: float = 0.0
    output: str | None = None  # the one it is for, where it is for one


def whole_step(model: nn.Module, criterion: Any, optimizer: torch.optim.Optimizer) -> Step | None:
    """A function of (images, labels) that takes one training step and returns its mean loss and
    its outputs; or None, and nothing was done, where PyTorch must take this one. None instead of
    the function where it would never do anything.
    """
    loss = _loss(criterion)
    if getattr(model, "kernels", "") != "native" or loss is None:
        return None
    if type(optimizer) not in (torch.optim.SGD, SDLM) or len(optimizer.param_groups) != 1:
        return None
    grads: dict[Tensor, Tensor] = {}
    scales: dict[Tensor, tuple[Tensor, Tensor]] = {}  # a curvature, and 1 / (mu + it)

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        group = optimizer.param_groups[0]
        alone = len(images) == 1
        found = _state(model, optimizer, alone, scales) if _plain(images, labels) else None
        if found is None:
            return None
        plan, parameters, states = found
        changed = [p for p in parameters if p is not None]
        for p in changed:
            if p not in grads:
                grads[p] = torch.empty_like(p)
        own = [p if p is None else grads[p] for p in parameters]
        options = _options(group, loss.smoothing)
        if alone:
            single = _single(model, loss, type(optimizer) is SDLM)
            if single is None:
                return None
            given = (images, labels, parameters, states, own, options, single)
            result = plan.kernels.step_on_one(*given)
        elif loss.kind == 0:
            result = plan.kernels.step(images, labels, parameters, states, own, options)
        else:
            return None
        if result is None:
            return None
        torch.autograd.graph.increment_version(changed)
        for p in changed:
            p.grad = grads[p]
        optimizer._opt_called = True  # type: ignore[attr-defined]  # as step() tells a schedule
        losses, outputs = result
        return losses.mean(), outputs

    return step


def _loss(criterion: Any) -> Loss | None:
    """None for one that is no batch's mean over all its images, or unknown."""
    if criterion is F.cross_entropy:
        return Loss(0)
    if type(criterion) is MAP and not criterion._forward_hooks:
        return Loss(1, rubbish=criterion.j)
    if type(criterion) is MSE and not criterion._forward_hooks:
        return Loss(2, output=criterion.output)
    if type(criterion) is not nn.CrossEntropyLoss or criterion._forward_hooks:
        return None
    if criterion.weight is not None or criterion.reduction != "mean":
        return None
    if criterion.ignore_index >= 0:  # a class; below 0 it is PyTorch that finds it
        return None
    return Loss(0, smoothing=float(criterion.label_smoothing))


def _options(group: dict[str, Any], smoothing: float) -> Any:
    if "mu" in group:
        return sgd_type(torch.float32)(group["lr"])
    return sgd_type(torch.float32)(
        group["lr"],
        group["momentum"],
        group["dampening"],
        group["weight_decay"],
        smoothing,
        group["nesterov"],
        group["maximize"],
    )


def _single(model: Any, loss: Loss, diagonal: bool) -> Any:
    """None where the loss is not for this output."""
    output, conv2 = model._modules["fc3"], model._modules["conv2"]
    distances = type(output) is RBF
    if loss.output not in (None, "rbf" if distances else "linear"):
        return None
    centres = output.centres if distances else None
    pairs = conv2.pairs if type(conv2) is ConnectedConv2d else None
    if centres is not None and centres.dtype != torch.float32:
        return None
    if not all(buffer is None or buffer.is_contiguous() for buffer in (centres, pairs)):
        return None
    return single_type(torch.float32)(
        loss.kind,
        distances,
        loss.smoothing,
        loss.rubbish,
        diagonal,
        0 if pairs is None else pairs.shape[1],
        0 if pairs is None else pairs.data_ptr(),
        0 if centres is None else centres.data_ptr(),
    )


def _plain(images: Tensor, labels: Tensor) -> bool:
    """Whether the kernels take this batch; what they don't take, the model will say why."""
    try:
        native._check_images(images)
    except native.Unsupported:
        return False
    plain = type(labels) is Tensor and labels.is_cpu and labels.dtype == torch.int64
    return plain and labels.shape == images.shape[:1] and torch.is_grad_enabled()


def _state(
    model: Any,
    optimizer: torch.optim.Optimizer,
    alone: bool,
    scales: dict[Tensor, tuple[Tensor, Tensor]],
) -> tuple[native.Plan, list[Tensor | None], list[Tensor | None] | None] | None:
    """Parameters and momenta, or scales of the learning rate, in the kernels' order. None where
    anyone listens to a part of the step, or some parameter is not this optimizer's, or it has yet
    to take its first step; or for what is known for an image alone, where there are more.
    """
    group = optimizer.param_groups[0]
    if _listened_to(model, optimizer) or native._traced() or isinstance(group["lr"], Tensor):
        return None
    try:
        plan = native._plan(model)
        parameters = native._parameters(plan, own=alone)
    except (native.Unsupported, BuildError):
        return None
    ends = plan.to_the_end or (alone and type(model.fc3) is RBF)
    if not ends or plan.kernels.outputs > MOST_CLASSES or (not alone and "mu" in group):
        return None
    theirs = {id(p) for p in group["params"]}
    states: list[Tensor | None] = []
    for p in parameters:
        if p is None:
            states.append(None)
            continue
        if id(p) not in theirs or not p.requires_grad or p._backward_hooks:
            return None
        if p._post_accumulate_grad_hooks:
            return None
        state = optimizer.state.get(p, {})
        if "mu" in group:
            states.append(_scale(p, state.get("curvature"), group["mu"], scales))
        else:
            states.append(state.get("momentum_buffer"))
        own = states[-1]
        if (group.get("momentum") or "mu" in group) and (own is None or not own.is_contiguous()):
            return None  # the first step, which begins the momenta, is PyTorch's
    count = sum(p is not None for p in parameters)
    if count != len(theirs):
        return None
    return plan, parameters, states if group.get("momentum") or "mu" in group else None


def _scale(
    p: Tensor,
    curvature: Tensor | None,
    mu: float,
    scales: dict[Tensor, tuple[Tensor, Tensor]],
) -> Tensor | None:
    if curvature is None:
        return None
    known = scales.get(p)
    if known is None or known[0] is not curvature:
        known = scales[p] = curvature, (curvature + mu).reciprocal_()
    return known[1]


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
