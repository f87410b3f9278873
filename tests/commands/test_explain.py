"""The page that explains a network: what it calculates by hand equals the network's numbers."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from lenet.__main__ import main
from lenet.commands.explain.page import page, weight_pictures
from lenet.commands.explain.steps import check_by_hand, explain
from lenet.data.inputs import Inputs
from lenet.model.family import LeNet1
from lenet.model.lenet5 import ACTIVATIONS, POOLINGS, LeNet5
from tests.conftest import lenet5_1998

DIGITS = tuple("0123456789")


def explained(model):
    return explain(model, torch.randn(1, 32, 32, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("activation", ["tanh", "scaled_tanh"])
def test_every_number_calculated_by_hand_equals_the_networks(activation, pooling):
    torch.manual_seed(1)
    model = LeNet5(activation=ACTIVATIONS[activation], pooling=POOLINGS[pooling])
    for step in explained(model):
        assert abs(step.by_hand - step.in_network) < 1e-4
        if step.terms:
            products = [term.weight * term.value for term in step.terms]
            assert step.total == pytest.approx(sum(products) + step.bias)


def test_the_papers_network_is_explained_with_its_table_and_bitmaps():
    steps = explained(lenet5_1998())
    assert [step.layer.name for step in steps] == ["C1", "S2", "C3", "S4", "C5", "F6", "output"]
    assert sum(step.layer.parameters for step in steps) == 60_000
    assert weight_pictures(steps[2].layer)[0][0] == "map 0: fed by 0, 1, 2"
    assert len(steps[2].terms) in (75, 100, 150)
    bitmaps = weight_pictures(steps[6].layer)
    assert [tuple(bitmap.shape) for _, bitmap in bitmaps] == [(12, 7)] * 10


@pytest.mark.parametrize("shift", [0.01, float("nan")])
def test_a_number_by_hand_that_is_not_the_networks_is_an_error(shift):
    step = explained(LeNet5())[0]
    with pytest.raises(ValueError, match=r"^C1, map \d, row \d+, column \d+: by hand "):
        check_by_hand(replace(step, output=step.output + shift))


@pytest.mark.parametrize(
    "make",
    [LeNet1, lambda: LeNet5(in_channels=3), lambda: LeNet5(pooling=lambda: nn.LPPool2d(2, 2))],
    ids=["another network", "colour", "another pooling"],
)
def test_a_network_other_than_a_grey_lenet5_is_refused(make):
    with pytest.raises(ValueError, match="expected a LeNet5 for grey images with 2x2 pooling"):
        explained(make())


class Sources(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.found += [v for k, v in attributes if k in ("src", "href")]


@pytest.mark.parametrize("make", [LeNet5, lenet5_1998])
def test_the_page_shows_every_layer_loads_nothing_and_escapes_names(make):
    classes = (*DIGITS[:3], "<script>alert(1)</script>", *DIGITS[4:])
    text = page(explained(make()), classes[3], Inputs(classes, 0.1307, 0.3081), "run 0123<b>")
    parser = Sources()
    parser.feed(text)
    assert not {"script", "b"} & set(parser.tags)
    assert all(each.startswith(("data:image/png", "#")) for each in parser.found)
    assert "default-src 'none'" in text
    assert re.findall(r'<section id="(\w+)">', text) == [
        *("input", "C1", "S2", "C3", "S4", "C5", "F6", "output", "answer")
    ]


@pytest.mark.slow
def test_the_command_writes_a_page_for_a_test_image(latest, tmp_path, capsys):
    path = tmp_path / "page.html"
    assert main(["explain", "latest", "--image", "3", "--output", str(path)]) == 0
    assert "by hand equal the network's" in capsys.readouterr().out
    assert path.read_text().startswith("<!DOCTYPE html>")
    before = path.read_bytes()
    for wrong in (["--image", "360"], ["--image", "-1"]):
        assert main(["explain", "latest", *wrong, "--output", str(path)]) == 2
        assert "expected 0 to 359" in capsys.readouterr().err
    assert path.read_bytes() == before
