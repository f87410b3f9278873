"""Second derivatives of a loss: the diagonal that stochastic diagonal Levenberg-Marquardt needs.

The states s of an example are the network's outputs, or the inputs of its RBF output. Both ways
start from H and ignore the second derivatives of s itself. H is the Hessian of the loss by s. Where
`output_curvature` is a number, H is that number times the identity: 1 in the authors' released
code.

* `gauss_newton` is the diagonal of J' H J with J = ds/dw.
* `second_backward` is the paper's approximation of it. h = diag H goes back layer by layer through
  the squares of weights and slopes. The h of a connection is that of its unit times its squared
  input, summed over the connections that share a weight.

Source: LeCun et al. 1998, appendix C, equations 24 to 28; the code released with Lush (gblearn2).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vjp, vmap

from lenet.model.layers import RBF, ConnectedConv2d, ScaledTanh, Subsample
from lenet.model.lenet5 import LeNet5

OutputCurvature = Literal["exact"] | float
Diagonal = dict[str, Tensor]
Call = tuple[nn.Module, Tensor, Tensor]  # a layer, its input, its output
ELEMENTWISE = (nn.Tanh, ScaledTanh, nn.Sigmoid, nn.ReLU, nn.LeakyReLU, nn.GELU)
BILINEAR = (nn.Linear, nn.Conv2d, ConnectedConv2d)  # in inputs and weights, apart from the bias
# Each output is one of the inputs:
SELECTING = (nn.MaxPool2d, nn.Flatten, nn.Identity, nn.Dropout)
LAYERS = (*ELEMENTWISE, *BILINEAR, *SELECTING, nn.AvgPool2d, Subsample, RBF)


class CurvatureError(ValueError):
    """The model has a layer whose second derivatives are unknown. One line names it."""


def second_backward(
    model: nn.Module,
    criterion: Callable[..., Tensor],
    inputs: Tensor,
    labels: Tensor,
    output_curvature: OutputCurvature = "exact",
) -> Diagonal:
    """The paper's second derivatives by parameter name, the mean over the examples.

    Shapes: inputs (N, C, H, W), labels (N) -> each parameter's own.
    Raises: CurvatureError for a layer whose second derivatives are unknown, or layers that do not
    form a chain.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: Diagonal = {}
    with _layer_by_layer(model):
        calls = _recorded(model, inputs)
        head, states = _split(calls)
        hessian = _hessian(criterion, head, states, labels, output_curvature)
        h = hessian.diagonal(dim1=1, dim2=2).clamp_min(0)
        for layer, x, y in reversed(calls[:-1] if head else calls):
            if h.numel() != y.numel():
                raise CurvatureError(f"{layer}: expected the next layer to read all its outputs")
            h, own = _back(layer, x, h.view_as(y))
            for name, value in own.items():
                full = names[id(layer.get_parameter(name))]
                found[full] = found.get(full, 0) + value / len(inputs)
    return found


def gauss_newton(
    model: nn.Module,
    criterion: Callable[..., Tensor],
    inputs: Tensor,
    labels: Tensor,
    output_curvature: OutputCurvature = "exact",
) -> Diagonal:
    """The Gauss-Newton diagonal by parameter name, the mean over the examples. It takes a backward
    pass for each state of each example.

    Shapes: inputs (N, C, H, W), labels (N) -> each parameter's own.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    found: Diagonal = {name: torch.zeros_like(p) for name, p in parameters.items()}
    with _layer_by_layer(model):
        head, states = _split(_recorded(model, inputs))
        values, vectors = torch.linalg.eigh(
            _hessian(criterion, head, states, labels, output_curvature)
        )
        roots = vectors * values.clamp_min(0).sqrt()[:, None, :]  # H = roots roots'

        def state(parameters: Diagonal, image: Tensor) -> Tensor:
            return _states_of(model, head, parameters, image[None])[0]

        for image, root in zip(inputs, roots, strict=True):
            for name, jacobian in jacrev(state)(parameters, image).items():
                columns = torch.tensordot(root, jacobian, dims=([0], [0]))
                found[name] += columns.square().sum(dim=0) / len(inputs)
    return found


@contextmanager
def _layer_by_layer(model: nn.Module) -> Iterator[None]:
    """Puts `model` in evaluation mode, where nothing is drawn at random, and lets PyTorch compute,
    because the native kernels call no layers.
    """
    before = vars(model).copy()
    try:
        model.eval()
        if isinstance(model, LeNet5):
            model.kernels = "eager"
        yield
    finally:
        model.train(before["training"])
        vars(model).update(before)


def _recorded(model: nn.Module, inputs: Tensor) -> list[Call]:
    """Each layer's input and output, in the order of the forward pass."""
    calls: list[Call] = []
    inside = {part for m in model.modules() if isinstance(m, Subsample) for part in m.children()}
    layers = [m for m in model.modules() if not list(m.children()) or isinstance(m, Subsample)]

    def record(layer: nn.Module, given: tuple[Tensor], output: Tensor) -> None:
        calls.append((layer, given[0].detach(), output.detach()))

    handles = [m.register_forward_hook(record) for m in layers if m not in inside]
    try:
        with torch.no_grad():
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    for layer, _, _ in calls:
        if not isinstance(layer, LAYERS):
            raise CurvatureError(f"{layer}: its second derivatives are unknown")
    return calls


