"""A digit's way through a network: what is worked out by hand is the network's."""

import math
import re
from html.parser import HTMLParser

import pytest
import torch
from torch import nn

from lenet.__main__ import main
from lenet.commands.explain.page import page
from lenet.commands.explain.steps import Arithmetic, ExplainError, explain
from lenet.model.family import LeNet1
from lenet.model.lenet5 import ACTIVATIONS, POOLINGS, LeNet5
from tests.conftest import lenet5_1998
from tests.support.lab import Bench

DIGITS = [str(k) for k in range(10)]


def explained(model, seed=0, classes=DIGITS, size=32):
    torch.manual_seed(seed)
    return explain(model, torch.randn(1, size, size), 3, classes, 0.1307, 0.3081)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_number_by_hand_is_the_networks(activation, pooling):
    torch.manual_seed(1)
    model = LeNet5(activation=ACTIVATIONS[activation], pooling=POOLINGS[pooling])
    for layer in explained(model).layers:
        arithmetic = layer.arithmetic
        assert abs(arithmetic.result - arithmetic.network) < 1e-4
        if arithmetic.terms:
            products = [t.weight * t.value for t in arithmetic.terms]
            assert arithmetic.total == pytest.approx(math.fsum([*products, arithmetic.bias]))


def test_the_papers_network_is_explained_with_its_table_and_bitmaps():
    found = explained(lenet5_1998())
    assert [layer.name for layer in found.layers] == ["C1", "S2", "C3", "S4", "C5", "F6", "output"]
    assert found.parameters == 60_000
    c3, output = found.layers[2], found.layers[6]
    assert c3.weights[0][0] == "map 0: fed by 0, 1, 2"
    assert len(c3.arithmetic.terms) in (75, 100, 150)
    assert [tuple(weight.shape) for _, weight in output.weights] == [(12, 7)] * 10


def test_the_terms_are_those_that_feed_the_number():
    torch.manual_seed(2)
    model = LeNet5()
    x = torch.randn(1, 32, 32)
    c1 = explain(model, x, 0, DIGITS, 0, 1).layers[0]
    k, row, column = map(int, re.findall(r"\d+", c1.arithmetic.where)[1:])
    values = x[0, row : row + 5, column : column + 5].flatten().tolist()
    assert [term.value for term in c1.arithmetic.terms] == values
    assert [t.weight for t in c1.arithmetic.terms] == model.conv1.weight[k].flatten().tolist()
    assert c1.arithmetic.network == float(model.stages(x[None])["C1"][0, k, row, column].detach())


def test_a_number_that_does_not_come_out_is_no_page():
    with pytest.raises(ExplainError, match=r"^C1: by hand 1, the network has 2$"):
        Arithmetic("C1", [], 0.0, 1.0, "", 1.0, 2.0).checked()
    with pytest.raises(ExplainError):
        Arithmetic("C1", [], 0.0, math.nan, "", math.nan, 1.0).checked()


class Odd(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (LeNet1, "expected a LeNet5 for grey images, got LeNet1"),
        (lambda: LeNet5(in_channels=3), "expected a LeNet5 for grey images"),
        (
            lambda: LeNet5(pooling=lambda: nn.LPPool2d(2, 2)),
            "S2: there is no explanation of LPPool2d",
        ),
    ],
)
def test_what_it_was_not_made_for_is_one_line(make, message):
    with pytest.raises(ExplainError, match=message):
        explained(make())


class Sources(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found, self.tags = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.found += [v for k, v in attributes if k in ("src", "href")]


@pytest.mark.parametrize("make", [LeNet5, lenet5_1998])
def test_the_page_needs_nothing_else_and_shows_every_layer(make):
    text = page(explained(make()))
    parser = Sources()
    parser.feed(text)
    assert "script" not in parser.tags
    assert all(each.startswith(("data:image/png", "#")) for each in parser.found)
    assert "default-src 'none'" in text
    assert re.findall(r'<section id="(\w+)">', text) == [
        *("input", "C1", "S2", "C3", "S4", "C5", "F6", "output", "answer")
    ]
    assert "$" not in text


def test_names_of_classes_are_text():
    classes = [*DIGITS[:3], "<script>alert(1)</script>", *DIGITS[4:]]
    assert "<script" not in page(explained(LeNet5(), classes=classes))


def test_a_run_becomes_a_page(tmp_path, monkeypatch, capsys):
    bench = Bench(tmp_path)
    bench.run("data=digits", "epochs=1", "tracking.pictures=false", "tracking.model=false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", bench.uri)
    path = tmp_path / "page.html"
    assert main(["explain", "latest", "--image", "3", "--output", str(path)]) == 0
    assert "7 layers, every number by hand is the network's" in capsys.readouterr().out
    assert path.read_text().startswith("<!DOCTYPE html>")
    before = path.read_bytes()
    for wrong in (["--image", "360"], ["--image", "-1"]):
        assert main(["explain", "latest", *wrong, "--output", str(path)]) == 2
        assert "expected 0 to 359" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert main(["explain", "latest", "--output", str(tmp_path / "no" / "page.html")]) == 2
