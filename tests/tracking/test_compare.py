"""Two runs side by side: what is the same is said to be, and what differs is named."""

import math
import re
import subprocess
import sys

import pytest

from lenet.__main__ import main as lenet
from lenet.tracking import compare as diff
from lenet.tracking.client import ROOT, TrackingError
from lenet.tracking.compare import compare, report, rerun_verdict
from lenet.tracking.read import Stored
from tests.support.lab import Bench

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
    assert lenet(["diff", run_id, "0" * 32]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "\x1b" not in said


def test_a_point_that_is_there_twice_is_a_difference():
    other = run("b", **{"train/loss": [(1, 0.5), (2, 0.25), (2, 0.25)]})
    difference = compare(run(), other)
    assert difference.first == (2, [("train/loss", "0.25", "0.25 and 0.25")])


def test_no_number_is_the_same_as_itself():
    points = {"val/loss": [(1, math.nan)]}
    assert compare(run(**points), run("b", **{"val/loss": [(1, float("nan"))]})).same_bits
    assert not compare(run(**points), run("b", **{"val/loss": [(1, 0.5)]})).same_bits


def test_the_first_difference_is_told_by_its_epoch():
    steps = {"train/loss_step": [(100, 0.5), (150, 0.3), (300, 0.2)]}
    other = run("b", **{"train/loss_step": [(100, 0.5), (150, 0.3), (300, 0.1)]})
    difference = compare(run(**steps), other)
    assert difference.when == "optimizer step 300, in epoch 2"
    assert compare(run(), run("b", **{"val/loss": [(1, 0.5)]})).when == "epoch 1"
    whole = report(run(**steps), other, difference)
    assert "the first difference is at optimizer step 300, in epoch 2:\n" in whole


@pytest.fixture
def told(monkeypatch):
    """What the verdict says of two made-up runs."""

    def say(one, other, environments=("", "")):
        runs = {"a": (one, environments[0]), "b": (other, environments[1])}
        tags = {}
        monkeypatch.setattr(diff, "read", lambda run_id, uri: runs[run_id])
        monkeypatch.setattr(diff, "set_tags", lambda run_id, given, uri: tags.update(given))
        return rerun_verdict("a", "b", None), tags["rerun.same"]

    return say


def test_a_verdict_names_what_differs_first_and_what_may_be_why(told):
    text, tag = told(run(), run("b"))
    assert text == "The same bits as run a: 4 points and the weights."
    assert tag == "true"
    other = run("b", tags={"git.commit": "beef\x1b[31m"}, **{"train/loss": [(1, 0.5), (2, 0.3)]})
    text, tag = told(run(), other, ("threads 1\n", "threads 2\n"))
    assert text.splitlines() == [
        "Not the same as run a.",
        "  first at epoch 2: train/loss 0.25 there, 0.3 here",
        "  git.commit: c0ffee there, beef [31m here",
        "  threads: 1 there, 2 here",
    ]
    assert tag == "false"
    text, _ = told(run(), run("b", **{"train/loss": [(1, 0.5), (2, 0.3)]}))
    assert text.endswith("\n  code, data and environment are the same")


def test_a_verdict_that_can_t_be_had_says_how_to_have_it_later(monkeypatch):
    def fail(run_id, uri):
        raise TrackingError("no answer")

    monkeypatch.setattr(diff, "read", fail)
    text = rerun_verdict("a", "b", None)
    assert text == "Not compared yet (no answer); later: python -m lenet diff a b"


# ---- Real runs -------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_rerun_says_the_same_bits_and_diff_what_a_seed_changes(lab):
    first = lab.whole(*QUICK)
    out, _ = lab.run(f"rerun={first}")
    again = lab.last()
    assert f"The same bits as run {first}: " in out
    tags = lab.client.get_run(again).data.tags
    assert (tags["rerun.of"], tags["rerun.same"]) == (first, "true")
    assert side_by_side(lab, first, again, 0).endswith(" points and the weights.\n")
    said = side_by_side(lab, first, lab.whole(*QUICK, "seed=1"), 1)
    assert re.search(r"^  seed +0 +1$", said, re.MULTILINE)
    assert "the first difference is at optimizer step 23, in epoch 1:\n" in said


@pytest.mark.slow
def test_a_rerun_with_more_threads_says_where_it_differs(lab):
    first = lab.whole(*QUICK)
    lab.env = lab.env | {"OMP_NUM_THREADS": "2"}
    out, _ = lab.run(f"rerun={first}")
    if "The same bits" not in out:  # as it is with kernels that add up in the same order
        assert re.search(r"first at optimizer step \d+, in epoch \d: train/loss_step .* there", out)
        assert "device: cpu, 1 threads there, cpu, 2 threads here" in out
        assert "threads: 1 there, 2 here" in out


QUICK = ["data=digits", "tracking.pictures=false", "tracking.model=false", "epochs=2"]
QUICK += ["device.kernels=eager"]


@pytest.fixture
def lab(tmp_path):
    lab = Bench(tmp_path)
    lab.env |= {"OMP_NUM_THREADS": "1"}
    return lab


def side_by_side(lab, one, other, status):
    done = subprocess.run(
        [sys.executable, "-m", "lenet", "diff", one, other],
        env=lab.env | {"PYTHONPATH": str(ROOT)},
        cwd=lab.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout
