"""The kernels' whole step is PyTorch's, and PyTorch takes the steps that they cannot."""

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from lenet.model import equip
from lenet.model.lenet5 import LeNet5
from lenet.optim.schedule import cosine
from lenet.training.fused_step import whole_step
from lenet.training.loop import fit
from tests.native.networks import NETWORKS, batch, equipped, needs_kernels, network

pytestmark = needs_kernels


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.05, "momentum": 0.9} | options)


def one_step(model, criterion, optimizer, images, labels):
    optimizer.zero_grad()
    loss = criterion(model(images), labels)
    loss.backward()
    optimizer.step()
    return loss.detach()


def ready(options=None, criterion=F.cross_entropy, **network_options):
    """A model with the kernels whose optimizer has taken its first step, and its whole step."""
    model = equipped(network(**network_options))
    optimizer = sgd(model, **(options or {}))
    classes = network_options.get("classes", 10)
    one_step(model, criterion, optimizer, *batch(20, classes))
    return model, optimizer, whole_step(model, criterion, optimizer)


def test_a_schedule_counts_a_first_step_that_the_kernels_take():
    """torch would warn that the schedule was called before the optimizer; here that is an error."""
    model = equipped(network())
    optimizer = sgd(model, momentum=0.0)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    assert whole_step(model, F.cross_entropy, optimizer)(*batch(20, 10)) is not None
    schedule.step()


@given(
    network_options=NETWORKS,
    options=st.fixed_dictionaries(
        {
            "momentum": st.sampled_from([0.0, 0.5, 0.9]),
            "dampening": st.sampled_from([0.0, 0.1]),
            "weight_decay": st.sampled_from([0.0, 0.01]),
            "nesterov": st.booleans(),
            "maximize": st.booleans(),
        }
    ),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    count=st.integers(2, 40),  # for one see test_single.py
    threads=st.integers(1, 3),
)
def test_parameters_and_momenta_change_as_by_pytorchs_loss_and_optimizer(
    network_options, options, smoothing, count, threads
):
    momentum = options["momentum"]
    options["nesterov"] &= momentum > 0 and options["dampening"] == 0
    criterion = nn.CrossEntropyLoss(label_smoothing=smoothing)
    # PyTorch takes the steps of a network with partial connections.
    model, optimizer, step = ready(options, criterion, **network_options | {"connections": "full"})
    twin = copy.deepcopy(model)
    twins_optimizer = sgd(twin, **options)
    twins_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    images, labels = batch(count, network_options["classes"], seed=1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            expected_outputs = twin(images)
        expected = one_step(twin, criterion, twins_optimizer, images, labels)
        loss, outputs = step(images, labels)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(outputs, expected_outputs)
    assert float(loss) == pytest.approx(float(expected), rel=1e-5, abs=1e-6)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        # A confident network's gradient, probability - 1, is mostly rounding.
        near = {"rtol": 1e-4, "atol": 1e-5 * max(0.1, float(q.grad.norm()))}
        torch.testing.assert_close(p.grad, q.grad, **near)
        torch.testing.assert_close(p.detach(), q.detach(), **near)
        if momentum:
            found, wanted = (
                o.state[x]["momentum_buffer"] for o, x in ((optimizer, p), (twins_optimizer, q))
            )
            torch.testing.assert_close(found, wanted, **near)


def test_pytorch_takes_the_first_step_if_there_is_momentum():
    model = equipped(network())
    step = whole_step(model, F.cross_entropy, sgd(model))
    before = copy.deepcopy(model.state_dict())
    assert step(*batch(8)) is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert whole_step(model, F.cross_entropy, sgd(model, momentum=0.0))(*batch(8)) is not None


@pytest.mark.parametrize("label", [-100, -1, 10, 2**40])
def test_a_label_of_no_class_changes_nothing(label):
    model, _, step = ready()
    before = copy.deepcopy(model.state_dict())
    images, labels = batch(20)
    labels[7] = label
    assert step(images, labels) is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "observe",
    [
        lambda model, optimizer: model.register_forward_hook(lambda *_: None),
        lambda model, optimizer: model.conv1.register_forward_hook(lambda *_: None),
        lambda model, optimizer: model.register_full_backward_hook(lambda *_: None),
        lambda model, optimizer: model.conv1.weight.register_hook(lambda gradient: gradient),
        lambda model, optimizer: optimizer.register_step_post_hook(lambda *_: None),
        lambda model, optimizer: register_module_forward_hook(lambda *_: None),
    ],
)
def test_pytorch_takes_a_step_that_a_hook_observes(observe):
    model, optimizer, step = ready()
    handle = observe(model, optimizer)
    try:
        assert step(*batch(8)) is None
    finally:
        handle.remove()
    assert step(*batch(8)) is not None


