"""How a LeNet5 computes on a CPU: by fused C++ kernels, eagerly, or compiled by torch.

`equip` chooses once; `forward` is what a model that has the kernels asks for each batch. A batch
that they can't take goes through eager PyTorch, and one line says why.
"""

import operator
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lenet.model.layers import ConnectedConv2d, ScaledTanh, Subsample
from lenet.native.build import BuildError
from lenet.native.op import Kernels, stopwatch

if TYPE_CHECKING:
    from lenet.model.lenet5 import LeNet5

__all__ = ["CHOICES", "BuildError", "Chosen", "KernelError", "equip", "forward", "stopwatch"]
CHOICES = ("auto", "native", "eager", "compile")
LAYERS = ("conv1", "pool1", "conv2", "pool2", "fc1", "fc2", "fc3", "activation")


class KernelError(ValueError):
    """The kernels that were asked for can't be had: one line that says why."""


class Unsupported(ValueError):
    """What the kernels don't cover, in a few words."""


@dataclass(frozen=True)
class Chosen:
    """`name` is native, eager or compile; `why` is one line."""

    name: str
    why: str


def equip(model: nn.Module, device: torch.device | str = "cpu", kernels: str = "auto") -> Chosen:
    """Sets how `model` computes. `auto` takes the native kernels where they can be had, else eager
    PyTorch, which costs a line on standard error; the first use on a machine builds them.

    Raises: KernelError where `native` was asked for and can't be had.
    """
    if kernels not in CHOICES:
        raise KernelError(f"device.kernels={kernels}: expected one of {', '.join(CHOICES)}")
    marked: Any = model
    marked.kernels = "eager"
    if kernels == "eager":
        return Chosen("eager", "as asked")
    if kernels == "compile":
        model.compile()
        return Chosen("compile", "as asked")
    kind = torch.device(device).type
    try:
        if kind != "cpu":
            raise Unsupported(f"the device is {kind}")
        about = _plan(model).kernels.about
    except (Unsupported, BuildError) as error:
        if kernels == "native":
            raise KernelError(f"device.kernels=native: {error}") from None
        if kind == "cpu":  # elsewhere nobody expects them
            _say(error)
        return Chosen("eager", str(error))
    marked.kernels = "native"
    return Chosen("native", f"built by {about}")


def forward(model: "LeNet5", images: Tensor) -> Tensor | None:
    """What `model` makes of `images`, or None where eager PyTorch must.

    Shapes: (N, 1, 32, 32) -> (N, K).
    """
    if _traced():
        return None  # whoever traces wants PyTorch's own operators, and knows it
    try:
        _check_images(images)
        plan = _plan(model)
        features = plan.kernels(images, _parameters(plan))
    except (Unsupported, BuildError) as error:
        if str(error) not in _said:
            _said.add(str(error))
            _say(error)
        return None
    output: Tensor = features if plan.to_the_end else model.fc3(features)
    return output


@dataclass(frozen=True)
class Plan:
    """What was found out of a model, for as long as it has the same layers."""

    layers: list[Any]
    kernels: Kernels
    to_the_end: bool  # fc3 included

    def parameters(self, whole: bool = True) -> list[Tensor | None]:
        """In the order of lenet.cpp; `whole`: C3's weights among zeros, where it has but some."""
        found: list[Tensor | None] = []
        # Not layer.weight: a module's own lookup takes ten times as long, for each batch.
        for layer in self.layers[:7] if self.to_the_end else self.layers[:6]:
            own = layer._parameters
            if type(layer) is ConnectedConv2d and whole:
                found += [layer.dense_weight(), own["bias"]]
            elif type(layer) is not Subsample and "weight" in own:
                found += [own["weight"], own["bias"]]
        pooling = [layer._parameters for layer in (self.layers[1], self.layers[3])]
        found[4:4] = [own.get(name) for own in pooling for name in ("coefficient", "bias")]
        return found


_said: set[str] = set()
_made: dict[tuple[Any, ...], Kernels] = {}
_plans: WeakKeyDictionary[nn.Module, Plan] = WeakKeyDictionary()


def _say(reason: Exception) -> None:
    print(f"Eager PyTorch instead of the native kernels: {reason}", file=sys.stderr)


def _plan(model: nn.Module) -> Plan:
    """The kernels for `model`. Every batch asks: layers may be replaced, hooks added.

    Raises: Unsupported where they are for another network; BuildError.
    """
    modules: Any = model._modules
    layers = [modules.get(name) for name in LAYERS]
    plan = _plans.get(model)
    if plan is None or not all(map(operator.is_, layers, plan.layers)):
        description = _described(model, layers)
        if description not in _made:
            _made[description] = Kernels(*description)
        plan = Plan(layers, _made[description], type(model.fc3) is nn.Linear)
        _plans[model] = plan
    for name, layer in zip(LAYERS, layers, strict=True):
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise Unsupported(f"{name} has a hook")
        if layer._backward_hooks or layer._backward_pre_hooks:
            raise Unsupported(f"{name} has a hook on its way back")
    return plan


