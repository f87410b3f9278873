"""The kernels for one image take PyTorch's step, with the paper's layers, output and losses."""

import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from lenet.model.lenet5 import ACTIVATIONS, POOLINGS, LeNet5
from lenet.model.losses import MAP, MSE
from lenet.optim.sdlm import SDLM
from lenet.training.fused_step import whole_step
from lenet.training.loop import fit
from tests.native.networks import SUPPORTED, equipped, needs_kernels

pytestmark = needs_kernels
CRITERIA = {
    "linear": [nn.CrossEntropyLoss(label_smoothing=0.1), MAP(2.0), MSE("linear")],
    "rbf": [nn.CrossEntropyLoss(label_smoothing=0.1), MAP(2.0), MSE("rbf")],
}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "momentum": lambda p: torch.optim.SGD(
        p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "sdlm": lambda p: SDLM(p, lr=5e-4),
}


def images(count=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.rand(count, 1, 32, 32, generator=generator) * 1.3 - 0.1
    return inputs, torch.randint(10, (count,), generator=generator)


def network(
    pooling="subsample", activation="scaled_tanh", connections="table_i", output="rbf", scale=1.0
):
    torch.manual_seed(3)
    return LeNet5(
        pooling=POOLINGS[pooling],
        activation=ACTIVATIONS[activation],
        connections=connections,
        output=output,
        distance_scale=scale,
        initialisation="released",
    )


def after_its_first_step(optimizer, model, criterion):
    """The optimizer after a step of PyTorch's; an SDLM has measured."""
    if isinstance(optimizer, SDLM):
        optimizer.measure(model, criterion, *images(2, seed=5))
    inputs, labels = images(1, seed=4)
    criterion(model(inputs), labels).backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def unchanged(before, model):
    return all(itertools.starmap(torch.equal, zip(before, model.parameters(), strict=True)))


@given(
    st.sampled_from(SUPPORTED),
    st.sampled_from(sorted(POOLINGS)),
    st.sampled_from(["full", "table_i"]),
    st.sampled_from(["linear", "rbf"]),
    st.sampled_from(sorted(OPTIMIZERS)),
    st.integers(0, 2),
    st.sampled_from([1.0, 0.5]),
)
def test_a_step_is_pytorchs_in_float64(
    activation, pooling, connections, output, optimizer, index, scale
):
    criterion = CRITERIA[output][index]
    model = network(pooling, activation, connections, output, scale)
    make = OPTIMIZERS[optimizer]
    found_by = after_its_first_step(make(model.parameters()), model, criterion)
    exact = copy.deepcopy(model).double()
    expected_by = make(exact.parameters())
    expected_by.load_state_dict(copy.deepcopy(found_by.state_dict()))
    # Several images at once have no kernels for the paper's connections and output.
    inputs, labels = images(5 if (connections, output) == ("full", "linear") else 1)
    loss, outputs = whole_step(equipped(model), criterion, found_by)(inputs, labels)

    expected = exact(inputs.double())
    expected_loss = criterion(expected, labels)
    expected_loss.backward()
    expected_by.step()
    assert (outputs - expected).abs().max() < 1e-5 * float(expected.detach().abs().max())
    assert float(loss) == pytest.approx(float(expected_loss.detach()), rel=1e-4, abs=1e-4)
    for (name, p), q in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert (p.grad - q.grad).abs().max() <= 2e-4 * float(q.grad.abs().max()) + 1e-7, name
        assert (p - q).abs().max() <= 1e-4 * float(q.detach().abs().max()) + 1e-7, name


def test_a_step_does_not_depend_on_the_image_before():
    model = equipped(network())
    optimizer = SDLM(model.parameters(), lr=1e-30)
    optimizer.measure(model, MAP(), *images(2))
    step = whole_step(model, MAP(), optimizer)
    _, before = step(*images(1, seed=1))
    grads = [p.grad.clone() for p in model.parameters()]
    inputs, labels = images(1, seed=2)
    step(100 * inputs, labels)
    _, after = step(*images(1, seed=1))
    assert torch.equal(before, after)
    assert all(torch.equal(g, p.grad) for g, p in zip(grads, model.parameters(), strict=True))


def test_a_curvature_that_is_measured_again_is_used():
    model = equipped(network())
    optimizer = SDLM(model.parameters(), lr=1e-3)
    optimizer.measure(model, MAP(), *images(2))
    step = whole_step(model, MAP(), optimizer)
    step(*images())
    for p in model.parameters():
        optimizer.state[p]["curvature"] = torch.full_like(p, 1e9)
    before = [p.detach().clone() for p in model.parameters()]
    step(*images())
    changes = zip(before, model.parameters(), strict=True)
    assert max(float((b - p.detach()).abs().max()) for b, p in changes) < 1e-6


@pytest.mark.parametrize(
    ("output", "criterion", "batch"),
    [
        ("linear", MSE("rbf"), images()),
        ("rbf", MSE("linear"), images()),
        ("rbf", MAP(), images(2)),
        ("linear", MAP(), images(2)),
        ("rbf", MAP(), (images()[0], torch.tensor([10]))),
    ],
)
def test_a_step_the_kernels_cannot_take_changes_nothing(output, criterion, batch):
    model = equipped(network(output=output))
    step = whole_step(model, criterion, torch.optim.SGD(model.parameters(), lr=0.1))
    before = [p.detach().clone() for p in model.parameters()]
    assert step(*batch) is None
    assert unchanged(before, model)


def test_training_on_single_images_follows_pytorchs():
    inputs, labels = images(6)
    batches = list(zip(inputs.split(1), labels.split(1), strict=True))
    losses = []
    for model in (equipped(network()), network()):
        optimizer = SDLM(model.parameters(), lr=5e-5, samples=2)
        records = fit(model, batches, MAP(), optimizer, epochs=2)
        losses.append([record.loss for record in records])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0][-1] < losses[0][0]
