"""The user chooses how a model computes, and its other uses still work."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F

from lenet.model import KernelError, LeNet5, equip
from lenet.optim.curvature import second_backward
from tests.native.networks import batch, equipped, needs_kernels, network

pytestmark = needs_kernels


def test_second_derivatives_of_an_equipped_model_are_those_of_its_layers(capsys):
    images, labels = batch(1)
    model, plain = equipped(network()), network()
    found = second_backward(model, F.cross_entropy, images, labels)
    expected = second_backward(plain, F.cross_entropy, images, labels)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert capsys.readouterr().err == ""
    assert not torch.equal(model(images), plain(images))  # the kernels are back


def test_copies_and_pickles_of_a_model_work():
    model = equipped(network())
    images, _ = batch(3)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        assert torch.equal(twin(images), model(images))
        model.fc3.bias.add_(1)
        assert not torch.equal(twin(images), model(images))
    file = io.BytesIO()
    torch.save(twin, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    with torch.no_grad():
        assert torch.equal(loaded(images), twin(images))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # torch.func's own
def test_export_vmap_and_forward_mode_work_on_pytorchs_operators():
    model = equipped(network())
    images, _ = batch(2)
    program = torch.export.export(model, (images,), strict=False)
    assert "conv2d" in str(program.graph)
    with torch.no_grad():
        expected = network()(images)
        assert torch.allclose(program.module()(images), expected, atol=1e-5)
        assert torch.allclose(torch.vmap(model)(images[:, None])[:, 0], expected, atol=1e-5)
    _, slope = torch.func.jvp(model, (images,), (torch.ones_like(images),))
    assert slope.abs().sum() > 0


def test_on_other_devices_auto_is_eager_and_silent(capsys):
    assert equip(network(), "cuda", "auto").name == "eager"
    assert capsys.readouterr().err == ""
    with pytest.raises(KernelError, match="the device is cuda"):
        equip(network(), "cuda", "native")


def test_a_lenet5_computes_by_the_kernels_unless_it_is_eager():
    images, _ = batch(5)
    for kernels, name in (("auto", "_Fused"), ("native", "_Fused"), ("eager", "Addmm")):
        assert LeNet5(kernels=kernels)(images).grad_fn.name().startswith(name)


def test_a_native_network_that_the_kernels_cannot_compute_is_an_error(capsys):
    small = torch.zeros(2, 1, 28, 28)
    with pytest.raises(KernelError, match=r"^kernels=native: expected images"):
        LeNet5(image_size=28, kernels="native")(small)
    assert capsys.readouterr().err == ""
    LeNet5(image_size=28)(small)
    assert capsys.readouterr().err.startswith("Eager PyTorch instead of the native kernels: ")


def test_kernels_that_cannot_be_built_are_tried_once(tmp_path, use_compiler, capsys):
    log = tmp_path / "log"
    broken = tmp_path / "broken"
    broken.write_text(f"#!/bin/sh\necho tried >> {log}\nexit 1\n")
    broken.chmod(0o755)
    use_compiler(str(broken))
    model = LeNet5(num_classes=43)  # no other test has built this one's kernels
    model(batch(2)[0])
    tries = log.read_text()
    model(batch(3)[0])
    assert log.read_text() == tries
    assert capsys.readouterr().err.count("Eager PyTorch instead of the native kernels: ") == 1


def test_an_unknown_choice_is_refused_in_one_line():
    with pytest.raises(KernelError, match="expected one of auto, native, eager, compile"):
        equip(network(), "cpu", "fast")


def test_without_a_compiler_auto_is_eager_and_native_an_error(use_compiler, capsys):
    use_compiler("no-such-compiler")
    model = network(classes=41)  # no other test has built this one's kernels
    chosen = equip(model)
    assert chosen.name == "eager"
    assert "no-such-compiler" in chosen.why
    assert capsys.readouterr().err.count(chosen.why) == 1
    with pytest.raises(KernelError, match="no-such-compiler"):
        equip(model, "cpu", "native")
