"""Whether the kernels can compute a model, and what they need to know of it."""

import functools
import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lenet.model.layers import ConnectedConv2d, ScaledTanh, Subsample
from lenet.native.op import Kernels

LAYERS = ("conv1", "pool1", "conv2", "pool2", "fc1", "fc2", "fc3", "activation")
ACTIVATIONS = {
    nn.Tanh: "tanh",
    nn.Sigmoid: "sigmoid",
    nn.ReLU: "relu",
    ScaledTanh: "scaled_tanh",
}
# The options of torch's layers that the kernels know.
CONVOLUTION = {
    "stride": (1, 1),
    "padding": (0, 0),
    "dilation": (1, 1),
    "groups": 1,
    "padding_mode": "zeros",
}
BLOCKS = {"kernel_size": 2, "stride": 2, "padding": 0, "ceil_mode": False}


class Unsupported(ValueError):
    """The kernels cannot compute this model or batch. The message says why in a few words."""


@dataclass(frozen=True)
class Plan:
    """How the kernels compute a model, valid while it has the same layers."""

    layers: list[Any]
    kernels: Kernels
    has_output: bool  # whether the kernels compute fc3 too

    def parameters(self, dense: bool = True) -> list[Tensor | None]:
        """The parameters in the order of lenet.cpp.

        `dense`: a ConnectedConv2d gives its weights with zeros where there is no connection.

        Raises: Unsupported unless each is a contiguous float32 tensor on the CPU.
        """
        found: list[Tensor | None] = []
        # layer._parameters, because layer.weight takes ten times as long, for every batch.
        for layer in self.layers[:7] if self.has_output else self.layers[:6]:
            own = layer._parameters
            if type(layer) is ConnectedConv2d and dense:
                found += [layer.dense_weight(), own["bias"]]
            elif type(layer) is not Subsample and "weight" in own:
                found += [own["weight"], own["bias"]]
        pooling = [layer._parameters for layer in (self.layers[1], self.layers[3])]
        found[4:4] = [own.get(name) for own in pooling for name in ("coefficient", "bias")]
        for p in found:
            if p is not None and not (p.dtype == torch.float32 and p.is_cpu and p.is_contiguous()):
                raise Unsupported(f"a parameter is {p.dtype} on {p.device}")
        return found


def plan_for(model: nn.Module, last: Plan | None = None) -> Plan:
    """The plan for `model`: `last` again while the layers are the same. Every batch asks, because
    layers may be replaced and hooks added at any time.

    Raises: Unsupported if the kernels cannot compute the model; BuildError.
    """
    modules: Any = model._modules
    layers = [modules.get(name) for name in LAYERS]
    if last is None or not all(map(operator.is_, layers, last.layers)):
        kernels = kernels_for(network_of(model))
        last = Plan(layers, kernels, has_output=type(model.fc3) is nn.Linear)
    for name, layer in zip(LAYERS, layers, strict=True):
        if layer._forward_hooks or layer._forward_pre_hooks:
            raise Unsupported(f"{name} has a hook")
        if layer._backward_hooks or layer._backward_pre_hooks:
            raise Unsupported(f"{name} has a backward hook")
    return last


@functools.cache
def kernels_for(network: tuple[Any, ...]) -> Kernels:
    return Kernels(*network)


def network_of(model: nn.Module) -> tuple[Any, ...]:
    """The arguments of `Kernels` that describe `model`.

    Raises: Unsupported if the kernels cannot compute it.
    """
    modules: Any = model._modules
    conv1, pool1, conv2, pool2, fc1, fc2, fc3, activation = map(modules.get, LAYERS)
    if not _is_convolution(conv1, 1, 6):
        raise Unsupported(f"conv1 is {conv1}")
    if not _is_convolution(conv2, 6, 16):
        raise Unsupported(f"conv2 is {conv2}")
    pooling = _pooling(pool1, activation)
    if _pooling(pool2, activation) != pooling:
        raise Unsupported(f"pool1 is {pool1}, pool2 is {pool2}")
    if type(fc1) is nn.Linear and fc1.in_features != 16 * 5 * 5:
        raise Unsupported(f"they take images of 32x32, fc1 is {fc1}")
    units = [16 * 5 * 5]
    for layer in (fc1, fc2, fc3) if type(fc3) is nn.Linear else (fc1, fc2):
        if type(layer) is not nn.Linear or layer.in_features != units[-1] or layer.bias is None:
            raise Unsupported(f"a dense layer of {units[-1]} units is {layer}")
        units.append(layer.out_features)
    name, amplitude, slope = _activation(activation)
    return name, pooling, tuple(units), amplitude, slope


def _has(layer: Any, kind: type[nn.Module], options: dict[str, Any]) -> bool:
    return type(layer) is kind and all(getattr(layer, k) == v for k, v in options.items())


def _is_convolution(conv: Any, in_maps: int, out_maps: int) -> bool:
    if type(conv) is not ConnectedConv2d and not _has(conv, nn.Conv2d, CONVOLUTION):
        return False
    sizes = (conv.in_channels, conv.out_channels, conv.kernel_size)
    return sizes == (in_maps, out_maps, (5, 5)) and conv.bias is not None


def _activation(module: Any) -> tuple[str, float, float]:
    """Name, amplitude and slope."""
    if type(module) not in ACTIVATIONS:
        raise Unsupported(f"the activation is {module}")
    scaled = type(module) is ScaledTanh
    return ACTIVATIONS[type(module)], *((module.amplitude, module.slope) if scaled else (1.0, 1.0))


def _pooling(module: Any, activation: nn.Module) -> str:
    if _has(module, nn.AvgPool2d, BLOCKS | {"divisor_override": None}):
        return "average"
    if _has(module, nn.MaxPool2d, BLOCKS | {"dilation": 1, "return_indices": False}):
        return "maximum"
    if type(module) is Subsample and _activation(module.activation) == _activation(activation):
        return "subsample"
    raise Unsupported(f"a pooling is {module}")


def check_images(images: Tensor) -> None:
    """Raises: Unsupported if the kernels cannot take the batch."""
    if type(images) is not Tensor or not images.is_cpu:
        raise Unsupported(f"the images are a {type(images).__name__} on {images.device}")
    if images.ndim != 4 or images.shape[1:] != (1, 32, 32) or not len(images):
        raise Unsupported(f"expected images (N, 1, 32, 32), got {tuple(images.shape)}")
    if images.dtype != torch.float32 or torch.is_autocast_enabled("cpu"):
        raise Unsupported(f"they compute in float32, not in {images.dtype} or by autocast")
    if images.requires_grad and torch.is_grad_enabled():
        raise Unsupported("the images require a gradient")


def is_traced() -> bool:
    """Whether something that must see PyTorch's own operators is looking: compile, export, vmap,
    forward mode, or a hook on every module.
    """
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
        or nn.modules.module._has_any_global_hook()
    )
