"""What the kernels cannot compute goes through eager PyTorch."""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lenet.model import KernelError, equip
from lenet.model.layers import RBF, Subsample
from lenet.model.lenet5 import LeNet5
from tests.native.networks import batch, equipped, gradients, needs_kernels, network

pytestmark = needs_kernels


def test_a_hook_on_a_layer_sees_its_outputs(capsys):
    model = equipped(network())
    seen = []
    handle = model.conv2.register_forward_hook(lambda _, __, output: seen.append(output.shape))
    model(batch(2)[0])
    assert seen == [(2, 16, 10, 10)]
    assert "conv2 has a hook" in capsys.readouterr().err
    handle.remove()
    model(batch(2)[0])
    assert len(seen) == 1


def test_backward_hooks_and_global_hooks_are_called():
    images, labels = batch(2)
    seen = []
    model = equipped(network())
    model.conv2.register_full_backward_pre_hook(lambda *_: seen.append("back"))
    F.cross_entropy(model(images), labels).backward()
    assert seen == ["back"]
    everywhere = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(m))
    try:
        plain = equipped(network())
        plain(images)
    finally:
        everywhere.remove()
    assert plain.conv1 in seen


def test_a_replaced_layer_is_used():
    model = equipped(network())
    images, _ = batch(3)
    model(images)
    torch.manual_seed(5)
    model.fc3 = nn.Linear(84, 4)
    eager = copy.deepcopy(model)
    equip(eager, "cpu", "eager")
    assert model(images).shape == (3, 4)
    assert torch.allclose(model(images), eager(images), atol=1e-5)


def test_another_kind_of_output_layer_runs_after_the_kernels():
    model = network("scaled_tanh", "subsample", "table_i")
    model.fc3 = RBF()
    images, labels = batch(6)
    _, expected = gradients(copy.deepcopy(model).double(), images.double(), labels)
    _, found = gradients(equipped(model), images, labels)
    for name, gradient in expected.items():
        assert (found[name] - gradient).norm() < 1e-5 * gradient.norm(), name


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (torch.zeros(2, 1, 28, 28), "(N, 1, 32, 32)"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.float64), "float32"),
        (torch.zeros(2, 1, 32, 32, requires_grad=True), "require a gradient"),
    ],
)
def test_an_unsupported_batch_is_computed_eagerly_and_one_line_says_why(images, reason, capsys):
    model = equipped(network())
    for _ in range(2):
        with contextlib.suppress(RuntimeError):  # eager PyTorch cannot take most of them either
            model(images)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("Eager PyTorch instead of the native kernels: ")
    assert reason in said[0]


def test_gradients_of_images_float64_and_autocast_come_from_eager_pytorch():
    images, expected = batch(2)[0].requires_grad_(), batch(2)[0].requires_grad_()
    equipped(network())(images).sum().backward()
    network()(expected).sum().backward()
    assert torch.equal(images.grad, expected.grad)
    with torch.no_grad():
        double = images.double()
        assert torch.equal(equipped(network()).double()(double), network().double()(double))
    with torch.autocast("cpu", torch.bfloat16):
        assert equipped(network())(images).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: setattr(m, "pool1", nn.AvgPool2d(3, 2, padding=1)), "pool"),
        (lambda m: setattr(m, "pool2", nn.MaxPool2d(2, 2)), "pool1 is"),
        (lambda m: setattr(m, "conv1", nn.Conv2d(1, 6, 5, stride=2)), "conv1 is"),
        (lambda m: setattr(m, "conv2", nn.Conv2d(6, 16, 5, groups=2)), "conv2 is"),
        (lambda m: setattr(m, "fc2", nn.Linear(120, 84, bias=False)), "dense layer"),
        (lambda m: setattr(m, "activation", nn.GELU()), "the activation is GELU"),
        (lambda m: setattr(m, "fc1", nn.Linear(256, 120)), "images of 32x32"),
        (lambda m: setattr(m, "pool1", Subsample(6, nn.Sigmoid())), "a pooling is"),
    ],
)
def test_a_changed_network_is_computed_eagerly_and_one_line_says_why(change, reason, capsys):
    model = network()
    change(model)
    chosen = equip(model, "cpu", "auto")
    assert chosen.name == "eager"
    assert reason in chosen.why
    assert chosen.why in capsys.readouterr().err
    with pytest.raises(KernelError, match=r"^device\.kernels=native: "):
        equip(model, "cpu", "native")


def test_a_model_that_is_not_lenet5_is_computed_eagerly():
    class Stages(LeNet5):
        def stages(self, x):
            return super().stages(2 * x)

    class Forward(LeNet5):
        def forward(self, x):
            return 2 * super().forward(x)

    assert [equip(model).name for model in (Stages(), Forward(), nn.Linear(2, 2))] == ["eager"] * 3
