"""`python -m lenet claims`: the list, a claim run again, its exit status."""

import subprocess
import sys

import pytest

from lenet.__main__ import main
from lenet.commands import claims as command
from lenet.report import claims as report
from tests.support.lab import Lab


def test_the_list_has_a_line_for_each_claim(capsys):
    assert main(["claims"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:2] == ["experiment", "claim"]
    assert [line.split()[0] for line in lines] == list(report.read_claims())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("fats",), "error: fats: expected one of best, "),
        (("fast", "--seeds", "1"), "error: --seeds: expected 2 to 100, got '1'"),
    ],
)
def test_a_mistake_is_one_line(arguments, told, capsys):
    assert main(["claims", *arguments]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(told)
    assert shown.err.count("\n") == 1


@pytest.mark.parametrize(("values", "status"), [((0.9921, 0.9930), 0), ((0.9721, 0.9723), 1)])
def test_the_exit_status_says_whether_the_claim_holds(values, status, capsys, monkeypatch):
    monkeypatch.setattr(command, "run_again", lambda claim, seeds, uri: list(values))
    assert main(["claims", "fast", "--seeds", "2"]) == status
    head, *_, last = capsys.readouterr().out.strip().splitlines()
    assert head.split() == ["runs", "n", "mean", "sd", "95%", "interval"]
    assert last == ("The claim holds." if status == 0 else "The claim does not hold.")


def test_a_run_that_diverges_is_no_mistake_and_holds_no_claim(capsys, monkeypatch):
    def diverge(claim, seeds, uri):
        raise ArithmeticError("1 of 2 jobs failed")

    monkeypatch.setattr(command, "run_again", diverge)
    assert main(["claims", "fast"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "The claim does not hold.\n"
    assert "1 of 2 jobs failed" in shown.err


@pytest.mark.slow
def test_an_experiment_is_run_again_once_with_seeds_that_are_not_recorded(tmp_path):
    lab = Lab(tmp_path)
    first = len(report.read_claims()["digits"].record.values)
    arguments = [sys.executable, "-m", "lenet", "claims", "digits", "--seeds", "2"]
    for _ in range(2):
        done = subprocess.run(arguments, cwd=tmp_path, env=lab.env, text=True, capture_output=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.endswith("The claim holds.\n")
    sweep, *runs = lab.runs()
    assert sweep.data.params.get("experiment") is None
    assert sorted(int(run.data.params["seed"]) for run in runs) == [first, first + 1]