def _split(calls: list[Call]) -> tuple[RBF | None, Tensor]:
    """The RBF output, if there is one, and the states."""
    layer, x, y = calls[-1]
    return (layer, x) if isinstance(layer, RBF) else (None, y)


def _states_of(model: nn.Module, head: RBF | None, parameters: Diagonal, images: Tensor) -> Tensor:
    if head is None:
        output: Tensor = functional_call(model, parameters, (images,))
        return output
    states: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _, given: states.append(given[0]))
    try:
        functional_call(model, parameters, (images,))
    finally:
        handle.remove()
    return states[0]


def _hessian(
    criterion: Callable[..., Tensor],
    head: RBF | None,
    states: Tensor,
    labels: Tensor,
    output_curvature: OutputCurvature,
) -> Tensor:
    """H of each example. Shapes: (N, F), (N) -> (N, F, F)."""
    if output_curvature != "exact":
        identity = torch.eye(states.shape[1]).to(states)
        return output_curvature * identity.expand(len(states), -1, -1)

    def loss(state: Tensor, label: Tensor) -> Tensor:
        scores = head(state[None]) if head else state[None]
        return criterion(scores, label[None])

    output: Tensor = vmap(jacrev(jacrev(loss)))(states, labels)
    return output


def _back(layer: nn.Module, x: Tensor, h: Tensor) -> tuple[Tensor, Diagonal]:
    """Takes second derivatives by a layer's outputs; returns those by its inputs, for each example,
    and by its parameters, summed over the examples.
    """
    if isinstance(layer, BILINEAR):
        parameters = {name: p.detach() for name, p in layer.named_parameters()}
        squares = {name: p.square() for name, p in parameters.items()}
        by_x = vjp(lambda x: functional_call(layer, squares, (x,)), x)[1](h)[0]
        of_x = x.square()
        by_weights = vjp(lambda p: functional_call(layer, p, (of_x,)), parameters)[1](h)[0]
        return by_x, by_weights
    if isinstance(layer, Subsample):
        sums = layer.affine(x).detach()
        h = h * _slopes(layer.activation, sums).square()
        by_coefficient = (h * layer.sums(x.square())).sum(dim=(0, 2, 3))
        by_sum = layer.coefficient.detach().square()[:, None, None] * h
        by_x = vjp(layer.sums, x)[1](by_sum)[0]
        return by_x, {"coefficient": by_coefficient, "bias": h.sum(dim=(0, 2, 3))}
    if isinstance(layer, ELEMENTWISE):
        return h * _slopes(layer, x).square(), {}
    by_x = vjp(layer, x)[1](h)[0]
    if isinstance(layer, nn.AvgPool2d):
        by_x = by_x * h.numel() / x.numel()  # the weight of each input, squared in all
    return by_x, {}


def _slopes(activation: nn.Module, x: Tensor) -> Tensor:
    slopes: Tensor = vjp(activation, x)[1](torch.ones_like(x))[0]
    return slopes
