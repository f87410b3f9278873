"""A step by the kernels with the paper's parts, mostly on one image, is the one PyTorch takes."""

import copy
import itertools

import pytest
import torch
from torch import nn

from lenet.model.layers import RBF
from lenet.model.lenet5 import ACTIVATIONS, POOLINGS, LeNet5
from lenet.model.losses import MAP, MSE
from lenet.native import equip
from lenet.native.step import whole_step
from lenet.optim.sdlm import SDLM
from lenet.training.loop import fit

CRITERIA = [nn.CrossEntropyLoss(label_smoothing=0.1), MAP(2.0), MSE("linear"), MSE("rbf")]
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.01),
    "momentum": lambda p: torch.optim.SGD(
        p, lr=0.01, momentum=0.9, nesterov=True, weight_decay=0.1
    ),
    "sdlm": lambda p: SDLM(p, lr=5e-4),
}


def images(count=1, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    inputs = torch.rand(count, 1, 32, 32, generator=drawn) * 1.3 - 0.1
    return inputs, torch.randint(10, (count,), generator=drawn)


def network(pooling="subsample", activation="scaled_tanh", connections="table_i", output="rbf"):
    torch.manual_seed(3)
    return LeNet5(
        pooling=POOLINGS[pooling],
        activation=ACTIVATIONS[activation],
        connections=connections,
        output=output,
        initialisation="released",
    )


def begun(model, optimizer, criterion):
    """The optimizer after its first step, which is PyTorch's; SDLM is measured."""
    if isinstance(optimizer, SDLM):
        optimizer.measure(model, criterion, *images(8, seed=5))
    criterion(model(images(1, seed=4)[0]), images(1, seed=4)[1]).backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("output", ["linear", "rbf"])
@pytest.mark.parametrize("connections", ["full", "table_i"])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("activation", ["tanh", "scaled_tanh", "sigmoid", "relu"])
def test_a_step_is_pytorchs_in_float64(activation, pooling, connections, output, optimizer):
    counts = (1, 5) if (connections, output) == ("full", "linear") else (1,)
    for criterion, count in itertools.product(CRITERIA, counts):
        if isinstance(criterion, MSE) and criterion.output != output:
            continue
        model = network(pooling, activation, connections, output)
        stepper = begun(model, OPTIMIZERS[optimizer](model.parameters()), criterion)
        exact = copy.deepcopy(model).double()
        other = OPTIMIZERS[optimizer](exact.parameters())
        other.load_state_dict(copy.deepcopy(stepper.state_dict()))
        assert equip(model).name == "native"
        step = whole_step(model, criterion, stepper)
        inputs, labels = images(count)
        loss, outputs = step(inputs, labels)

        expected = exact(inputs.double())
        wanted = criterion(expected, labels)
        wanted.backward()
        other.step()
        scale = float(expected.detach().abs().max())
        assert (outputs - expected).abs().max() < 1e-5 * scale
        assert float(loss) == pytest.approx(float(wanted.detach()), rel=1e-4, abs=1e-4)
        for (name, p), q in zip(model.named_parameters(), exact.parameters(), strict=True):
            largest = float(q.grad.abs().max())
            assert (p.grad - q.grad).abs().max() <= 2e-4 * largest + 1e-7, (name, criterion)
            assert (p - q).abs().max() <= 1e-4 * float(q.detach().abs().max()) + 1e-7, (
                name,
                criterion,
            )


def test_steps_leave_nothing_behind_for_the_next():
    """The same image twice, and another in between: padding and sums begin at zero each time."""
    model = network()
    equip(model)
    optimizer = SDLM(model.parameters(), lr=1e-30)
    optimizer.measure(model, MAP(), *images(4))
    step = whole_step(model, MAP(), optimizer)
    first, second = images(1, seed=1), images(1, seed=2)
    before = step(*first), [p.grad.clone() for p in model.parameters()]
    step(second[0] * 100, second[1])
    after = step(*first), [p.grad.clone() for p in model.parameters()]
    assert torch.equal(before[0][1], after[0][1])
    assert all(itertools.starmap(torch.equal, zip(before[1], after[1], strict=True)))


@pytest.mark.parametrize("how", ["measured", "in place", "mu"])
def test_a_changed_curvature_is_noticed(how):
    model = network()
    equip(model)
    optimizer = SDLM(model.parameters(), lr=1e-3)
    optimizer.measure(model, MAP(), *images(4))
    step = whole_step(model, MAP(), optimizer)
    step(*images())
    for p in model.parameters():
        if how == "measured":
            optimizer.state[p]["curvature"] = torch.full_like(p, 1e9)
        elif how == "in place":
            optimizer.state[p]["curvature"].fill_(1e9)
    if how == "mu":
        optimizer.param_groups[0]["mu"] = 1e9
    before = [p.detach().clone() for p in model.parameters()]
    step(*images())
    changes = zip(before, model.parameters(), strict=True)
    assert max(float((b - p.detach()).abs().max()) for b, p in changes) < 1e-6


@pytest.mark.parametrize(
    ("output", "criterion", "count"),
    [("linear", MSE("rbf"), 1), ("rbf", MSE("linear"), 1), ("rbf", MAP(), 2), ("linear", MAP(), 2)],
)
def test_what_it_does_not_know_is_left_to_pytorch(output, criterion, count):
    model = network(output=output)
    equip(model)
    step = whole_step(model, criterion, torch.optim.SGD(model.parameters(), lr=0.1))
    before = [p.detach().clone() for p in model.parameters()]
    assert step(*images(count)) is None
    assert all(itertools.starmap(torch.equal, zip(before, model.parameters(), strict=True)))


def test_a_label_that_is_none_of_the_classes_changes_nothing():
    model = network()
    equip(model)
    step = whole_step(model, MAP(), torch.optim.SGD(model.parameters(), lr=0.1))
    before = [p.detach().clone() for p in model.parameters()]
    assert step(images()[0], torch.tensor([10])) is None
    assert all(itertools.starmap(torch.equal, zip(before, model.parameters(), strict=True)))


def test_before_the_first_measure_pytorch_steps():
    model = network()
    equip(model)
    assert whole_step(model, MAP(), SDLM(model.parameters()))(*images()) is None


def test_a_hook_on_the_output_is_heard():
    model = network()
    equip(model)
    step = whole_step(model, MAP(), torch.optim.SGD(model.parameters(), lr=0.1))
    assert step(*images()) is not None
    model.fc3.register_forward_hook(lambda *_: None)
    assert isinstance(model.fc3, RBF)
    assert step(*images()) is None


def test_a_training_of_single_images_is_pytorchs():
    inputs, labels = images(40)
    batches = list(zip(inputs.split(1), labels.split(1), strict=True))
    found = []
    for kernels in ("native", "eager"):
        model = network()
        equip(model, kernels=kernels)
        optimizer = SDLM(model.parameters(), lr=5e-5, samples=20)
        records = list(fit(model, batches, MAP(), optimizer, epochs=3))
        found.append([record.loss for record in records])
    assert found[0] == pytest.approx(found[1], rel=1e-3)
    assert found[0][-1] < found[0][0]
