"""The fused kernels compute what eager PyTorch computes, and are as well-behaved a citizen."""

import contextlib
import copy
import io

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from lenet.model.layers import TABLE_I, ConnectedConv2d, ScaledTanh, Subsample
from lenet.model.lenet5 import LeNet5, average_pooling
from lenet.native import KernelError, equip, stopwatch
from lenet.native.build import BuildError, library
from lenet.native.op import Kernels
from lenet.native.plan import network_of, plan_for
from lenet.optim.curvature import gauss_newton, second_backward
from lenet.training.evaluate import evaluate
from lenet.training.loop import fit

try:
    library()
except BuildError as error:
    pytest.skip(f"no native kernels: {error}", allow_module_level=True)

ACTIVATIONS = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "scaled_tanh": ScaledTanh,
}
POOLINGS = {
    "avg": average_pooling,
    "max": lambda: nn.MaxPool2d(2, 2),
    "subsample": Subsample,
}


def network(activation="tanh", pooling="avg", connections="full", classes=10, seed=0):
    """Weights are small multiples of 1/32, images of 1/4: sums that float32 knows exactly, so no
    rounding decides which side of a kink (relu, maximum) a number falls on."""
    torch.manual_seed(seed)
    model = LeNet5(
        classes,
        activation=ACTIVATIONS[activation],
        pooling=POOLINGS[pooling],
        connections=connections,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-6, 6).round_().div_(32)
        for pool in (model.pool1, model.pool2):
            if pooling == "subsample":  # a relu behind negative ones would let nothing through
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


def relative_error(found, expected):
    return float((found.double() - expected).norm() / expected.norm().clamp(min=1e-30))


def nearly_tied(model, images):
    """Whether rounding may decide which of four is the maximum: then float32 has two answers."""
    if not isinstance(model.pool1, nn.MaxPool2d):
        return False
    stages = model.stages(images)
    for maps in (stages["C1"], stages["C3"]):
        four = F.unfold(maps.flatten(0, 1)[:, None], 2, stride=2)
        gap = -four.topk(2, dim=1).values.diff(dim=1)
        if ((gap > 0) & (gap < 1e-5)).any():
            return True
    return False


def equipped(model):
    assert equip(model, "cpu", "native").name == "native"
    return model


NETWORKS = st.fixed_dictionaries(
    {
        "activation": st.sampled_from(sorted(ACTIVATIONS)),
        "pooling": st.sampled_from(sorted(POOLINGS)),
        "connections": st.sampled_from(["full", "table_i"]),
        "classes": st.integers(2, 40),
        "seed": st.integers(0, 99),
    }
)


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@settings(deadline=None, max_examples=40)
@given(options=NETWORKS, count=st.integers(1, 40), threads=st.integers(1, 3))
def test_outputs_and_gradients_are_those_of_float64_to_five_digits(options, count, threads):
    model = network(**options)
    images, labels = batch(count, options["classes"], options["seed"])
    # Not a loss: its own rounding would be in the gradients.
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
    assert relative_error(logits.detach(), expected.detach()) < 1e-5
    whole = torch.cat([p.grad.flatten() for p in reference.parameters()]).norm()
    for (name, found), exact in zip(model.named_parameters(), reference.parameters(), strict=True):
        # Of its own length, or where its terms cancelled each other a thousandth of all.
        length = max(exact.grad.norm(), whole / 1000)
        assert (found.grad.double() - exact.grad).norm() < 1e-5 * length, name


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("pooling", sorted(POOLINGS))
def test_built_with_double_they_pass_gradcheck(activation, pooling):
    model = network(activation, pooling, "table_i", classes=3)
    with torch.no_grad():  # away from the kinks, where there is no gradient to check
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    kernels = Kernels(*network_of(model), dtype=torch.float64)
    parameters = plan_for(model).parameters()
    parameters = [p if p is None else p.detach().double().requires_grad_() for p in parameters]
    given_ones = [p for p in parameters if p is not None]
    images = torch.randn(5, 1, 32, 32, dtype=torch.float64)

    def outputs(*values):
        rest = iter(values)
        return kernels(images, [p if p is None else next(rest) for p in parameters])

    assert torch.autograd.gradcheck(outputs, given_ones, fast_mode=True, atol=1e-4)


