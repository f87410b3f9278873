"""`python -m lenet predict`: which network it takes, what it prints, what it refuses."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lenet.__main__ import main
from lenet.commands.demo.network import open_network
from lenet.commands.demo.server import look_at_picture, show_test_image
from lenet.commands.predict import load_network, predict
from lenet.data.inputs import Inputs
from lenet.model.layers import ScaledTanh
from lenet.model.lenet5 import LeNet5
from tests.support.drawings import drawn
from tests.support.lab import BASE, Bench


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


def test_weights_of_a_network_that_ran_on_several_gpus_are_read(tmp_path, weights):
    model, _ = load_network(str(weights))
    parallel = torch.nn.DataParallel(model).state_dict()
    torch.save({"epoch": 9, "state_dict": parallel}, tmp_path / "theirs.pth")
    found, _ = load_network(str(tmp_path / "theirs.pth"))
    assert found.fc3.weight.equal(model.fc3.weight)


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


def answers(text):
    return pd.read_csv(io.StringIO(text), dtype={"class": str})


def test_a_folder_of_pictures_gives_a_table_on_standard_output(tmp_path, weights, capsys):
    (tmp_path / "scans" / "more").mkdir(parents=True)
    drawn().save(tmp_path / "scans" / "more" / "seven.png")
    two = Image.new("L", (400, 240), 255)
    two.paste(drawn(), (0, 0))
    two.paste(drawn(), (190, 0))
    two.save(tmp_path / "scans" / "two.JPG")
    (tmp_path / "scans" / "notes.txt").write_text("no picture")
    (tmp_path / "scans" / "bad.png").write_bytes(b"no picture")
    assert main(["predict", str(weights), str(tmp_path / "scans")]) == 2
    out, err = capsys.readouterr()
    table = answers(out)
    assert list(table) == ["file", "class", "probability"]
    assert [Path(name).name for name in table["file"]] == ["seven.png", "two.JPG"]
    assert sorted(line.partition(": ")[0] for line in err.splitlines()) == ["Warning", "error"]
    assert main(["predict", str(weights), table["file"][0]]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line.split()[1:] == [table["class"][0], f"({100 * table['probability'][0]:.1f}", "%)"]


def test_a_table_without_labels_is_answered_row_by_row(tmp_path, weights, capsys):
    """Kaggle's test.csv has no labels."""
    images = torch.randint(0, 256, (5, 28, 28), dtype=torch.uint8)
    pixels = pd.DataFrame(images.flatten(1).numpy()).add_prefix("pixel")
    pixels.to_csv(tmp_path / "test.csv", index=False)
    pixels.assign(label=3).to_csv(tmp_path / "train.csv", index=False)
    shares = predict(*load_network(str(weights)), images)
    for name in ("test.csv", "train.csv"):
        assert main(["predict", str(weights), str(tmp_path / name)]) == 0
        table = answers(capsys.readouterr().out)
        assert list(table["file"]) == [f"{tmp_path / name}:{row}" for row in range(1, 6)]
        assert list(table["class"]) == [str(k) for k in shares.argmax(1).tolist()]
        assert table["probability"].tolist() == pytest.approx(shares.amax(1).tolist(), abs=5e-5)


def test_what_can_not_become_a_table_is_one_line(tmp_path, weights, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.csv").write_text("a,b\n1,x\n")
    for arguments, words in (
        ([str(tmp_path / "empty")], "expected pictures (.png, .jpg"),
        ([str(tmp_path / "bad.csv")], "cannot be read as a table"),
        ([str(tmp_path / "empty"), "--show"], "--show: draws single pictures"),
    ):
        assert main(["predict", str(weights), *arguments]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1


def test_missing_weights_are_one_line(tmp_path, capsys):
    assert main(["predict", str(tmp_path / "none.pth"), "seven.png"]) == 2
    os.mkfifo(tmp_path / "pipe")
    assert main(["predict", str(tmp_path / "pipe"), "seven.png"]) == 2
    assert main(["predict", "7" * 300 + ".pth", "seven.png"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line[:7] for line in err.splitlines()] == 3 * ["error: "]


@pytest.mark.slow
def test_pictures_in_colour_are_trained_on_read_shown_and_exported(tmp_path, monkeypatch, capsys):
    """One folder of pictures of two sizes: a class is a colour, one of them is rare."""
    random = np.random.default_rng(0)
    for name, colour, count in (("leaf", (40, 160, 60), 60), ("sea", (30, 60, 200), 20)):
        (tmp_path / "own" / name).mkdir(parents=True)
        for number in range(count):
            shape = (36, 36, 3) if number % 2 else (30, 24, 3)
            pixels = (np.array(colour) + random.normal(0, 40, shape)).clip(0, 255)
            picture = Image.fromarray(pixels.astype(np.uint8))
            picture.save(tmp_path / "own" / name / f"{number}.png")
    lab = Bench(tmp_path)
    sizes = ("data.val_size=0.1", "data.test_size=0.25", "data.batch_size=4")
    lab.run("data=files", "data.train=own", *sizes, "loss.weight=balanced", "epochs=5", *BASE[1:])
    (run,) = lab.runs()
    assert run.data.metrics["test/accuracy"] > 0.9
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", lab.uri)
    assert main(["predict", "latest", "own/sea/1.png"]) == 0
    assert capsys.readouterr().out.startswith("own/sea/1.png: sea")
    assert main(["evaluate", "latest", "data=files", "data.test=own/"]) == 0
    assert "80 test images" in capsys.readouterr().out
    assert main(["export", "latest", "--onnx", "own.onnx"]) == 0
    assert "float32 (N, 3, 32, 32)" in capsys.readouterr().out
    network = open_network("latest")
    content = (tmp_path / "own" / "sea" / "1.png").read_bytes()
    found = json.loads(look_at_picture(content, {0: network}).body)
    assert network.inputs.classes[found["looks"][0]["class"]] == "sea"
    assert np.array(found["looks"][0]["stages"]["input"]).shape == (3 * 32 * 32,)
    picture = Image.open(io.BytesIO(show_test_image(network, 0).body))
    assert (picture.mode, picture.size) == ("RGB", (32, 32))
