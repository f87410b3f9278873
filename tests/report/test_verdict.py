"""The verdict: held against scipy and sums by hand, and its promises against simulated sweeps."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit, logit

from lenet.report.layout import fit
from lenet.report.verdict import (
    BEST,
    FAILS,
    NO_RUN,
    NO_SPREAD,
    SAME,
    TOO_FEW,
    WORSE,
    judge,
)
from tests.conftest import LONG, long
from tests.support.sweeps import runs_of

METRIC = "val/accuracy"


def judged(values, seeds=None, metric=METRIC, maximize=True):
    runs = runs_of(values, seeds, metric=metric)
    return judge(runs, ["optimizer.lr", "seed"], metric, maximize)


def row(verdict, setting):
    (found,) = verdict.settings[verdict.settings["optimizer.lr"] == setting].to_dict("records")
    return found


# ---- Numbers ---------------------------------------------------------------------------------


def test_the_interval_of_a_share_is_students_on_the_logit_scale():
    values = [0.981, 0.984, 0.979, 0.985]
    found = row(judged({0.1: values, 0.2: [0.5, 0.6]}), 0.1)
    mean, sd = np.mean(values), np.std(values, ddof=1)
    half = stats.t.ppf(0.975, 3) * sd / (mean * (1 - mean)) / 2
    assert (found["n"], found["mean"]) == (4, pytest.approx(mean))
    ends = [expit(logit(mean) - half), expit(logit(mean) + half)]
    assert [found["low"], found["high"]] == pytest.approx(ends)


@pytest.mark.parametrize("values", [[0.43, 0.57], [0.999, 0.2], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
def test_an_interval_of_accuracies_stays_between_none_and_all(values):
    verdict = judged({1: values, 2: [0.1, 0.2]})
    found, other = row(verdict, 1), row(verdict, 2)
    assert 0 <= found["low"] <= found["mean"] <= found["high"] <= 1
    ends = [x for each in (found, other) for x in (each["difference_low"], each["difference_high"])]
    assert all(-1 <= end <= 1 for end in ends if not math.isnan(end))


def test_two_settings_with_the_same_seeds_are_a_paired_t_test():
    best, other = [0.98, 0.99, 0.97, 0.985], [0.978, 0.985, 0.969, 0.981]
    found = row(judged({1: best, 2: other}), 2)
    expected = stats.ttest_rel(logit(best), logit(other), alternative="greater").pvalue
    assert found["difference"] == pytest.approx(np.mean(best) - np.mean(other))
    assert found["p"] == pytest.approx(expected, abs=0.005)
    assert found["difference_low"] < found["difference"] < found["difference_high"]


def test_with_many_runs_of_equal_spread_the_p_values_are_dunnetts():
    rng = np.random.default_rng(3)
    values = {k: list(rng.normal(-0.25 * k, 1, 150)) for k in range(4)}
    seeds = {k: range(150 * k, 150 * (k + 1)) for k in values}  # none is shared
    verdict = judged(values, seeds, metric="mine")
    for k in (1, 2, 3):
        others = [values[j] for j in values if j != k]
        expected = stats.dunnett(*others, control=values[k], alternative="greater").pvalue
        best = [j for j in values if j != k].index(0)
        assert row(verdict, k)["p"] == pytest.approx(expected[best], abs=0.02)


def test_a_seed_that_is_good_for_all_settings_hides_no_difference():
    luck = np.array([0.0, 2.0, -2.0])
    noise = np.array([[0.01, -0.01, 0.0], [0.0, 0.01, -0.01], [-0.01, 0.0, 0.01]])
    values = {k: list(expit(3 - 0.1 * k + luck + noise[k])) for k in range(3)}
    assert row(judged(values), 2)["verdict"] == WORSE
    alone = {k: range(3 * k, 3 * k + 3) for k in range(3)}
    assert row(judged(values, alone), 2)["verdict"] == SAME


def test_a_loss_is_better_when_it_is_lower():
    values = {1: [0.1, 0.11, 0.1], 2: [0.3, 0.31, 0.32]}
    verdict = judged(values, metric="val/loss", maximize=False)
    assert (row(verdict, 1)["verdict"], row(verdict, 2)["verdict"]) == (BEST, WORSE)
    found = row(verdict, 2)
    assert 0 < found["difference_low"] < found["difference"] < found["difference_high"]


def test_a_difference_that_no_one_can_miss_is_found_with_three_seeds():
    values = {k: [0.95 + 0.001 * k, 0.952, 0.958 - 0.001 * k] for k in range(6)}
    assert row(judged(values | {9: [0.25, 0.27, 0.31]}), 9)["verdict"] == WORSE


def test_one_wild_setting_hides_no_difference_between_the_others():
    values = {k: [0.980, 0.981, 0.9805 + 0.0001 * k] for k in range(6)} | {7: [0.97, 0.972, 0.971]}
    assert row(judged(values), 7)["verdict"] == WORSE
    assert row(judged(values | {9: [0.1, 0.98, 0.5]}), 7)["verdict"] == WORSE


# ---- The promises, by simulation -------------------------------------------------------------


SWEEPS = 400 if LONG else 100


def ruled_out(setting, settings, seeds, sd=1.0, means=0.0, missing=0.0):
    """In which share of simulated sweeps a setting is called worse."""
    rng = np.random.default_rng(1998)
    count = 0
    for _ in range(SWEEPS):
        common = rng.normal(0, 0.5, seeds)
        noise = rng.normal(0, 1, (settings, seeds)) * np.resize(sd, settings)[:, None]
        values = np.resize(means, settings)[:, None] + common + noise
        kept = rng.random(values.shape) >= missing
        kept[:, :2] = True
        verdict = judged(
            {k: values[k, kept[k]] for k in range(settings)},
            {k: np.flatnonzero(kept[k]) for k in range(settings)},
            metric="mine",
        )
        count += row(verdict, setting)["verdict"] == WORSE
    return count / SWEEPS


def at_most(bound):
    """With the error of a simulation: two standard deviations."""
    return bound + 2 * math.sqrt(bound * (1 - bound) / SWEEPS)


SIZES = [
    (16, 3),
    *(pytest.param(*size, marks=long) for size in [(2, 3), (2, 10), (4, 3), (16, 2), (16, 5)]),
    *(pytest.param(*size, marks=long) for size in [(16, 10), (40, 3)]),
]


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "seeds"), SIZES)
def test_the_truly_best_setting_is_seldom_ruled_out(settings, seeds):
    """All settings are equal here, which is the worst case."""
    assert ruled_out(0, settings, seeds) <= at_most(0.05)
    assert ruled_out(0, settings, seeds, missing=0.3) <= at_most(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "seeds"), SIZES)
def test_not_even_where_spreads_differ(settings, seeds):
    noisy = [4.0] + [1.0] * (settings - 1)
    spread = np.linspace(1, 5, settings)
    assert ruled_out(0, settings, seeds, noisy) <= at_most(0.08)
    assert ruled_out(0, settings, seeds, spread) <= at_most(0.08)
    assert ruled_out(settings - 1, settings, seeds, spread) <= at_most(0.08)


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "behind", "power"), [(3, 4.0, 0.9), (5, 2.0, 0.6)])
def test_a_setting_that_is_worse_is_found(seeds, behind, power):
    means = [-behind] + [0.0] * 15
    assert ruled_out(0, 16, seeds, means=means) >= power


# ---- Where there is little to go on ----------------------------------------------------------


def test_one_run_a_setting_gives_no_verdict():
    verdict = judged({1: [0.9], 2: [0.8]})
    assert verdict.best is None
    assert set(verdict.settings["verdict"]) == {TOO_FEW}
    assert verdict.settings["low"].isna().all()


def test_values_without_spread_give_no_verdict():
    verdict = judged({1: [0.9, 0.9, 0.9], 2: [0.8, 0.8, 0.8]})
    assert row(verdict, 2)["verdict"] == NO_SPREAD
    assert row(verdict, 1)["low"] == row(verdict, 1)["high"] == 0.9


def test_a_setting_that_fails_with_some_seeds_is_not_the_best():
    runs = runs_of({1: [0.99, 0.99, 0.99, math.nan, 0.5], 2: [0.80, 0.82, 0.81, 0.83, 0.81]})
    runs.loc[4, "status"] = "FAILED"
    verdict = judge(runs, ["optimizer.lr", "seed"], METRIC, True)
    assert verdict.best == "lr=2"
    found = row(verdict, 1)
    assert (found["verdict"], found["n"], found["failed"]) == (FAILS, 3, 2)


def test_a_run_that_has_not_ended_is_a_gap_and_no_failure():
    runs = runs_of({1: [0.9, 0.91, 0.92], 2: [0.8, 0.81, 0.82]})
    runs.loc[2, "status"] = "KILLED"
    verdict = judge(runs, ["optimizer.lr", "seed"], METRIC, True)
    assert verdict.best == "lr=1"
    assert (row(verdict, 1)["unfinished"], row(verdict, 1)["failed"]) == (1, 0)


def test_the_newest_run_of_a_seed_counts():
    runs = runs_of({1: [0.1, 0.9, 0.91], 2: [0.8, 0.81, 0.82]}, {1: [0, 0, 1], 2: [0, 1, 2]})
    runs.loc[0, "status"] = "FAILED"
    verdict = judge(runs, ["optimizer.lr", "seed"], METRIC, True)
    assert row(verdict, 1)["mean"] == pytest.approx(0.905)
    assert row(verdict, 1)["failed"] == 0


def test_a_setting_without_a_finished_run_comes_last():
    runs = runs_of({1: [0.9, 0.91], 2: [0.8, 0.81]})
    runs.loc[runs["optimizer.lr"] == 2, "status"] = "KILLED"
    verdict = judge(runs, ["optimizer.lr", "seed"], METRIC, True)
    assert list(verdict.settings["verdict"]) == [BEST, NO_RUN]


def test_the_order_of_rows_makes_no_difference():
    rng = np.random.default_rng(2)
    runs = runs_of({k: list(rng.normal(0.9, 0.01, 4)) for k in range(5)})
    one = judge(runs, ["optimizer.lr", "seed"], METRIC, True).settings
    other = judge(runs.sample(frac=1, random_state=3), ["optimizer.lr", "seed"], METRIC, True)
    pd.testing.assert_frame_equal(one, other.settings)


def test_settings_that_share_no_seed_or_too_few_are_compared_all_the_same():
    best, other = [0.98, 0.99, 0.97], [0.90, 0.91, 0.905]
    for seeds in ([7, 8, 9], [2, 3, 4]):
        assert row(judged({1: best, 2: other}, {1: [0, 1, 2], 2: seeds}), 2)["verdict"] == WORSE


# ---- What more seeds would find --------------------------------------------------------------


def test_the_smallest_difference_that_would_be_found_is_named():
    rng = np.random.default_rng(4)
    values = {k: list(expit(rng.normal(4, 0.05, 3))) for k in range(16)}
    power = judged(values).power
    slope = 0.018 * 0.982  # an error of the logit in points of accuracy
    assert power.seeds == 3
    assert 3 * 0.05 * slope < power.difference < 7 * 0.05 * slope
    assert 6 <= power.more_seeds <= 12


@pytest.mark.slow
def test_the_chance_of_a_verdict_is_how_often_it_is_given():
    """With three of ten seeds; over differences of any size, as the chance supposes."""
    rng, chances, found = np.random.default_rng(5), [], []
    for _ in range(SWEEPS):
        values = rng.normal(0, 1, (3, 10)) + rng.normal(0, 0.5, 10)
        values[2] -= rng.uniform(-1, 3)
        now, then = (
            fit(part.ravel(), np.repeat(range(3), part.shape[1]), np.tile(range(part.shape[1]), 3))
            for part in (values[:, :3], values)
        )
        best = int(now.estimates[:2].argmax())
        chances.append(now.chance(best, 2, 0.3))
        found.append(then.behind(int(then.estimates.argmax()), 2)[2] <= 0.05)
    assert np.mean(chances) == pytest.approx(np.mean(found), abs=0.1)
    sure = np.array(chances) < 0.05
    assert np.mean(np.array(found)[sure]) <= at_most(0.05)
