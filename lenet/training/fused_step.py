"""A whole training step in one call of the kernels: forward, loss, backward and update.

It covers a LeNet5 with the kernels, the losses of `Loss` and the optimizers SGD and SDLM; for a
batch of one image also the paper's connections and output. Parameters, momenta and gradients stay
the tensors of PyTorch's own objects, so schedules and checkpoints find what they expect between
two steps.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from lenet.model.layers import RBF, ConnectedConv2d
from lenet.model.lenet5 import LeNet5
from lenet.model.losses import MAP, MSE
from lenet.model.plan import Plan, Unsupported, check_images, is_traced
from lenet.native.build import BuildError
from lenet.native.op import Head, Rule
from lenet.optim.sdlm import SDLM

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor] | None]
# By parameter: its curvature, and what `_scale` made of it.
Scales = dict[Tensor, tuple[Tensor, Tensor]]
SGD_OPTIONS = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
MOST_CLASSES = 1000


def whole_step(model: Any, criterion: Any, optimizer: Optimizer) -> Step | None:
    """A function of (images, labels) that takes one training step.

    Returns: the mean loss and the outputs; or None, with nothing changed, where PyTorch must take
    this step. None instead of the function where PyTorch must take all of them.
    """
    loss = _loss_of(criterion)
    if type(model).forward is not LeNet5.forward or model.kernels == "eager" or loss is None:
        return None
    if type(optimizer) not in (torch.optim.SGD, SDLM) or len(optimizer.param_groups) != 1:
        return None
    grads: dict[Tensor, Tensor] = {}
    scales: Scales = {}

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor] | None:
        head, pairs = _head(model, criterion, loss), _pairs(model)
        if head is None or not _is_supported(images, labels):
            return None
        if len(images) > 1 and (head.distances or pairs is not None):
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
        rule = _rule(optimizer)
        result = plan.kernels.step(images, labels, parameters, states, own, rule, head, pairs)
        if result is None:
            return None
        torch.autograd.graph.increment_version(changed)
        for p in changed:
            p.grad = grads[p]
        optimizer._opt_called = True  # type: ignore[attr-defined]  # as step() tells a schedule
        return result

    return step


def _loss_of(criterion: Any) -> dict[str, Any] | None:
    """The fields of `Head` for this loss, 0 cross entropy, 1 maximum a posteriori or 2 squared
    error; None for one that is unknown, or is not the mean over all images of the batch.
    """
    if criterion is F.cross_entropy:
        return {"loss": 0}
    if getattr(criterion, "_forward_hooks", None):
        return None
    if type(criterion) is MAP:
        return {"loss": 1, "rubbish": criterion.j}
    if type(criterion) is MSE:
        return {"loss": 2}
    if type(criterion) is not nn.CrossEntropyLoss:
        return None
    if criterion.weight is not None or criterion.reduction != "mean":
        return None
    if criterion.ignore_index >= 0:  # a class; a label below 0 is refused by the kernels
        return None
    return {"loss": 0, "smoothing": criterion.label_smoothing}


def _rule(optimizer: Optimizer) -> Rule:
    group = optimizer.param_groups[0]
    if type(optimizer) is SDLM:
        return Rule(lr=group["lr"], diagonal=True)
    return Rule(*(group[name] for name in SGD_OPTIONS))


def _head(model: Any, criterion: Any, loss: dict[str, Any]) -> Head | None:
    """None where the loss is not for this output."""
    output = model._modules["fc3"]
    is_rbf = type(output) is RBF
    if type(criterion) is MSE and criterion.output != ("rbf" if is_rbf else "linear"):
        return None
    if not is_rbf:
        return Head(**loss)
    return Head(**loss, distances=1, scale=output.scale, centres=output.centres.data_ptr())


def _pairs(model: Any) -> Tensor | None:
    conv2 = model._modules["conv2"]
    return conv2.pairs if type(conv2) is ConnectedConv2d else None


def _is_supported(images: Tensor, labels: Tensor) -> bool:
    """Whether the kernels take this batch. If not, the model's forward will say why."""
    try:
        check_images(images)
    except Unsupported:
        return False
    plain = type(labels) is Tensor and labels.is_cpu and labels.dtype == torch.int64
    return plain and labels.shape == images.shape[:1] and torch.is_grad_enabled()


def _state(
    model: LeNet5, optimizer: Optimizer, scales: Scales
) -> tuple[Plan, list[Tensor | None], list[Tensor | None] | None] | None:
    """The plan, its parameters, and their momenta (or scales, for SDLM) in the kernels' order.

    None where something observes a part of the step, where a parameter is not the optimizer's, or
    where the optimizer has yet to take its first step.
    """
    group = optimizer.param_groups[0]
    if model.kernels == "eager" or is_traced() or _is_observed(model, optimizer):
        return None
    if isinstance(group["lr"], Tensor):
        return None
    try:
        plan = model.fused.plan(model)
        parameters = plan.parameters(dense=False)
    except (Unsupported, BuildError):
        return None
    has_head = plan.has_output or type(plan.layers[6]) is RBF
    if not has_head or plan.kernels.outputs > MOST_CLASSES:
        return None
    is_sdlm = type(optimizer) is SDLM
    has_states = is_sdlm or bool(group["momentum"])
    remaining = {id(p) for p in group["params"]}
    states: list[Tensor | None] = []
    for p in parameters:
        if p is None:
            states.append(None)
            continue
        if id(p) not in remaining or not p.requires_grad:
            return None
        if p._backward_hooks or p._post_accumulate_grad_hooks:
            return None
        remaining.remove(id(p))
        own = optimizer.state.get(p, {})
        state = _scale(p, own, group["mu"], scales) if is_sdlm else own.get("momentum_buffer")
        if has_states and (state is None or not state.is_contiguous()):
            return None  # PyTorch takes the first step, which creates the states
        states.append(state)
    return None if remaining else (plan, parameters, states if has_states else None)


def _scale(p: Tensor, own: dict[str, Tensor], mu: float, scales: Scales) -> Tensor | None:
    """1 / (mu + curvature), computed again when the curvature has been measured again."""
    curvature = own.get("curvature")
    if curvature is None:
        return None
    if p not in scales or scales[p][0] is not curvature:
        scales[p] = curvature, (curvature + mu).reciprocal_()
    return scales[p][1]


def _is_observed(model: Any, optimizer: Any) -> bool:
    """Whether a hook or a profiler takes part in the step."""
    return bool(
        model._forward_hooks
        or model._forward_pre_hooks
        or model._backward_hooks
        or model._backward_pre_hooks
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or torch.autograd.profiler._is_profiler_enabled
    )
