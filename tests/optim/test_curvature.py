"""Second derivatives agree with autograd's, and the optimizer steps by them."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from lenet.model.layers import RBF, ConnectedConv2d, ScaledTanh, Subsample
from lenet.model.losses import MAP, MSE
from lenet.optim.curvature import CurvatureError, gauss_newton, second_backward
from lenet.optim.sdlm import SDLM
from lenet.training.loop import fit
from tests.conftest import lenet5_1998


def paper():
    torch.manual_seed(0)
    return lenet5_1998().double()


def slow_gauss_newton(model, criterion, inputs, labels, head=None):
    """diag J' H J, row by row of J, with autograd alone; `model` computes the states."""
    parameters = list(model.parameters())
    total = torch.zeros(sum(p.numel() for p in parameters), dtype=torch.float64)
    for image, label in zip(inputs, labels, strict=True):
        states = model(image[None])
        rows = []
        for k in range(states.shape[1]):
            grads = torch.autograd.grad(
                states[0, k], parameters, retain_graph=True, materialize_grads=True
            )
            rows.append(torch.cat([g.flatten() for g in grads]))
        jacobian = torch.stack(rows)
        hessian = torch.autograd.functional.hessian(
            lambda s, label=label: criterion(head(s) if head else s, label[None]), states.detach()
        )[0, :, 0]
        total += ((hessian @ jacobian) * jacobian).sum(dim=0)
    shapes = [p.shape for p in parameters]
    parts = (total / len(inputs)).split([s.numel() for s in shapes])
    names = [name for name, _ in model.named_parameters()]
    return {n: v.view(s) for n, v, s in zip(names, parts, shapes, strict=True)}


def close(found, expected, tolerance=1e-6):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = float(value.abs().max())
        assert (found[name] - value).abs().max() <= tolerance * scale, name


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("criterion", [MSE(), nn.CrossEntropyLoss(), MAP(1.0)], ids=str)
def test_gauss_newton_is_autograds_diagonal(criterion):
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 5), ScaledTanh()
    )
    model.append(nn.Linear(5, 4))
    inputs, labels = torch.randn(2, 1, 6, 6), torch.tensor([0, 3])
    found = gauss_newton(model, criterion, inputs, labels)
    close(found, slow_gauss_newton(model, criterion, inputs, labels))


def test_an_rbf_output_counts_as_part_of_the_loss():
    torch.manual_seed(3)
    body = nn.Sequential(nn.Linear(6, 84), ScaledTanh())
    head = RBF().double()
    inputs, labels = torch.randn(4, 6), torch.tensor([1, 5, 5, 9])
    found = gauss_newton(nn.Sequential(*body, head), MAP(1.0), inputs, labels)
    close(found, slow_gauss_newton(body, MAP(1.0), inputs, labels, head))


@pytest.mark.parametrize("diagonal", [gauss_newton, second_backward])
def test_a_number_at_the_output_is_h_of_each_state_there(diagonal):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 84), ScaledTanh(), RBF(scale=0.5)).double()
    inputs, labels = torch.randn(4, 6), torch.tensor([1, 5, 5, 9])
    found = diagonal(model, MAP(10.0), inputs, labels, output_curvature=3.0)
    of_half_distance = diagonal(model, MSE("rbf"), inputs, labels)  # 1 for each state
    close(found, {name: 3 * h for name, h in of_half_distance.items()})


def slow_second_backward(layers, h, xs):
    """Appendix C, connection by connection; `layers` are the weights and the slopes."""
    found = []
    for weight, slopes, x in reversed(list(zip(*layers, xs, strict=True))):
        h = h * slopes**2
        found.append((h[:, None] * x[None, :] ** 2, h))
        h = (weight**2).T @ h
    return found[::-1]


def test_the_papers_way_is_appendix_c_connection_by_connection():
    torch.manual_seed(4)
    model = nn.Sequential(
        *(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh())
    )
    x = torch.randn(1, 6)
    states = [x]
    for layer in model:
        states.append(layer(states[-1]).detach())
    weights = [model[i].weight.detach() for i in (0, 2, 4)]
    slopes = [1 - states[i][0] ** 2 for i in (2, 4, 6)]
    inputs = [states[i][0] for i in (0, 2, 4)]
    expected = slow_second_backward((weights, slopes), torch.full((3,), 2.0), inputs)
    found = second_backward(model, MSE(), x, torch.tensor([1]))
    for i, (by_weight, by_bias) in zip((0, 2, 4), expected, strict=True):
        assert torch.allclose(found[f"{i}.weight"], by_weight)
        assert torch.allclose(found[f"{i}.bias"], by_bias)