def test_a_profiler_sees_pytorchs_operators():
    _, _, step = ready()
    with torch.profiler.profile():
        assert step(*batch(8)) is None


def test_pytorch_takes_odd_batches_and_frozen_or_foreign_parameters():
    model, optimizer, step = ready()
    images, labels = batch(8)
    assert step(images.double(), labels) is None
    assert step(images[:, :, 2:-2, 2:-2], labels) is None
    assert step(images, labels.float()) is None
    assert step(images, labels[:4]) is None
    with torch.no_grad():
        assert step(images, labels) is None
    model.fc3.bias.requires_grad_(False)
    assert step(images, labels) is None
    model.fc3.bias.requires_grad_(True)
    optimizer.param_groups[0]["lr"] = torch.tensor(0.1)
    assert step(images, labels) is None
    optimizer.param_groups[0]["lr"] = 0.1
    model.fc3 = nn.Linear(84, 10)  # not in the optimizer
    assert step(images, labels) is None


@pytest.mark.parametrize(
    ("criterion", "make"),
    [
        (nn.CrossEntropyLoss(weight=torch.ones(10)), sgd),
        (nn.CrossEntropyLoss(reduction="sum"), sgd),
        (lambda logits, labels: logits.sum(), sgd),
        (F.cross_entropy, lambda model: torch.optim.AdamW(model.parameters())),
        (
            F.cross_entropy,
            lambda model: torch.optim.SGD(
                [{"params": model.conv1.parameters()}, {"params": model.fc1.parameters()}], lr=0.1
            ),
        ),
    ],
)
def test_other_losses_and_optimizers_have_no_whole_step(criterion, make):
    model = equipped(network())
    assert whole_step(model, criterion, make(model)) is None


def test_an_extra_parameter_is_trained_too():
    model = equipped(network())
    model.extra = nn.Parameter(torch.ones(1))
    step = whole_step(model, F.cross_entropy, sgd(model, momentum=0.0, weight_decay=0.1))
    assert step(*batch(8)) is None


def trained(kernels, **options):
    model = LeNet5()
    model.load_state_dict(network(seed=3).state_dict())
    equip(model, "cpu", kernels)
    optimizer = sgd(model, lr=0.01)
    images, labels = batch(300)
    batches = list(zip(images.split(64), labels.split(64), strict=True))
    schedule = cosine(optimizer, 4, len(batches), 1.0, 0.0)
    records = list(
        fit(model, batches, F.cross_entropy, optimizer, epochs=4, schedule=schedule, **options)
    )
    return model, records


def test_training_with_a_schedule_follows_the_eager_one():
    (model, records), (eager, expected) = trained("native"), trained("eager")
    assert [r.loss for r in records] == pytest.approx([r.loss for r in expected], abs=1e-4)
    assert [r.correct for r in records] == [r.correct for r in expected]
    assert [r.learning_rate for r in records] == [r.learning_rate for r in expected]
    for p, q in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)


def test_training_twice_gives_the_same_bits():
    first, second = trained("native")[0], trained("native")[0]
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(p, q)


def test_backward_through_a_graph_from_before_the_step_is_an_error():
    model, _, step = ready()
    images, labels = batch(8)
    loss = F.cross_entropy(model(images), labels)
    step(images, labels)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
