"""Two sweeps side by side: which settings are shared, and what is said about their difference."""

import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logit

from lenet.__main__ import main as lenet
from lenet.report.findings import Findings, ReportError, analyze
from lenet.report.results import Sweep
from lenet.report.two_sweeps import compare_sweeps
from lenet.report.verdict import judge
from tests.conftest import copy_store
from tests.support.sweeps import grid, make_sweep, runs_of

METRIC = "val/accuracy"


def found(values, first_id=0, parameters=(), **more):
    """What is known of a sweep with these values by learning rate; `more` are further columns."""
    runs = runs_of(values).assign(**more)
    runs["run_id"] = [f"{first_id + i:032x}" for i in range(len(runs))]
    verdict = judge(runs, ["optimizer.lr", "seed"], METRIC, True)
    start = pd.Timestamp(0, unit="s", tz="UTC")
    shape = ([METRIC], list(parameters), [METRIC], runs, 0)
    sweep = Sweep("f" * 32, "1", "x", start, "", "", verdict.axes, METRIC, [], *shape)
    return Findings(sweep, verdict, [], pd.DataFrame(), False, [])


def rows(two):
    return two.settings.set_index("label").to_dict("index")


def test_one_shared_setting_with_the_same_seeds_is_a_paired_t_test():
    a, b = [0.98, 0.99, 0.97, 0.985], [0.978, 0.985, 0.969, 0.981]
    (row,) = rows(compare_sweeps(found({0.1: a}), found({0.1: b}, 100))).values()
    assert row["difference"] == pytest.approx(np.mean(b) - np.mean(a))
    assert row["p"] == pytest.approx(stats.ttest_rel(logit(a), logit(b)).pvalue, abs=0.01)
    assert row["low"] < row["difference"] < row["high"]
    assert (row["low"] < 0 < row["high"]) == (row["p"] > 0.05)


def test_better_and_worse_are_those_of_b():
    a = {0.1: [0.90, 0.91, 0.92], 0.2: [0.95, 0.96, 0.97], 0.3: [0.80, 0.81, 0.82]}
    b = {0.1: [0.95, 0.957, 0.96], 0.2: [0.90, 0.91, 0.921], 0.3: [0.80, 0.81, 0.82], 0.4: [0.5]}
    two = compare_sweeps(found(a), found(b, 100))
    states = {label: row["verdict"] for label, row in rows(two).items()}
    assert states == {
        "lr=0.2": "B is worse",
        "lr=0.1": "B is better",
        "lr=0.3": "no significant difference",
    }
    assert two.alone == ([], ["lr=0.4"])


def test_what_one_sweep_varies_may_be_fixed_in_the_other():
    varied = {"optimizer.momentum": [0.5, 0.5, 0.9, 0.9]}
    runs = runs_of({0.1: [0.9, 0.91, 0.95, 0.96]}, {0.1: [0, 1, 0, 1]}).assign(**varied)
    a = found({0.1: [0.9, 0.91, 0.95, 0.96]})
    verdict = judge(runs, ["optimizer.lr", "optimizer.momentum", "seed"], METRIC, True)
    a = Findings(a.sweep, verdict, [], pd.DataFrame(), False, [])
    b = found({0.1: [0.7, 0.71], 0.2: [0.7, 0.71]}, 100, **{"optimizer.momentum": 0.9})
    two = compare_sweeps(a, b)
    assert list(rows(two)) == ["lr=0.1, momentum=0.9"]
    assert two.alone == (["lr=0.1, momentum=0.5"], ["lr=0.2, momentum=0.9"])


def test_a_setting_whose_runs_are_in_both_sweeps_is_not_tested():
    a = found({0.1: [0.9, 0.91], 0.2: [0.8, 0.81]})
    for first_id in (0, 1):  # all of them, or one of each setting
        two = compare_sweeps(a, found({0.1: [0.9, 0.91], 0.2: [0.8, 0.81]}, first_id))
        assert list(two.settings["verdict"]) == ["the same runs"] * 2


def test_values_that_neither_sweep_varies_are_named_where_they_differ():
    fixed = "optimizer.nesterov"
    a = found({0.1: [0.9, 0.91]}, 0, [fixed, "epochs"], **{fixed: False, "epochs": 1})
    b = found({0.1: [0.9, 0.92]}, 100, [fixed, "epochs"], **{fixed: True, "epochs": 1})
    assert compare_sweeps(a, b).fixed == ["optimizer.nesterov True instead of False"]


def test_sweeps_without_a_shared_setting_are_refused():
    with pytest.raises(ReportError, match=r"share no setting of optimizer\.lr; python -m"):
        compare_sweeps(found({0.1: [0.9, 0.91]}), found({0.2: [0.9, 0.91]}, 100))


@pytest.mark.slow
@pytest.mark.parametrize("noisier", [1, 4])
def test_equal_sweeps_are_called_different_in_one_of_twenty_at_most(noisier):
    rng, wrong, times = np.random.default_rng(0), 0, 150
    for _ in range(times):
        seed_effects = rng.normal(0, 0.1, 3)
        sides = []
        for factor in (1, noisier):
            noise = rng.normal(0, 0.1 * factor, (6, 3)) + seed_effects
            sides.append({k: list(1 / (1 + np.exp(-3 - noise[k]))) for k in range(6)})
        two = compare_sweeps(found(sides[0]), found(sides[1], 100))
        wrong += (two.settings["p"] <= 0.05).any()
    assert wrong / times <= 0.09  # 0.05, and two standard deviations of the count


def test_the_command_prints_a_table_and_writes_it(empty_store, tmp_path, capsys):
    uri = copy_store(empty_store, tmp_path)
    where = {"uri": uri, "artifacts": tmp_path.as_uri()}
    a = make_sweep(jobs=grid(optimizer__lr=[0.01, 0.1, 0.2], seed=[0, 1, 2]), **where)
    b = make_sweep(jobs=grid(optimizer__lr=[0.02, 0.1, 0.2], seed=[0, 1]), name="b", **where)
    assert lenet(["report", a, b, "--uri", uri, "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("val/accuracy of two sweeps, 2 shared settings\n")
    assert "Only in A: lr=0.01.\nOnly in B: lr=0.02.\n" in out
    table = pd.read_csv(tmp_path / "comparison.csv")
    assert list(table["n_b"]) == [2, 2]
    lone = make_sweep(jobs=grid(optimizer__lr=[0.7], seed=[0, 1]), **where)
    capsys.readouterr()
    assert lenet(["report", a, lone, "--uri", uri]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    judged = "^A is judged by val/accuracy, B by test/accuracy; (.*) compares by one$"
    with pytest.raises(ReportError, match=judged) as refused:
        compare_sweeps(analyze(a, uri), analyze(b, uri, "test/accuracy"))
    advice = re.findall(judged, str(refused.value))[0].split()
    assert lenet(["report", a, b, *advice, "--uri", uri, "--output", str(tmp_path)]) == 0
