"""The fused kernels compute what eager PyTorch computes."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from lenet.model.lenet5 import POOLINGS
from tests.native.networks import (
    NETWORKS,
    SUPPORTED,
    batch,
    equipped,
    gradients,
    needs_kernels,
    network,
)

pytestmark = needs_kernels


def nearly_tied(model, images):
    """Whether rounding may decide which of four is the maximum."""
    if not isinstance(model.pool1, nn.MaxPool2d):
        return False
    stages = model.stages(images)
    for maps in (stages["C1"], stages["C3"]):
        four = F.unfold(maps.flatten(0, 1)[:, None], 2, stride=2)
        gap = -four.topk(2, dim=1).values.diff(dim=1)
        if ((gap > 0) & (gap < 1e-5)).any():
            return True
    return False


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@given(options=NETWORKS, count=st.integers(1, 40), threads=st.integers(1, 3))
def test_outputs_and_gradients_agree_with_float64_to_five_digits(options, count, threads):
    model = network(**options)
    images, labels = batch(count, options["classes"], options["seed"])
    # Not a loss, whose own rounding would be in the gradients.
    output_grad = F.one_hot(labels, options["classes"]) - 0.25
    reference = copy.deepcopy(model).double()
    assume(not nearly_tied(reference, images.double()))
    expected = reference(images.double())
    expected.backward(output_grad.double())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        logits = equipped(model)(images)
        logits.backward(output_grad)
    finally:
        torch.set_num_threads(before)
    expected = expected.detach()
    assert (logits.detach() - expected).norm() < 1e-5 * expected.norm()
    whole = torch.cat([p.grad.flatten() for p in reference.parameters()]).norm()
    for (name, found), exact in zip(model.named_parameters(), reference.parameters(), strict=True):
        # Relative to its own length, or to a thousandth of all where its terms cancel.
        length = max(exact.grad.norm(), whole / 1000)
        assert (found.grad.double() - exact.grad).norm() < 1e-5 * length, name


def test_an_images_outputs_are_the_same_bits_in_any_batch(threads):
    model = equipped(network())
    images, _ = batch(53)
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(part) for part in images.split([1, 15, 16, 17, 4])])
    assert torch.equal(together, alone)
    assert torch.equal(together, model(images).detach())  # with gradients


def test_a_second_backward_through_a_graph_gives_the_same_gradients():
    model = equipped(network())
    images, labels = batch(20)
    loss = F.cross_entropy(model(images), labels)
    loss.backward(retain_graph=True)
    once = {name: p.grad.clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        model(batch(40)[0])  # must not use the graph's memory
    F.cross_entropy(model(images), labels)
    loss.backward()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.grad, 2 * once[name]), name


def test_two_graphs_at_once_do_not_share_their_memory():
    model = equipped(network())
    batches = [batch(30, seed=seed) for seed in range(4)]
    expected = [gradients(model, *pair)[1] for pair in batches]
    losses = [F.cross_entropy(model(images), labels) for images, labels in batches]
    for loss, gradient in zip(losses, expected, strict=True):
        model.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter.grad, gradient[name]), name


def test_a_parameter_changed_before_backward_is_an_error():
    model = equipped(network())
    images, labels = batch(4)
    loss = F.cross_entropy(model(images), labels)
    with torch.no_grad():
        model.fc1.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_second_derivatives_are_refused_with_advice():
    model = equipped(network())
    images, labels = batch(4)
    loss = F.cross_entropy(model(images), labels)
    with pytest.raises(RuntimeError, match=r"device\.kernels=eager"):
        torch.autograd.grad(loss, list(model.parameters()), create_graph=True)


def test_frozen_parameters_get_no_gradient_and_the_others_do():
    images, labels = batch(9)
    expected = gradients(equipped(network()), images, labels)[1]
    model = equipped(network())
    model.conv1.requires_grad_(False)
    model.fc2.bias.requires_grad_(False)
    F.cross_entropy(model(images), labels).backward()
    assert model.conv1.weight.grad is None
    assert model.fc2.bias.grad is None
    assert torch.equal(model.conv2.weight.grad, expected["conv2.weight"])


def test_hooks_on_parameters_run():
    model = equipped(network())
    model.conv1.weight.register_hook(lambda gradient: 2 * gradient)
    expected = gradients(equipped(network()), *batch(9))[1]
    found = gradients(model, *batch(9))[1]
    assert torch.equal(found["conv1.weight"], 2 * expected["conv1.weight"])
    assert torch.equal(found["conv2.weight"], expected["conv2.weight"])


def test_images_of_any_memory_format_give_the_same_outputs():
    model = equipped(network())
    images, _ = batch(6)
    expected = model(images).detach()
    turned = images.transpose(2, 3).contiguous().transpose(2, 3)
    assert not turned.is_contiguous()
    assert torch.equal(model(turned).detach(), expected)
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(model(last).detach(), expected)


@pytest.mark.parametrize(("activation", "pooling"), [*zip(SUPPORTED, itertools.cycle(POOLINGS))])
def test_a_nan_in_an_image_is_nan_in_its_outputs_alone(activation, pooling):
    model = equipped(network(activation, pooling))
    images, _ = batch(20)
    images[7, 0, 16, 16] = float("nan")
    with torch.no_grad():
        logits = model(images)
    assert logits[7].isnan().all()
    assert logits[[*range(7), *range(8, 20)]].isfinite().all()