def test_an_image_comes_out_the_same_bit_for_bit_wherever_it_stands_in_a_batch(threads):
    model = equipped(network())
    images, _ = batch(53)
    with torch.no_grad():
        together = model(images)
        alone = torch.cat([model(part) for part in images.split([1, 15, 16, 17, 4])])
    assert torch.equal(together, alone)


def test_with_and_without_gradients_the_outputs_are_the_same_bits(threads):
    model = equipped(network())
    images, _ = batch(37)
    with torch.inference_mode():
        inferred = model(images)
    with torch.no_grad():
        assert torch.equal(model(images), inferred)
    assert torch.equal(model(images).detach(), inferred)


def test_the_same_threads_give_the_same_bits_again(threads):
    images, labels = batch(64)
    first, second = (gradients(equipped(network()), images, labels)[1] for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_training_follows_the_eager_one(threads):
    images, labels = batch(300)
    losses = {}
    for kernels in ("native", "eager"):
        model = LeNet5()
        model.load_state_dict(network(seed=3).state_dict())
        assert equip(model, "cpu", kernels).name == kernels
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        batches = list(zip(images.split(64), labels.split(64), strict=True))
        records = fit(model, batches, F.cross_entropy, optimizer, epochs=6, log_interval=1)
        losses[kernels] = [loss for record in records for _, loss in record.steps]
    assert losses["native"] == pytest.approx(losses["eager"], abs=1e-4)
    assert losses["native"] != losses["eager"]  # else the kernels were not asked


def test_a_graph_can_be_gone_back_through_twice():
    model = equipped(network())
    images, labels = batch(20)
    loss = F.cross_entropy(model(images), labels)
    loss.backward(retain_graph=True)
    once = {name: p.grad.clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        model(batch(40)[0])  # takes memory that must not be the graph's
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


def test_a_parameter_changed_before_the_way_back_is_an_error():
    model = equipped(network())
    images, labels = batch(4)
    loss = F.cross_entropy(model(images), labels)
    with torch.no_grad():
        model.fc1.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_second_derivatives_are_refused_with_the_way_out():
    model = equipped(network())
    images, labels = batch(4)
    loss = F.cross_entropy(model(images), labels)
    with pytest.raises(RuntimeError, match=r"device\.kernels=eager"):
        torch.autograd.grad(loss, list(model.parameters()), create_graph=True)


def test_frozen_parameters_get_no_gradient_and_the_others_theirs():
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


def test_hooks_on_a_layers_way_back_and_on_every_layer_are_called():
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


def test_second_derivatives_of_an_equipped_model_are_those_of_its_layers(capsys):
    images, labels = batch(4)
    model, plain = equipped(network()), network()
    for diagonal in (second_backward, gauss_newton):
        found = diagonal(model, F.cross_entropy, images, labels)
        expected = diagonal(plain, F.cross_entropy, images, labels)
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


def test_a_state_dict_knows_nothing_of_kernels():
    assert list(equipped(network()).state_dict()) == list(network().state_dict())


def test_a_replaced_layer_is_noticed():
    model = equipped(network())
    images, _ = batch(3)
    model(images)
    torch.manual_seed(5)
    model.fc3 = nn.Linear(84, 4)
    eager = copy.deepcopy(model)
    equip(eager, "cpu", "eager")
    assert model(images).shape == (3, 4)
    assert torch.allclose(model(images), eager(images), atol=1e-5)


def test_an_output_layer_of_another_kind_stands_on_top():
    class Distances(nn.Module):
        def __init__(self):
            super().__init__()
            self.centres = nn.Parameter(torch.randn(10, 84))

        def forward(self, x):
            return ((x[:, None] - self.centres) ** 2).sum(2)

    model = network("scaled_tanh", "subsample", "table_i")
    model.fc3 = Distances()
    images, labels = batch(6)
    _, expected = gradients(copy.deepcopy(model).double(), images.double(), labels)
    _, found = gradients(equipped(model), images, labels)
    for name, gradient in expected.items():
        assert relative_error(found[name], gradient) < 1e-5, name


@pytest.mark.parametrize(
    ("images", "reason"),
    [
        (torch.zeros(2, 1, 28, 28), "(N, 1, 32, 32)"),
        (torch.zeros(0, 1, 32, 32), "(N, 1, 32, 32)"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.float16), "float32"),
        (torch.zeros(2, 1, 32, 32, dtype=torch.float64), "float32"),
        (torch.zeros(2, 1, 32, 32, requires_grad=True), "require a gradient"),
        (torch.zeros(2, 1, 32, 32, device="meta"), "meta"),
    ],
)
def test_a_batch_they_cannot_take_goes_eagerly_and_one_line_says_why(images, reason, capsys):
    model = equipped(network())
    for _ in range(2):
        with contextlib.suppress(RuntimeError):  # eager PyTorch cannot take most of them either
            model(images)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith("Eager PyTorch instead of the native kernels: ")
    assert reason in said[0]


def test_a_gradient_of_the_images_is_eagers():
    images = batch(2)[0].requires_grad_()
    equipped(network())(images).sum().backward()
    expected = batch(2)[0].requires_grad_()
    network()(expected).sum().backward()
    assert torch.equal(images.grad, expected.grad)


def test_images_in_any_memory_format_are_taken():
    model = equipped(network())
    images, _ = batch(6)
    expected = model(images).detach()
    turned = images.transpose(2, 3).contiguous().transpose(2, 3)
    assert not turned.is_contiguous()
    assert torch.equal(model(turned).detach(), expected)
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(model(last).detach(), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")  # torch.func's own
def test_export_vmap_and_forward_mode_see_pytorchs_operators():
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


def test_a_model_of_float64_keeps_its_sixteen_digits():
    model = equipped(network()).double()
    images = batch(2)[0].double()
    with torch.no_grad():
        assert torch.equal(model(images), network().double()(images))


def test_autocast_goes_eagerly():
    with torch.autocast("cpu", torch.bfloat16):
        assert equipped(network())(batch(2)[0]).dtype == torch.bfloat16


@pytest.mark.parametrize("pooling", sorted(POOLINGS))
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_a_nan_is_not_lost(activation, pooling):
    model = equipped(network(activation, pooling))
    images, _ = batch(20)
    images[7, 0, 16, 16] = float("nan")
    with torch.no_grad():
        logits = model(images)
    assert logits[7].isnan().all()
    assert logits[[*range(7), *range(8, 20)]].isfinite().all()


def test_infinite_inputs_saturate_as_they_do_eagerly():
    images = torch.full((1, 1, 32, 32), 3e38)
    model = network()
    with torch.no_grad():
        assert torch.allclose(equipped(model)(images), network()(images), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: setattr(m, "pool1", nn.AvgPool2d(3, 2, padding=1)), "pool"),
        (lambda m: setattr(m, "pool2", nn.MaxPool2d(2, 2)), "pool1 is"),
        (lambda m: setattr(m, "conv1", nn.Conv2d(1, 6, 5, padding_mode="reflect")), None),
        (lambda m: setattr(m, "conv1", nn.Conv2d(1, 6, 5, bias=False)), "conv1 is"),
        (lambda m: setattr(m, "conv2", nn.Conv2d(6, 16, 5, groups=2)), "conv2 is"),
        (lambda m: setattr(m, "conv2", nn.Conv2d(6, 16, 5, dilation=2)), "conv2 is"),
        (lambda m: setattr(m, "fc2", nn.Linear(120, 84, bias=False)), "dense layer"),
        (lambda m: setattr(m, "activation", nn.GELU()), "the activation is GELU"),
        (lambda m: setattr(m, "activation", nn.LeakyReLU()), "the activation is LeakyReLU"),
        (lambda m: setattr(m, "conv1", nn.Conv2d(3, 6, 5)), "conv1 is"),
        (lambda m: setattr(m, "fc1", nn.Linear(256, 120)), "images of 32x32"),
        (lambda m: setattr(m, "pool1", Subsample(6, nn.Sigmoid())), "a pooling is"),
        (lambda m: nn.utils.parametrizations.weight_norm(m.fc1), "dense layer"),
    ],
)
def test_another_network_is_told_apart(change, reason, capsys):
    model = network()
    change(model)
    chosen = equip(model, "cpu", "auto")
    if reason is None:  # no padding, so its mode says nothing; refused all the same
        reason = "conv1 is"
    assert chosen.name == "eager"
    assert reason in chosen.why
    assert chosen.why in capsys.readouterr().err
    with pytest.raises(KernelError, match=r"^device\.kernels=native: "):
        equip(model, "cpu", "native")


