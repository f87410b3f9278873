"""Test sets are distorted by the stated amount, the same each time, and each is scored."""

import math

import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from lenet.__main__ import main
from lenet.commands.evaluate.corruptions import CORRUPTIONS, corrupted
from lenet.commands.evaluate.ensemble import Ensemble, disagreement
from lenet.commands.evaluate.other_set import load_other
from lenet.commands.evaluate.plots import robustness as picture
from lenet.commands.evaluate.robustness import score_copies, table
from lenet.data.batches import Batches
from lenet.data.form import Form
from lenet.data.inputs import Inputs
from lenet.data.sets import load
from lenet.training.evaluate import evaluate
from tests.support.lab import Bench

EVERY = [(name, severity) for name in CORRUPTIONS for severity in range(1, 6)]


def square(count=40, side=6, at=(13, 13)):
    images = torch.zeros(count, 1, 32, 32, dtype=torch.uint8)
    images[:, :, at[0] : at[0] + side, at[1] : at[1] + side] = 200
    return images


def centre(image):
    """Shapes: (H, W) -> (x, y) of its mass."""
    mass = image.double()
    index = torch.arange(len(image), dtype=torch.float64)
    return torch.stack([mass.sum(0) @ index, mass.sum(1) @ index]) / mass.sum()


@pytest.mark.parametrize(("name", "severity"), EVERY[::4])
def test_a_distortion_is_the_same_for_the_same_seed_and_differs_for_another(name, severity):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 28, 28), dtype=torch.uint8)
    before = images.clone()
    found = corrupted(images, name, severity)
    assert (found.dtype, found.shape) == (torch.uint8, images.shape)
    assert torch.equal(found, corrupted(images, name, severity))
    assert torch.equal(images, before)
    assert not torch.equal(found, images)
    if name not in ("blur", "contrast"):
        assert not torch.equal(found, corrupted(images, name, severity, seed=1))


@pytest.mark.parametrize("severity", [1, 5])
def test_rotation_turns_by_its_angle_in_both_directions(severity):
    degrees = CORRUPTIONS["rotation"][2][severity - 1]
    images = square(at=(13, 21))  # its centre is 8 pixels right of the image's
    angles = []
    for image in corrupted(images, "rotation", severity)[:, 0]:
        x, y = centre(image) - 15.5
        assert math.hypot(x, y) == pytest.approx(8, abs=0.1)
        angles.append(math.degrees(math.atan2(y, x)))
    assert {round(abs(angle) / degrees, 1) for angle in angles} == {1.0}
    assert min(angles) < 0 < max(angles)


@pytest.mark.parametrize("severity", [1, 5])
def test_shift_moves_by_its_distance_in_all_directions(severity):
    pixels = CORRUPTIONS["shift"][2][severity - 1]
    moves = [centre(i) - 15.5 for i in corrupted(square(), "shift", severity)[:, 0]]
    assert [float(m.norm()) for m in moves] == pytest.approx([pixels] * 40, abs=0.05)
    assert {(bool(x > 0), bool(y > 0)) for x, y in moves} == {
        *((True, True), (True, False), (False, True), (False, False))
    }


@pytest.mark.parametrize("severity", [1, 5])
def test_scale_enlarges_and_shrinks_by_its_factor(severity):
    factor = CORRUPTIONS["scale"][2][severity - 1]
    areas = corrupted(square(side=12, at=(10, 10)), "scale", severity).double().sum((1, 2, 3))
    ratios = (areas / (144 * 200)).sqrt()
    for expected, found in ((factor, ratios[ratios > 1]), (1 / factor, ratios[ratios < 1])):
        assert len(found) > 0
        assert found.tolist() == pytest.approx([expected] * len(found), rel=0.06)


@pytest.mark.parametrize("severity", [1, 5])
def test_noise_has_its_standard_deviation(severity):
    deviation = CORRUPTIONS["noise"][2][severity - 1]
    grey = torch.full((200, 1, 32, 32), 128, dtype=torch.uint8)
    noisy = corrupted(grey, "noise", severity)
    inside = ((noisy > 0) & (noisy < 255)).double().mean()  # the rest is clamped
    assert float(inside) == pytest.approx(math.erf(0.5 / deviation / math.sqrt(2)), abs=0.01)


@pytest.mark.parametrize("severity", [1, 5])
def test_blur_turns_a_point_into_a_gaussian_with_its_sigma(severity):
    sigma = CORRUPTIONS["blur"][2][severity - 1]
    image = CORRUPTIONS["blur"][0](square(1, side=1, at=(16, 16)) / 255.0, sigma, torch.Generator())
    column = image[0, 0].sum(dim=0).double()
    index = torch.arange(32, dtype=torch.float64)
    mean = (column @ index) / column.sum()
    spread = ((column @ (index - mean) ** 2) / column.sum()).sqrt()
    assert float(mean) == pytest.approx(16)
    assert float(spread) == pytest.approx(sigma, rel=0.03)  # cut off at three sigmas
    assert float(image.sum()) == pytest.approx(200 / 255, rel=1e-4)