def unshared(layer, side):
    """The matrix of all connections of a layer of maps."""
    images = torch.eye(side[0] * side[1] * side[2]).view(-1, *side)
    zero = layer(torch.zeros(1, *side)).detach()
    return (layer(images).detach() - zero).flatten(1).T


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3),
        ConnectedConv2d(3, ((0, 1), (2,), (0, 2)), 3),
        nn.AvgPool2d(2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_shared_weight_has_the_sum_of_its_connections(layer):
    layer.double()
    side = (3, 6, 6)
    maps = unshared(layer, side)
    first = nn.Linear(108, 108)
    end = nn.Linear(len(maps), 10)
    model = nn.Sequential(first, nn.Unflatten(1, side), layer, nn.Flatten(), end)
    model[1] = Reshape(side)
    chain = nn.Sequential(first, nn.Linear(108, len(maps)), end)
    with torch.no_grad():
        chain[1].weight.copy_(maps)
        chain[1].bias.copy_(layer(torch.zeros(1, *side)).flatten())
    inputs, labels = torch.randn(5, 108), torch.arange(5)
    found = second_backward(model, MSE(), inputs, labels)
    expected = second_backward(chain, MSE(), inputs, labels)
    assert torch.allclose(found["0.weight"], expected["0.weight"])
    if isinstance(layer, nn.Conv2d):
        # Output map, row, column; input map, row, column.
        by_connection = expected["1.weight"].view(4, 4, 4, 3, 6, 6)
        total = sum(
            by_connection[:, y, x, :, y : y + 3, x : x + 3] for y in range(4) for x in range(4)
        )
        assert torch.allclose(found["2.weight"], total)
        assert torch.allclose(found["2.bias"], expected["1.bias"].view(4, -1).sum(dim=1))


class Reshape(nn.Identity):
    def __init__(self, side):
        super().__init__()
        self.side = side

    def forward(self, x):
        return x.view(-1, *self.side)


@pytest.mark.parametrize("copies", [1, 2])
def test_subsampling_has_the_second_derivatives_of_its_parts(copies):
    torch.manual_seed(5)
    layer, maps = Subsample(2, ScaledTanh(), copies).double(), 2 * copies
    nn.init.uniform_(layer.coefficient, 0.2, 0.8)
    nn.init.uniform_(layer.bias, -0.5, 0.5)
    table = [(k // copies,) for k in range(maps)]
    parts = ConnectedConv2d(2, table, 2)  # a 2x2 kernel at every second place
    with torch.no_grad():
        parts.weight.copy_(layer.coefficient[:, None, None].expand(maps, 2, 2))
        parts.bias.copy_(layer.bias)
    body, end = nn.Conv2d(1, 2, 3), nn.Linear(4 * maps, 3)
    whole = nn.Sequential(body, layer, nn.Flatten(), end)
    chain = nn.Sequential(body, parts, EverySecond(), ScaledTanh(), nn.Flatten(), end)
    inputs, labels = torch.randn(5, 1, 6, 6), torch.arange(5) % 3
    found = second_backward(whole, MSE(), inputs, labels)
    expected = second_backward(chain, MSE(), inputs, labels)
    assert torch.allclose(found["1.coefficient"], expected["1.weight"].sum(dim=(1, 2)))
    assert torch.allclose(found["1.bias"], expected["1.bias"])
    assert torch.allclose(found["0.weight"], expected["0.weight"])


class EverySecond(nn.Identity):
    def forward(self, x):
        return x[:, :, ::2, ::2]


def test_a_layer_of_unknown_derivatives_is_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.Softmax(dim=1))
    with pytest.raises(CurvatureError, match=r"Softmax.*unknown"):
        second_backward(model, MSE(), torch.randn(2, 3), torch.tensor([0, 1]))


@pytest.mark.parametrize("curvature", ["second_backward", "gauss_newton"])
def test_a_step_is_the_gradient_over_mu_and_the_second_derivative(curvature):
    torch.manual_seed(6)
    model = nn.Sequential(nn.Linear(4, 3))
    optimizer = SDLM(model.parameters(), lr=0.1, mu=0.5, curvature=curvature)
    inputs, labels = torch.randn(8, 4), torch.arange(8) % 3
    optimizer.measure(model, MSE(), inputs, labels)
    before = parameters_to_vector(model.parameters()).detach().clone()
    MSE()(model(inputs), labels).backward()
    grads = torch.cat([p.grad.flatten() for p in model.parameters()])
    # Each output's second derivative by itself is 2, a weight's that times its squared input.
    h = torch.cat([2 * inputs.square().mean(dim=0).repeat(3), torch.full((3,), 2.0)])
    optimizer.step()
    after = parameters_to_vector(model.parameters()).detach()
    assert torch.allclose(after, before - 0.1 * grads / (0.5 + h))


def test_memory_is_the_share_of_the_last_second_derivative_in_the_new_one():
    model = nn.Linear(2, 3)
    optimizer = SDLM(model.parameters(), memory=0.75)
    for size, expected in ((2.0, 8.0), (1.0, 0.75 * 8 + 0.25 * 2), (1.0, 0.75 * 6.5 + 0.25 * 2)):
        optimizer.measure(model, MSE(), torch.full((1, 2), size), torch.tensor([0]))
        h = optimizer.state[model.weight]["curvature"]
        torch.testing.assert_close(h, torch.full((3, 2), expected))


def test_before_the_first_measurement_each_rate_is_lr_over_mu():
    p = nn.Parameter(torch.tensor([1.0, 2.0]))
    optimizer = SDLM([p], lr=0.1, mu=0.5)
    p.grad = torch.tensor([1.0, -1.0])
    optimizer.step()
    assert p.tolist() == pytest.approx([0.8, 2.2])


def test_fit_measures_before_each_epoch_on_its_first_examples():
    class Recording(SDLM):
        def measure(self, model, criterion, inputs, labels):
            measured.append((inputs, labels))

    measured, inputs, labels = [], torch.rand(12, 4), torch.arange(12) % 3
    model = nn.Linear(4, 3)
    batches = list(zip(inputs.split(2), labels.split(2), strict=True))
    list(fit(model, batches, MAP(1.0), Recording(model.parameters(), samples=5), epochs=2))
    assert len(measured) == 2
    for found, expected in zip(measured[1], (inputs, labels), strict=True):
        assert torch.equal(found, expected[:5])


def test_measuring_leaves_weights_and_gradients_alone():
    model = paper()
    inputs, labels = torch.rand(1, 1, 32, 32), torch.tensor([3])
    before = parameters_to_vector(model.parameters()).detach().clone()
    SDLM(model.parameters()).measure(model, MAP(1.0), inputs, labels)
    assert torch.equal(before, parameters_to_vector(model.parameters()))
    assert all(p.grad is None for p in model.parameters())