def test_a_subclass_with_stages_of_its_own_is_another_network():
    class Twice(LeNet5):
        def stages(self, x):
            return super().stages(2 * x)

    assert equip(Twice()).name == "eager"
    assert equip(nn.Linear(2, 2)).name == "eager"


def test_other_devices_are_eager_without_a_word(capsys):
    assert equip(network(), "cuda", "auto").name == "eager"
    assert capsys.readouterr().err == ""
    with pytest.raises(KernelError, match="the device is cuda"):
        equip(network(), "cuda", "native")


def test_an_unknown_choice_is_one_line():
    with pytest.raises(KernelError, match="expected one of auto, native, eager, compile"):
        equip(network(), "cpu", "fast")


def test_without_a_compiler_auto_is_eager_and_native_an_error(monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    model = network(classes=41)  # no other test has built this one's kernels
    chosen = equip(model)
    assert chosen.name == "eager"
    assert "no-such-compiler" in chosen.why
    assert capsys.readouterr().err.count(chosen.why) == 1
    with pytest.raises(KernelError, match="no-such-compiler"):
        equip(model, "cpu", "native")


def test_the_stopwatch_counts_what_runs_inside_it():
    model = equipped(network())
    with stopwatch() as seconds:
        gradients(model, *batch(16))
    assert set(seconds) == {"convolutions", "dense", "loss", "update"}
    assert min(seconds["convolutions"], seconds["dense"]) > 0
    assert seconds["loss"] == 0  # PyTorch's, unless the whole step is the kernels'
    before = dict(seconds)
    gradients(model, *batch(16))
    assert seconds == before


def test_evaluation_agrees_with_eagers():
    images, labels = batch(130)
    batches = list(zip(images.split(50), labels.split(50), strict=True))
    found = evaluate(equipped(network()), batches, F.cross_entropy)
    expected = evaluate(network(), batches, F.cross_entropy)
    assert found.correct == expected.correct
    assert found.loss == pytest.approx(expected.loss, rel=1e-5)


def test_partial_connections_have_the_papers_1516_parameters():
    layer = ConnectedConv2d(6, TABLE_I, 5)
    assert sum(p.numel() for p in layer.parameters()) == 1516
    assert int((layer.dense_weight() != 0).sum()) == 60 * 25


def test_memory_is_used_again():
    kernels = Kernels("tanh", "average", (400, 10), 0)
    model = network()
    parameters = [model.conv1.weight, model.conv1.bias, model.conv2.weight, model.conv2.bias]
    parameters += [None] * 4 + [torch.randn(10, 400), torch.randn(10)]
    places = set()
    for _ in range(5):
        _, saved = kernels.forward(batch(8)[0], parameters, keep=True)
        places.add(saved.data_ptr())
        del saved
    assert len(places) == 1


@pytest.mark.slow
def test_an_epoch_of_mnist_follows_the_eager_one(mnist_root):
    from lenet.data.sets import load

    data = load("mnist", str(mnist_root))
    curves = {}
    for kernels in ("native", "eager"):
        torch.manual_seed(0)
        model = LeNet5()
        equip(model, "cpu", kernels)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        (record,) = fit(model, data.train, F.cross_entropy, optimizer, epochs=1)
        curves[kernels] = [loss for _, loss in record.steps]
    assert curves["native"] == pytest.approx(curves["eager"], abs=2e-3)