@pytest.mark.parametrize("severity", [1, 5])
def test_contrast_keeps_the_mean_and_scales_the_deviation(severity):
    factor = CORRUPTIONS["contrast"][2][severity - 1]
    images = square(3, side=16)
    found = corrupted(images, "contrast", severity).double()
    assert found.mean((1, 2, 3)).tolist() == pytest.approx(
        images.double().mean((1, 2, 3)).tolist(), abs=0.5
    )
    assert float(found.std() / images.double().std()) == pytest.approx(factor, abs=0.01)


@pytest.fixture(scope="module")
def digits():
    return load("digits", "data")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(1024, 10))


@pytest.fixture(scope="module")
def scores(model, digits):
    return pd.DataFrame(score_copies(model, digits))


def test_the_unchanged_set_is_scored_first_then_each_distorted_copy_once(scores, model, digits):
    assert list(zip(scores.corruption, scores.severity, strict=True)) == [("none", 0), *EVERY]
    clean = evaluate(model, digits.test, nn.functional.cross_entropy)
    assert scores.loss[0] == clean.loss
    images = corrupted(digits.test.images, "noise", 2)
    batches = Batches(images, digits.test.labels, 1000, transform=digits.test.transform)
    noisy = evaluate(model, batches, nn.functional.cross_entropy)
    assert scores.loss[1 + EVERY.index(("noise", 2))] == noisy.loss


def test_the_table_holds_every_score_and_their_mean(scores):
    text = table(scores)
    for values in (scores.accuracy, scores.calibration_error):
        assert all(f"{value:.2%}" in text for value in values)
        assert f"mean of all: {values[1:].mean():.2%}" in text


def test_the_picture_has_six_points_for_each_distortion(scores, digits):
    figure = picture(scores, digits.test.images[0])
    lines = [line for axes in figure.subfigs[0].axes for line in axes.lines]
    assert [len(line.get_xdata()) for line in lines] == [6] * 12
    rows = figure.subfigs[1].axes
    assert len(rows) == 36
    assert [axes.get_ylabel() for axes in rows[::6]][:2] == [
        "rotation\ndegrees",
        "shift\npixels",
    ]
    assert {axes.get_title() for axes in rows[::6]} == {"unchanged"}


def test_the_example_of_scale_becomes_as_much_larger_as_the_number_above_it_says(scores):
    row = picture(scores, square(count=1)[0]).subfigs[1].axes[12:18]
    sides = [(axes.images[0].get_array()[16] > 100).sum() for axes in row]
    assert sides == pytest.approx([6 * k for k in (1, 1.1, 1.25, 1.4, 1.6, 2)], abs=1)
    assert row[-1].get_title() == "2"


