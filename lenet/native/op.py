"""The kernels as an autograd function of tensors. It knows the library, not the module LeNet5."""

import ctypes
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lenet.native.build import library

MOST_LAYERS = 8
DIGITS = 10  # outputs of an RBF head
# The numbers that lenet.cpp gives them.
ACTIVATIONS = {"tanh": 0, "scaled_tanh": 1, "sigmoid": 2, "relu": 3}
POOLINGS = {"average": 0, "maximum": 1, "subsample": 2}
# What the functions of lenet.cpp return and take.
_INT, _SIZE, _AT = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
SIGNATURES = {
    "lenet_saved_bytes": (_SIZE, (_AT, _SIZE, _INT, _INT)),
    "lenet_scratch_bytes": (_SIZE, (_AT, _SIZE, _INT)),
    "lenet_step_bytes": (_SIZE, (_AT, _SIZE, _INT)),
    "lenet_single_bytes": (_SIZE, (_AT,)),
    "lenet_forward": (None, (_AT, _SIZE, _INT, _INT, *[_AT] * 4)),
    "lenet_backward": (None, (_AT, _SIZE, _INT, *[_AT] * 5)),
    "lenet_step": (_INT, (*[_AT] * 3, _SIZE, _INT, *[_AT] * 8)),
    "lenet_step_on_one": (_INT, (*[_AT] * 4, _INT, *[_AT] * 8)),
}
# Memory up to this size is kept for the next batch. The system zeroes new memory page by page,
# which takes a fifth of a step.
SPARE_BYTES = 128 * 2**20


class Net(ctypes.Structure):
    """network.h's `Net`: which network it is."""

    _fields_ = (
        ("activation", ctypes.c_int32),
        ("pooling", ctypes.c_int32),
        ("layers", ctypes.c_int32),
        ("activated", ctypes.c_int32),
        ("units", ctypes.c_int32 * (MOST_LAYERS + 1)),
        ("amplitude", ctypes.c_float),
        ("slope", ctypes.c_float),
    )


class Rule(ctypes.Structure):
    """lenet.cpp's `Rule`: how the optimizer changes a parameter."""

    _fields_ = (
        ("lr", ctypes.c_float),
        ("momentum", ctypes.c_float),
        ("dampening", ctypes.c_float),
        ("weight_decay", ctypes.c_float),
        ("nesterov", ctypes.c_int32),
        ("maximize", ctypes.c_int32),
        ("diagonal", ctypes.c_int32),
    )


class Head(ctypes.Structure):
    """single.h's `Head`: the output layer and the loss."""

    _fields_ = (
        ("loss", ctypes.c_int32),
        ("distances", ctypes.c_int32),
        ("smoothing", ctypes.c_float),
        ("rubbish", ctypes.c_float),
        ("centres", ctypes.c_void_p),
    )


