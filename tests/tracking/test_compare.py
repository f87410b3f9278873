"""Two runs side by side: what is the same is said to be, and what differs is named."""

import re
from dataclasses import replace

import pytest

from lenet.__main__ import main as lenet
from lenet.tracking.compare import compare, report, verdict
from lenet.tracking.read import Summary
from tests.support.lab import BASE, PLAIN, Bench

STEPS = [(100, 0.5), (200, 0.25)]


def run(run_id="a", params=None, tags=None, **metrics):
    points = {"train/loss_step": STEPS, "train/loss": [(1, 0.5), (2, 0.25)]} | metrics
    own = {"optimizer.lr": "0.01", "tracking.uri": run_id} | (params or {})
    tags = {"mlflow.source.git.commit": "c0ffee", "lenet.weights.sha256": "w"} | (tags or {})
    last = {name: each[-1][1] for name, each in points.items()}
    return Summary(run_id * 32, f"run {run_id}", "FINISHED", 1, 2, own, tags, last, points)


def test_two_runs_with_the_same_bits_differ_in_times_alone():
    late = {"seconds/total": [(2, 9.0)], "images_per_second": [(1, 5.0)]}
    nan = {"val/loss": [(1, float("nan"))]}
    difference = compare(run(**nan), run("b", **late, **nan))
    assert difference.same_bits
    assert difference.points == 5
    assert "The same bits: 5 points and the weights." in report(run(), run("b"), difference)


@pytest.mark.parametrize(
    ("metrics", "when", "first"),
    [
        # All digits, where six don't show the difference.
        (
            {"train/loss": [(1, 0.5), (2, 0.25000000000000006)]},
            "epoch 2",
            ("train/loss", "0.25", "0.25000000000000006"),
        ),
        # A step is before the epoch that it is a part of.
        (
            {"train/loss_step": [(100, 0.5), (200, 0.2)], "train/loss": [(1, 0.4), (2, 0.2)]},
            "optimizer step 200",
            ("train/loss_step", "0.25", "0.2"),
        ),
        ({"train/loss": [(1, 0.5)]}, "epoch 2", ("train/loss", "0.25", "-")),
    ],
)
def test_the_first_difference_is_named_with_both_values(metrics, when, first):
    difference = compare(run(), run("b", **metrics))
    assert not difference.same_bits
    assert difference.first == (when, [first])
    text = report(run(), run("b"), difference)
    assert f"the first difference is at {when}:\n" in text


def test_what_neither_run_has_recorded_is_not_equal():
    a, b = (replace(each, tags={}) for each in (run(), run("b")))
    difference = compare(a, b)
    assert difference.same_bits is None
    assert "the weights were not recorded in both" in report(a, b, difference)
    assert verdict("a", difference).startswith("Not known to be the same as run a.")


@pytest.mark.parametrize(
    ("points", "said"),
    [({}, "no points; the weights are equal"), ({"train/loss": [(1, 0.5)]}, "the weights differ")],
)
def test_what_is_known_of_points_and_weights_is_said_as_it_is(points, said):
    tags = {"lenet.weights.sha256": "v"} if points else {}
    a, b = (replace(each, points=points) for each in (run(), run("b", tags=tags)))
    difference = compare(a, b)
    assert not difference.same_bits
    assert said in report(a, b, difference)
    assert said in verdict("a", difference)


def test_what_the_machine_did_is_no_difference():
    a, b = (
        run(x, **{"system/cpu_utilization_percentage": [(0, y)]}) for x, y in (("a", 3), ("b", 4))
    )
    assert compare(a, b).same_bits


def test_an_environment_that_was_not_recorded_is_not_called_the_same():
    other = run("b", tags={"lenet.weights.sha256": "v"})
    assert "the same" not in verdict("a", compare(run(), other)).splitlines()[-1]
    assert "not recorded" in report(run(), other, compare(run(), other, ("threads 1\n", "")))


def test_settings_and_surroundings_are_named_with_both_values():
    other = run("b", params={"optimizer.lr": "0.02"}, tags={"mlflow.source.git.commit": "beef"})
    difference = compare(run(), other, ("torch==2.10\ncommand x\n", "torch==2.14\ncommand y\n"))
    assert difference.settings == [("optimizer.lr", "0.01", "0.02")]
    assert difference.surroundings == [
        ("git.commit", "c0ffee", "beef"),
        ("torch", "2.10", "2.14"),
    ]
    text = report(run(), other, difference)
    assert "optimizer.lr  0.01      0.02" in text


def test_nothing_from_outside_reaches_the_terminal_as_it_is():
    other = run("b", params={"optimizer.lr": "\x1b[31mred\n" + "x" * 100})
    text = report(run(), other, compare(run(), other))
    assert "\x1b" not in text
    assert max(len(line) for line in text.splitlines()) < 140


@pytest.mark.parametrize("run_id", ["../../etc", "\x1b[31m"])
def test_what_is_no_id_is_one_line(tmp_path, monkeypatch, capsys, run_id):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert lenet(["diff", run_id, "0" * 32]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error[:-1].isprintable()


def test_a_verdict_names_what_differs_first_and_what_may_be_why():
    text = verdict("a", compare(run(), run("b")))
    assert text == "The same bits as run a: 4 points and the weights."
    loss = {"train/loss": [(1, 0.5), (2, 0.3)]}
    other = run("b", tags={"mlflow.source.git.commit": "beef\x1b[31m"}, **loss)
    text = verdict("a", compare(run(), other, ("threads 1\n", "threads 2\n")))
    assert text.splitlines() == [
        "Not the same as run a.",
        "  first at epoch 2: train/loss 0.25 there, 0.3 here",
        "  git.commit: c0ffee there, beef\\x1b[31m here",
        "  threads: 1 there, 2 here",
    ]
    same = ("threads 1\n", "threads 1\n")
    text = verdict("a", compare(run(), run("b", **loss), same))
    assert text.endswith("\n  code, data and environment are the same")


@pytest.mark.slow
def test_a_rerun_says_the_same_bits_and_diff_what_a_seed_changes(tmp_path, monkeypatch, capsys):
    lab, quick = Bench(tmp_path), [*BASE, *PLAIN, "epochs=2", "device.kernels=eager"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", lab.uri)
    first = lab.whole(*quick)
    out, _ = lab.run(f"rerun={first}")
    again = lab.last()
    assert f"The same bits as run {first}: " in out
    tags = lab.client.get_run(again).data.tags
    assert (tags["lenet.rerun.of"], tags["lenet.rerun.same"]) == (first, "true")
    assert lenet(["diff", first, again]) == 0
    assert capsys.readouterr().out.endswith(" points and the weights.\n")
    assert lenet(["diff", first, lab.whole(*quick, "seed=1")]) == 1
    text = capsys.readouterr().out
    assert re.search(r"^  seed +0 +1$", text, re.MULTILINE)
    assert "the first difference is at optimizer step 23:\n" in text
