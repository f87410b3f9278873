"""The kernels as an autograd function of tensors. It knows the library, not the module LeNet5."""

import ctypes
import functools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lenet.native.build import BuildError, Library, library

MOST_LAYERS = 8
DIGITS = 10  # outputs of an RBF head
# The numbers that lenet.cpp gives them.
ACTIVATIONS = {"tanh": 0, "scaled_tanh": 1, "sigmoid": 2, "relu": 3}
POOLINGS = {"average": 0, "maximum": 1, "subsample": 2}
# What the functions of lenet.cpp return and take.
_INT, _SIZE, _AT = ctypes.c_int, ctypes.c_int64, ctypes.c_void_p
SIGNATURES = {
    "lenet_late_jobs": (_SIZE, ()),
    "lenet_saved_bytes": (_SIZE, (_AT, _SIZE, _INT)),
    "lenet_scratch_bytes": (_SIZE, (_AT, _SIZE)),
    "lenet_step_bytes": (_SIZE, (_AT, _SIZE)),
    "lenet_single_bytes": (_SIZE, (_AT,)),
    "lenet_forward": (_SIZE, (_AT, _SIZE, _INT, _INT, *[_AT] * 4)),
    "lenet_backward": (_SIZE, (_AT, _SIZE, _INT, *[_AT] * 5)),
    "lenet_step": (_SIZE, (*[_AT] * 3, _SIZE, _INT, *[_AT] * 8)),
    "lenet_step_on_one": (_INT, (*[_AT] * 4, _INT, *[_AT] * 8)),
    "lenet_distort": (_SIZE, (_AT, _INT, *[_AT] * 6)),
}
# Memory up to this size is kept for the next batch. The system zeroes new memory page by page,
# which takes a fifth of a step.
SPARE_BYTES = 128 * 2**20
# Bits of jobs, and the tensors that a thread in one of them may still use. Never freed, because
# such a thread may run when the interpreter ends.
_held: list[tuple[int, tuple[Tensor | None, ...]]] = []
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_held))


def loaded() -> Library:
    """The kernels, whose functions know their types.

    Raises: BuildError where they cannot be built.
    """
    built = build_once()
    if isinstance(built, BuildError):
        raise BuildError(str(built))
    return built


@functools.cache
def build_once() -> Library | BuildError:
    """The kernels, or why there are none: a process does not try again."""
    try:
        built = library()
    except BuildError as error:
        return error
    for name, (returns, takes) in SIGNATURES.items():
        function = getattr(built.cdll, name)
        function.restype, function.argtypes = returns, takes
    return built


def hold(late: int, *tensors: Tensor | None) -> None:
    """Keeps what a thread that was put aside in the middle of a job still reads and writes."""
    if _held or late:
        now = loaded().cdll.lenet_late_jobs()
        _held[:] = [(jobs, of_job) for jobs, of_job in [*_held, (late, tensors)] if jobs & now]


_threads: int | None = None


def set_threads(count: int | None) -> None:
    """Sets the number of threads that the kernels take; None: as many as torch has at each call."""
    global _threads
    _threads = count


def get_threads() -> int:
    """The number of threads that the kernels take."""
    return _threads or torch.get_num_threads()


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
        ("scale", ctypes.c_float),
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
        built = loaded()
        self.compiler, self._c = built.compiler, built.cdll
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
        size = (self._at, len(images))
        saved = self._lend("saved" if keep else "forward", self._c.lenet_saved_bytes(*size, keep))
        output = images.new_empty(len(images), self.outputs)
        data = (images.data_ptr(), _pointers(parameters), saved.data_ptr(), output.data_ptr())
        late = self._c.lenet_forward(*size, get_threads(), keep, *data)
        hold(late, images, *parameters, saved)
        return output, saved

    def backward(
        self, saved: Tensor, parameters: Sequence[Tensor | None], output_grad: Tensor
    ) -> list[Tensor | None]:
        """The gradients of the parameters."""
        output_grad = output_grad.contiguous()
        size = (self._at, len(output_grad))
        scratch = self._lend("scratch", self._c.lenet_scratch_bytes(*size))
        grads = [None if p is None else torch.empty_like(p) for p in parameters]
        data = (_pointers(parameters), saved.data_ptr(), output_grad.data_ptr())
        work = (scratch.data_ptr(), _pointers(grads))
        late = self._c.lenet_backward(*size, get_threads(), *data, *work)
        hold(late, *parameters, saved, output_grad, scratch)
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

        Shapes: (N, 1, 32, 32), labels int64 (N), pairs int64 (2, connections) -> mean loss (),
        outputs (N, K).
        Returns: None, with nothing changed, where a label is none of the K classes.
        """
        images, labels = images.contiguous(), labels.contiguous()
        output = images.new_empty(len(images), DIGITS if head.distances else self.outputs)
        loss = images.new_empty(())

        def data(memory: Tensor) -> tuple[Any, ...]:
            given = (images.data_ptr(), labels.data_ptr(), _pointers(parameters))
            changed = (states and _pointers(states), memory.data_ptr(), _pointers(grads))
            return *given, *changed, output.data_ptr(), loss.data_ptr()

        rules = (self._at, ctypes.byref(rule), ctypes.byref(head))
        if len(images) == 1:
            memory = self._lend("single", self._c.lenet_single_bytes(self._at))
            connections = (None, 0) if pairs is None else (pairs.data_ptr(), pairs.shape[1])
            late = self._c.lenet_step_on_one(*rules, *connections, *data(memory))
        else:
            memory = self._lend("step", self._c.lenet_step_bytes(self._at, len(images)))
            sizes = (len(images), get_threads())
            late = self._c.lenet_step(*rules, *sizes, *data(memory))
        if late < 0:
            return None
        hold(late, images, labels, *parameters, memory)
        return loss, output

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
