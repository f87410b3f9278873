"""Networks and batches for the tests of the kernels."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from lenet.model import equip
from lenet.model.lenet5 import ACTIVATIONS, POOLINGS, LeNet5
from lenet.native.build import BuildError, library

try:
    library()
    reason = ""
except BuildError as error:
    reason = str(error)
needs_kernels = pytest.mark.skipif(bool(reason), reason=f"no native kernels: {reason}")
SUPPORTED = ("tanh", "relu", "sigmoid", "scaled_tanh")  # of ACTIVATIONS
NETWORKS = st.fixed_dictionaries(
    {
        "activation": st.sampled_from(SUPPORTED),
        "pooling": st.sampled_from(sorted(POOLINGS)),
        "connections": st.sampled_from(["full", "table_i"]),
        "classes": st.integers(2, 40),
        "seed": st.integers(0, 99),
    }
)


def network(activation="tanh", pooling="avg", connections="full", classes=10, seed=0):
    """Weights are small multiples of 1/32 and images of 1/4, so float32 sums are exact: rounding
    does not decide on which side of a kink (relu, maximum) a number falls."""
    torch.manual_seed(seed)
    model = LeNet5(
        classes,
        activation=ACTIVATIONS[activation],
        pooling=POOLINGS[pooling],
        connections=connections,
        kernels="eager",
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-6, 6).round_().div_(32)
        for pool in (model.pool1, model.pool2):
            if pooling == "subsample":  # a relu after negative coefficients gives zeros only
                pool.coefficient.uniform_(4, 12).round_().div_(32)
    return model


def batch(count, classes=10, seed=0):
    generator = torch.Generator().manual_seed(1000 * seed + count)
    images = torch.randint(-4, 5, (count, 1, 32, 32), generator=generator) / 4
    return images, torch.randint(classes, (count,), generator=generator)


def gradients(model, images, labels):
    model.zero_grad()
    logits = model(images)
    F.cross_entropy(logits, labels).backward()
    return logits.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}


def equipped(model):
    assert equip(model, "cpu", "native").name == "native"
    return model