@pytest.mark.slow
def test_the_command_scores_a_run_on_its_data_and_logs_picture_and_table(latest, tmp_path, capsys):
    assert main(["evaluate", "latest"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Unchanged test set: accuracy")
    assert out.splitlines()[-1].startswith("Picture and table: ")
    found = [name for name in latest.artifacts(latest.runs()[-1]) if name.startswith("robustness")]
    assert sorted(found) == ["robustness/robustness.csv", "robustness/robustness.png"]
    assert main(["evaluate", "latest", "--output", str(tmp_path / "own")]) == 0
    assert len(pd.read_csv(tmp_path / "own" / "robustness.csv")) == 31
    assert (tmp_path / "own" / "robustness.png").is_file()


# ---- Several networks ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    return [nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)) for _ in range(3)]


def test_an_ensemble_answers_by_the_mean_of_the_probabilities(networks):
    images = 50 * torch.randn(7, 1, 32, 32)
    expected = torch.stack([each(images).double().softmax(1) for each in networks]).mean(0)
    found = Ensemble(networks)(images)
    assert found.softmax(1).double().allclose(expected, atol=1e-6)
    assert found.exp().double().allclose(expected, atol=1e-6)  # normalised: a loss can read it


def test_an_ensemble_is_sure_of_what_its_networks_are_sure_of():
    """Probabilities that float32 cannot hold do not become an infinite loss."""
    sure = nn.Sequential(nn.Flatten(), nn.Linear(1024, 2))
    sure[1].bias.data = torch.tensor([0.0, 200.0])
    logits = Ensemble([sure, sure])(torch.zeros(1, 1, 32, 32)).detach()
    assert float(nn.functional.cross_entropy(logits, torch.tensor([0]))) == pytest.approx(
        200, abs=0.1
    )


def test_disagreement_is_the_mean_over_pairs_of_networks(networks, digits):
    scores = [evaluate(each, digits.test, nn.functional.cross_entropy) for each in networks]
    answers = [score.predicted for score in scores]
    pairs = [(0, 1), (0, 2), (1, 2)]
    expected = sum(float((answers[i] != answers[j]).double().mean()) for i, j in pairs) / 3
    assert disagreement(scores) == pytest.approx(expected)
    assert disagreement([scores[0], scores[0]]) == 0


@pytest.mark.slow
def test_the_command_scores_the_networks_of_a_sweep_together(tmp_path, monkeypatch, capsys):
    lab = Bench(tmp_path)
    lab.run("-m", "data=digits", "epochs=1", "seed=0,1,2", "tracking.pictures=false")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", lab.uri)
    (sweep,) = [run for run in lab.runs() if "lenet.sweep.sha256" in run.data.tags]
    assert main(["evaluate", sweep.info.run_id]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == "network"
    assert sum("seed=" in line for line in lines) == 3
    alone = lines[4].split("all of them")[1].split()[0]
    assert f"Unchanged test set: accuracy {alone}" in "\n".join(lines)
    assert "ensemble/robustness.csv" in lab.artifacts(sweep)
    ids = [run.info.run_id for run in lab.runs()]
    one, other, _ = (each for each in ids if each != sweep.info.run_id)
    output = str(tmp_path / "two")
    assert main(["evaluate", one, other[:8], "--output", output]) == 0
    assert "Two of the networks give different answers to" in capsys.readouterr().out


# ---- Another set -------------------------------------------------------------------------------


def test_another_set_is_read_as_the_network_reads_images(monkeypatch, digits):
    monkeypatch.delenv("LENET_DATA", raising=False)
    inputs = Inputs(tuple("0123456789"), 0.3, 0.2, image_size=40)
    data = load_other(["data=digits"], inputs)
    expected = load("digits", "data", mean=0.3, std=0.2, image_size=40)
    assert data.test.inputs.equal(expected.test.inputs)
    assert data.test.labels.equal(digits.test.labels)


def test_pictures_of_another_form_are_remarked_on(monkeypatch, capsys):
    monkeypatch.delenv("LENET_DATA", raising=False)
    tens = tuple("0123456789")
    load_other(["data=digits"], Inputs(tens, 0.3, 0.2))
    assert capsys.readouterr().err == ""
    load_other(["data=digits"], Inputs(tens, 0.3, 0.2, form=Form(8, 8, 255)))
    assert capsys.readouterr().err == (
        "Warning: digits: its pictures are 28x28 pixels on black, the network learned from 8x8 "
        "pixels on white; expect more mistakes\n"
    )


def test_classes_by_name_are_those_of_the_run(tmp_path):
    """The other set lacks the first class; its second one is still the network's second."""
    for name in ("dog", "emu"):
        (tmp_path / name).mkdir()
        Image.new("L", (20, 20), 90).save(tmp_path / name / "a.png")
    inputs = Inputs(("cat", "dog", "emu"), 0.3, 0.2)
    data = load_other(["data=files", f"data.test={tmp_path}"], inputs)
    assert data.test.labels.tolist() == [1, 2]


@pytest.mark.parametrize(
    ("overrides", "classes", "channels", "words"),
    [
        (["optimizer=adam"], 10, 1, "optimizer=adam: expected data=NAME or data.KEY=VALUE"),
        (["data=digit"], 10, 1, "data=digit: no such option"),
        (["data=digits", "data.size=3"], 10, 1, "data.size"),
        (["data=digits"], 4, 1, "digits: expected at most 4 classes, as the run has, found 10"),
        (["data=digits"], 10, 3, "digits: expected images of 3 channels, as the run has, found 1"),
    ],
)
def test_a_set_that_does_not_fit_is_refused(monkeypatch, overrides, classes, channels, words):
    monkeypatch.delenv("LENET_DATA", raising=False)
    inputs = Inputs(tuple(map(str, range(classes))), 0.3, 0.2, in_channels=channels)
    with pytest.raises(ValueError, match=f"^{words}"):
        load_other(overrides, inputs)


@pytest.mark.slow
def test_the_command_scores_another_set_beside_its_own(latest, tmp_path, capsys, digits):
    table = pd.DataFrame(load("digits", "data").test.images[:, 0, 2:30, 2:30].flatten(1).numpy())
    table.insert(0, "label", digits.test.labels.numpy())
    table.to_csv(tmp_path / "mine.csv", index=False)
    assert main(["evaluate", "latest"]) == 0
    own = capsys.readouterr().out.splitlines()[0]
    path = tmp_path / "mine.csv"
    files = ["--seed", "1", "data=files", f"data.test={path}", "data.name=mine"]
    assert main(["evaluate", "latest", *files]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[:2] == [f"mine: 360 test images, of {path}, {path}", own]
    found = latest.artifacts(latest.runs()[-1])
    assert "robustness_mine/robustness.csv" in found
    assert main(["evaluate", "latest", *files, "--data", str(tmp_path)]) == 2
    assert "--data: says where the run's own set is" in capsys.readouterr().err
