"""Two runs side by side: what is the same is said to be, and what differs is named."""

import pytest

from lenet.diff import compare, main, report
from lenet.store import Stored

STEPS = [(100, 0.5), (200, 0.25)]


def run(run_id="a", params=None, tags=None, **metrics):
    points = {"train/loss_step": STEPS, "train/loss": [(1, 0.5), (2, 0.25)]} | metrics
    own = {"optimizer.lr": "0.01", "tracking.uri": run_id} | (params or {})
    tags = {"git.commit": "c0ffee", "weights.sha256": "w"} | (tags or {})
    return Stored(run_id * 32, f"run {run_id}", "lenet5", "FINISHED", own, tags, points)


def test_the_same_bits_are_told():
    difference = compare(run(), run("b"))
    assert difference.same_bits
    assert difference.points == 4
    assert "The same bits: 4 points and the weights." in report(run(), run("b"), difference)


def test_times_are_not_compared():
    late = {"seconds/total": [(2, 9.0)], "images_per_second": [(1, 5.0)]}
    assert compare(run(), run("b", **late)).same_bits


def test_one_bit_of_one_point_is_found_with_all_its_digits():
    other = run("b", **{"train/loss": [(1, 0.5), (2, 0.25000000000000006)]})
    difference = compare(run(), other)
    assert not difference.same_bits
    assert difference.first == (2, [("train/loss", "0.25", "0.25000000000000006")])


def test_the_first_difference_is_that_of_the_earliest_step():
    other = run(
        "b",
        **{"train/loss_step": [(100, 0.5), (200, 0.2)], "train/loss": [(1, 0.5), (2, 0.2)]},
    )
    step, rows = compare(run(), other).first
    assert (step, rows[0][0]) == (200, "train/loss_step")


def test_a_point_that_is_missing_is_a_difference():
    assert compare(run(), run("b", **{"train/loss": [(1, 0.5)]})).first[0] == 2


def test_other_weights_are_a_difference_though_all_points_are_equal():
    difference = compare(run(), run("b", tags={"weights.sha256": "v"}))
    assert not difference.same_bits
    assert "the weights differ" in report(run(), run("b"), difference)


def test_settings_and_surroundings_are_named_with_both_values():
    other = run("b", params={"optimizer.lr": "0.02"}, tags={"git.commit": "beef"})
    difference = compare(run(), other, ("torch==2.10\ncommand x\n", "torch==2.14\ncommand y\n"))
    assert difference.settings == [("optimizer.lr", "0.01", "0.02")]
    assert difference.surroundings == [("git.commit", "c0ffee", "beef"), ("torch", "2.10", "2.14")]
    text = report(run(), other, difference)
    assert "optimizer.lr  0.01      0.02" in text


def test_nothing_from_outside_reaches_the_terminal_as_it_is():
    other = run("b", params={"optimizer.lr": "\x1b[31mred\n" + "x" * 100})
    text = report(run(), other, compare(run(), other))
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) < 140


@pytest.mark.parametrize("run_id", ["../../etc", "A" * 32, "0" * 31, "\x1b[31m"])
def test_what_is_no_id_is_one_line(tmp_path, monkeypatch, capsys, run_id):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert main([run_id, "0" * 32]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "\x1b" not in said
