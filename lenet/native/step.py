"""A whole step of training in one call of the kernels, where it is one that they know.

That is LeNet5 with the native kernels, one of the losses and one of the optimizers below; for an
image alone also with the paper's connections and output. Parameters, momenta and gradients are
still the tensors of PyTorch's own objects, so schedules, checkpoints and whatever looks at them
between two steps find what they would have found.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torch.optim.optimizer as hooked
from torch import Tensor, nn

from lenet.model.layers import RBF, ConnectedConv2d
from lenet.model.losses import MAP, MSE
from lenet.native.build import BuildError
from lenet.native.equip import fused_lenet5
from lenet.native.op import head_type, rule_type
from lenet.native.plan import Plan, Unsupported, check_images, is_traced
from lenet.optim.sdlm import SDLM

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None]
MOST_CLASSES = 1000


@dataclass(frozen=True)
class Loss:
    """What the kernels know of a criterion; `kind` is single.h's."""

    kind: int  # 0 cross entropy, 1 maximum a posteriori, 2 squared error
    smoothing: float = 0.0
    rubbish: float = 0.0
    output: str | None = None  # the one it is for, where it is for one


@dataclass(frozen=True)
class Scale:
    """What a parameter's learning rate is multiplied with, and of what it was made."""

    scale: Tensor
    made_of: Tensor  # kept, so that no other can take its place unnoticed
    key: tuple[int, float]  # its version, and mu


def whole_step(model: nn.Module, criterion: Any, optimizer: torch.optim.Optimizer) -> Step | None:
    """A function of (images, labels) that takes one training step and returns its mean loss and
    its outputs; or None, and nothing was done, where PyTorch must take this one. None instead of
    the function where it would never do anything.
    """
    loss = _loss(criterion)
    if fused_lenet5(model) is None or loss is None:
        return None
    if type(optimizer) not in (torch.optim.SGD, SDLM) or len(optimizer.param_groups) != 1:
        return None
    grads: dict[Tensor, Tensor] = {}
    scales: dict[Tensor, Scale] = {}

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        alone = len(images) == 1
        head = _head(model, loss)
        if head is None or not _plain(images, labels):
            return None
        pairs = _pairs(model)
        if not alone and (head.distances or pairs is not None):
            return None
        found = _state(model, optimizer, scales)
        if found is None:
            return None
        plan, parameters, states = found
        changed = [p for p in parameters if p is not None]
        for p in changed:
            if p not in grads:
                grads[p] = torch.empty_like(p)
        own = [p if p is None else grads[p] for p in parameters]
        given = (images, labels, parameters, states, own, _rule(optimizer), head)
        result = plan.kernels.step_on_one(*given, pairs) if alone else plan.kernels.step(*given)
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


def _rule(optimizer: torch.optim.Optimizer) -> Any:
    group = optimizer.param_groups[0]
    if type(optimizer) is SDLM:
        return rule_type(torch.float32)(lr=group["lr"], diagonal=True)
    names = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
    return rule_type(torch.float32)(*(group[name] for name in names))


def _head(model: Any, loss: Loss) -> Any:
    """None where the loss is not for this output."""
    output = model._modules["fc3"]
    distances = type(output) is RBF
    if loss.output not in (None, "rbf" if distances else "linear"):
        return None
    centres = output.centres if distances else None
    if centres is not None and not (centres.dtype == torch.float32 and centres.is_contiguous()):
        return None
    at = None if centres is None else centres.data_ptr()
    return head_type(torch.float32)(loss.kind, distances, loss.smoothing, loss.rubbish, at)


def _pairs(model: Any) -> Tensor | None:
    conv2 = model._modules["conv2"]
    return conv2.pairs if type(conv2) is ConnectedConv2d else None


def _plain(images: Tensor, labels: Tensor) -> bool:
    """Whether the kernels take this batch; what they don't take, the model will say why."""
    try:
        check_images(images)
    except Unsupported:
        return False
    plain = type(labels) is Tensor and labels.is_cpu and labels.dtype == torch.int64
    return plain and labels.shape == images.shape[:1] and torch.is_grad_enabled()


def _state(
    model: Any,
    optimizer: torch.optim.Optimizer,
    scales: dict[Tensor, Scale],
) -> tuple[Plan, list[Tensor | None], list[Tensor | None] | None] | None:
    """Parameters and momenta, or scales of the learning rate, in the kernels' order. None where
    anyone listens to a part of the step, or some parameter is not this optimizer's, or it has yet
    to take its first step.
    """
    group = optimizer.param_groups[0]
    fused = fused_lenet5(model)
    if fused is None or _listened_to(model, optimizer) or is_traced():
        return None
    if isinstance(group["lr"], Tensor):
        return None
    try:
        plan = fused.plan()
        parameters = plan.parameters(dense=False)
    except (Unsupported, BuildError):
        return None
    ends = plan.has_output or type(plan.layers[6]) is RBF
    if not ends or plan.kernels.outputs > MOST_CLASSES:
        return None
    diagonal = type(optimizer) is SDLM
    stateful = diagonal or bool(group["momentum"])
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
        own = optimizer.state.get(p, {})
        state = _scale(p, own, group["mu"], scales) if diagonal else own.get("momentum_buffer")
        if stateful and (state is None or not state.is_contiguous()):
            return None  # the first step, which begins the states, is PyTorch's
        states.append(state)
    count = sum(p is not None for p in parameters)
    if count != len(theirs):
        return None
    return plan, parameters, states if stateful else None


def _scale(
    p: Tensor, own: dict[str, Tensor], mu: float, scales: dict[Tensor, Scale]
) -> Tensor | None:
    """1 / (mu + curvature), made anew where one of them is another."""
    curvature = own.get("curvature")
    if curvature is None:
        return None
    known = scales.get(p)
    if known is None or known.made_of is not curvature or known.key != (curvature._version, mu):
        scale = (curvature + mu).reciprocal_()
        known = scales[p] = Scale(scale, curvature, (curvature._version, mu))
    return known.scale


def _listened_to(model: Any, optimizer: Any) -> bool:
    """Whether anything but PyTorch's own parts is called in the step, or looks into it."""
    step = vars(optimizer).get("step")  # torch's schedules put a counter there
    if step and not hasattr(step, "_wrapped_by_lr_sched"):
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
