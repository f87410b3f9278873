"""`python -m lenet predict`: which network it takes, what it prints, what it refuses."""

import os

import pytest
import torch

from lenet.__main__ import main
from lenet.commands.predict import load_network, predict
from lenet.data.inputs import Inputs
from lenet.model.layers import ScaledTanh
from lenet.model.lenet5 import LeNet5
from tests.support.drawings import drawn


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    torch.save(LeNet5().state_dict(), tmp_path / "lenet5.pth")
    return tmp_path / "lenet5.pth"


def test_a_file_of_weights_is_a_lenet5_with_the_normalisation_of_mnist(weights):
    model, inputs = load_network(str(weights))
    assert inputs == Inputs(tuple("0123456789"), 0.1307, 0.3081)
    images = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8)
    padded = torch.nn.functional.pad(images[:, None] / 255, (2, 2, 2, 2))
    expected = model((padded - 0.1307) / 0.3081).softmax(1)
    torch.testing.assert_close(predict(model, inputs, images), expected)


def test_weights_take_the_given_activation_and_pooling_and_their_own_classes(tmp_path):
    torch.save(LeNet5(num_classes=47).state_dict(), tmp_path / "w.pt")
    model, inputs = load_network(str(tmp_path / "w.pt"), "scaled_tanh", "max")
    assert isinstance(model.activation, ScaledTanh)
    assert isinstance(model.pool1, torch.nn.MaxPool2d)
    assert inputs.classes[-1] == "46"


@pytest.mark.parametrize(
    "state",
    [
        [1],
        {"a": torch.zeros(2, 2)},
        {"fc3.weight": torch.zeros(10**6, 1)},
        {"fc3.weight": torch.zeros(10, 84)},
    ],
)
def test_a_file_without_the_weights_of_a_lenet5_is_refused(tmp_path, state):
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth: expected"):
        load_network(str(tmp_path / "other.pth"))


def test_a_diverged_or_unsuitable_network_is_refused_in_one_line():
    image, inputs = torch.zeros(1, 28, 28, dtype=torch.uint8), Inputs(("a", "b"), 0, 1)
    with pytest.raises(ValueError, match="NaN"):
        predict(lambda x: torch.full((1, 2), torch.nan), inputs, image)
    with pytest.raises(ValueError, match=r"takes \[1, 1, 32, 32\]"):
        predict(LeNet5(in_channels=3), inputs, image)


def test_the_command_prints_classes_and_probabilities_and_writes_nothing(
    tmp_path, weights, capsys, monkeypatch
):
    drawn().save(tmp_path / "seven.png")
    drawn(ink=255, paper=0).save(tmp_path / "white.png")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.chdir(tmp_path)
    assert main(["predict", "lenet5.pth", "seven.png", "white.png"]) == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    out, err = capsys.readouterr()
    first, shares, second, _ = out.splitlines()
    assert first.startswith("seven.png: ")
    assert second.startswith("white.png: ")
    cells = shares.split()
    assert cells[::2] == list("0123456789")
    assert sum(map(float, cells[1::2])) == pytest.approx(100, abs=0.5)
    best = max(range(10), key=lambda k: float(cells[2 * k + 1]))
    assert first == f"seven.png: {best}  ({cells[2 * best + 1]} %)"
    assert "Traceback" not in err


def test_one_bad_picture_does_not_stop_the_others(tmp_path, weights, capsys):
    drawn().save(tmp_path / "seven.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    good = str(tmp_path / "seven.png")
    assert main(["predict", str(weights), good, str(tmp_path / "bad.png"), good]) == 2
    out, err = capsys.readouterr()
    assert out.count("seven.png: ") == 2
    assert any(line.startswith("error: ") and "bad.png" in line for line in err.splitlines())


def test_show_draws_the_image_that_the_network_reads(tmp_path, weights, capsys):
    drawn().save(tmp_path / "seven.png")
    assert main(["predict", str(weights), str(tmp_path / "seven.png"), "--show"]) == 0
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [len(line) for line in lines] == [4 + 2 * 28] * 28
    assert sum(line.count("█") for line in lines) > 40


def test_missing_weights_are_one_line(tmp_path, capsys):
    assert main(["predict", str(tmp_path / "none.pth"), "seven.png"]) == 2
    os.mkfifo(tmp_path / "pipe")
    assert main(["predict", str(tmp_path / "pipe"), "seven.png"]) == 2
    assert main(["predict", "7" * 300 + ".pth", "seven.png"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line[:7] for line in err.splitlines()] == 3 * ["error: "]