class Kernels:
    """The library for one network.

    `units` counts the inputs of the first dense layer (S4), then the outputs of each. The first two
    dense layers have the activation.

    Raises: BuildError if the library cannot be built or loaded.
    """

    def __init__(
        self,
        activation: str,
        pooling: str,
        units: Sequence[int],
        amplitude: float = 1.0,
        slope: float = 1.0,
    ) -> None:
        built = library()
        self.about = built.about
        self._c = built.cdll
        for name, (returns, takes) in SIGNATURES.items():
            function = getattr(self._c, name)
            function.restype, function.argtypes = returns, takes
        kinds = ACTIVATIONS[activation], POOLINGS[pooling]
        counts = (ctypes.c_int32 * (MOST_LAYERS + 1))(*units)
        self._net = Net(*kinds, len(units) - 1, 2, counts, amplitude, slope)
        self._at = ctypes.byref(self._net)
        self.outputs = units[-1]
        self._spare: defaultdict[str, list[Tensor]] = defaultdict(list)

    def __call__(self, images: Tensor, parameters: Sequence[Tensor | None]) -> Tensor:
        """The last dense layer's outputs, with a graph for autograd where one is needed.

        `parameters` has the order of lenet.cpp, and None where a pooling has no parameters.

        Shapes: (N, 1, 32, 32) -> (N, units[-1]).
        """
        if torch.is_grad_enabled() and any(p is not None and p.requires_grad for p in parameters):
            output: Tensor = _Fused.apply(self, images, *parameters)
            return output
        return self.forward(images, parameters, keep=False)[0]

    def forward(
        self, images: Tensor, parameters: Sequence[Tensor | None], keep: bool
    ) -> tuple[Tensor, Tensor]:
        """The output, and with `keep` what `backward` needs."""
        images = images.contiguous()
        call = (self._at, len(images), torch.get_num_threads())
        saved = self._lend("saved" if keep else "forward", self._c.lenet_saved_bytes(*call, keep))
        output = images.new_empty(len(images), self.outputs)
        data = (images.data_ptr(), _pointers(parameters), saved.data_ptr(), output.data_ptr())
        self._c.lenet_forward(*call, keep, *data)
        return output, saved

    def backward(
        self, saved: Tensor, parameters: Sequence[Tensor | None], output_grad: Tensor
    ) -> list[Tensor | None]:
        """The gradients of the parameters."""
        output_grad = output_grad.contiguous()
        call = (self._at, len(output_grad), torch.get_num_threads())
        scratch = self._lend("scratch", self._c.lenet_scratch_bytes(*call))
        grads = [None if p is None else torch.empty_like(p) for p in parameters]
        data = (_pointers(parameters), saved.data_ptr(), output_grad.data_ptr())
        self._c.lenet_backward(*call, *data, scratch.data_ptr(), _pointers(grads))
        return grads

    def step(
        self,
        images: Tensor,
        labels: Tensor,
        parameters: Sequence[Tensor | None],
        states: Sequence[Tensor | None] | None,
        grads: Sequence[Tensor | None],
        rule: Rule,
        head: Head,
        pairs: Tensor | None,
    ) -> tuple[Tensor, Tensor] | None:
        """A training step in place: forward, loss, backward and update.

        A single image has kernels of its own. They alone take a head of distances, and `pairs`: the
        connections of a ConnectedConv2d, whose own weights are then among the parameters.

        Shapes: (N, 1, 32, 32), labels int64 (N), pairs int64 (2, connections) -> losses (N),
        outputs (N, K).
        Returns: None, with nothing changed, where a label is none of the K classes.
        """
        images, labels = images.contiguous(), labels.contiguous()
        output = images.new_empty(len(images), DIGITS if head.distances else self.outputs)
        losses = images.new_empty(len(images))

        def data(memory: Tensor) -> tuple[Any, ...]:
            given = (images.data_ptr(), labels.data_ptr(), _pointers(parameters))
            changed = (states and _pointers(states), memory.data_ptr(), _pointers(grads))
            return *given, *changed, output.data_ptr(), losses.data_ptr()

        rules = (self._at, ctypes.byref(rule), ctypes.byref(head))
        if len(images) == 1:
            memory = self._lend("single", self._c.lenet_single_bytes(self._at))
            connections = (None, 0) if pairs is None else (pairs.data_ptr(), pairs.shape[1])
            status = self._c.lenet_step_on_one(*rules, *connections, *data(memory))
        else:
            sizes = (len(images), torch.get_num_threads())
            memory = self._lend("step", self._c.lenet_step_bytes(self._at, *sizes))
            status = self._c.lenet_step(*rules, *sizes, *data(memory))
        return None if status else (losses, output)

    def _lend(self, use: str, size: int) -> Tensor:
        """At least `size` bytes, new or kept from the last time. A graph frees its memory right
        after backward, so each batch works in the memory of the last one, which is still in the
        processor's caches.
        """
        spare, memory = self._spare[use], torch.empty(0, dtype=torch.uint8)
        while memory.numel() < size:  # spare memory that is too small is dropped
            memory = spare.pop() if spare else torch.empty(size, dtype=torch.uint8)
        loan = memory.numpy().view(_Loan)
        loan.memory, loan.spare = memory, spare
        return torch.from_numpy(loan)


class _Loan(np.ndarray):
    """Memory that goes back to `spare` when the last tensor that uses it is gone."""

    memory: Tensor
    spare: list[Tensor]

    def __del__(self) -> None:
        if self.memory.numel() <= SPARE_BYTES and len(self.spare) < 2:
            self.spare.append(self.memory)


def _pointers(tensors: Sequence[Tensor | None]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * len(tensors))(*[t if t is None else t.data_ptr() for t in tensors])


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, kernels: Kernels, images: Tensor, *parameters: Tensor | None) -> Tensor:
        output, saved = kernels.forward(images, parameters, keep=True)
        ctx.kernels = kernels
        # save_for_backward notices a parameter that changes before backward, and frees `saved`
        # right after it.
        ctx.save_for_backward(saved, *parameters)
        return output

    @staticmethod
    def backward(ctx: Any, output_grad: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "the native kernels have no second derivatives: create_graph=True needs "
                "device.kernels=eager"
            )
        saved, *parameters = ctx.saved_tensors
        return None, None, *ctx.kernels.backward(saved, parameters, output_grad)