def _traced() -> bool:
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or nn.modules.module._has_any_global_hook()
    )


def _check_images(images: Tensor) -> None:
    if type(images) is not Tensor or not images.is_cpu:
        raise Unsupported(f"the images are a {type(images).__name__} on {images.device}")
    if images.ndim != 4 or images.shape[1:] != (1, 32, 32) or not len(images):
        raise Unsupported(f"expected images (N, 1, 32, 32), got {tuple(images.shape)}")
    if images.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        raise Unsupported(f"they compute in float32, not in {images.dtype} or by autocast")
    if images.requires_grad and torch.is_grad_enabled():
        raise Unsupported("the images require a gradient")


def _described(model: nn.Module, layers: list[Any]) -> tuple[Any, ...]:
    """The network as `Kernels` takes it.

    Raises: Unsupported where the kernels are for another one.
    """
    stages = getattr(type(model), "stages", None)
    if None in layers or getattr(stages, "__qualname__", "") != "LeNet5.stages":
        raise Unsupported(f"they compute LeNet5, not {type(model).__name__}")
    conv1, pool1, conv2, pool2, fc1, fc2, fc3, activation = layers
    if not _convolves(conv1, 1, 6):
        raise Unsupported(f"conv1 is {conv1}")
    if not _convolves(conv2, 6, 16):
        raise Unsupported(f"conv2 is {conv2}")
    pooling = _pooling(pool1, activation)
    if _pooling(pool2, activation) != pooling:
        raise Unsupported(f"pool1 is {pool1}, pool2 is {pool2}")
    if type(fc1) is nn.Linear and fc1.in_features != 16 * 5 * 5:
        raise Unsupported(f"they take images of 32x32, fc1 is {fc1}")
    dense = [fc1, fc2, fc3] if type(fc3) is nn.Linear else [fc1, fc2]
    units = [16 * 5 * 5]
    for layer in dense:
        if type(layer) is not nn.Linear or layer.in_features != units[-1] or layer.bias is None:
            raise Unsupported(f"a dense layer of {units[-1]} units is {layer}")
        units.append(layer.out_features)
    name, amplitude, slope = _activation(activation)
    return name, pooling, tuple(units), 2, amplitude, slope


def _convolves(conv: Any, maps_in: int, maps_out: int) -> bool:
    if type(conv) not in (nn.Conv2d, ConnectedConv2d):
        return False
    sizes = (conv.in_channels, conv.out_channels, conv.kernel_size) == (maps_in, maps_out, (5, 5))
    if type(conv) is ConnectedConv2d:
        return sizes
    steps = (conv.stride, conv.padding, conv.dilation) == ((1, 1), (0, 0), (1, 1))
    rest = (conv.groups, conv.padding_mode) == (1, "zeros") and conv.bias is not None
    return sizes and steps and rest


def _activation(module: Any) -> tuple[str, float, float]:
    names = {nn.Tanh: "tanh", nn.Sigmoid: "sigmoid", nn.ReLU: "relu", ScaledTanh: "scaled_tanh"}
    if type(module) not in names:
        raise Unsupported(f"the activation is {module}")
    if type(module) is ScaledTanh:
        return "scaled_tanh", module.amplitude, module.slope
    return names[type(module)], 1.0, 1.0


def _pooling(module: Any, activation: nn.Module) -> str:
    def pairs(*values: Any) -> list[Any]:
        return [(value, value) if isinstance(value, int) else tuple(value) for value in values]

    if type(module) is nn.AvgPool2d:
        sizes = pairs(module.kernel_size, module.stride, module.padding)
        if sizes == pairs(2, 2, 0) and not module.ceil_mode and not module.divisor_override:
            return "average"
    elif type(module) is nn.MaxPool2d:
        sizes = pairs(module.kernel_size, module.stride, module.padding, module.dilation)
        if sizes == pairs(2, 2, 0, 1) and not module.ceil_mode and not module.return_indices:
            return "maximum"
    elif type(module) is Subsample and _activation(module.activation) == _activation(activation):
        return "subsample"
    raise Unsupported(f"a pooling is {module}")


def _parameters(plan: Plan, whole: bool = True) -> list[Tensor | None]:
    """Raises: Unsupported where one is no plain tensor of float32 on the CPU."""
    parameters = plan.parameters(whole)
    for p in parameters:
        if p is not None and not (p.dtype == torch.float32 and p.is_cpu and p.is_contiguous()):
            raise Unsupported(f"a parameter is {p.dtype} on {p.device}")
    return parameters
