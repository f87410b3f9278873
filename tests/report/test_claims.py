"""Whether new runs of an experiment agree with its claim and with the recorded runs."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from lenet.report.claims import (
    Check,
    Claim,
    Record,
    Sample,
    read_claims,
    read_records,
    write_records,
)

METRIC = "test/accuracy"
VALUES = [0.9921, 0.9926, 0.9930, 0.9925]
OF_VALUES = Sample.of(METRIC, VALUES)
RECORD = Record(4, OF_VALUES.mean, OF_VALUES.sd, 8.0, "mnist", "2 cores", "0123456789", VALUES)
CLAIM = Claim("fast", METRIC, ">=", 0.99, RECORD)


def check(claim, values):
    return Check(claim, Sample.of(METRIC, values))


def test_runs_like_the_recorded_ones_hold_the_claim():
    found = check(CLAIM, [0.9922, 0.9929])
    assert found.holds
    assert not found.is_worse
    assert list(found.lines()) == [
        f"No significant difference from the recorded runs (p {found.p:.2g}).",
        "The mean is within the bound, test/accuracy >= 99.00%; not all of its 95% interval.",
        "The claim holds.",
    ]


def test_the_p_value_is_that_of_students_test_of_the_logits():
    new = [0.9915, 0.9924, 0.9919]
    logits = [np.log(x / (1 - x)) for x in (np.array(new), np.array(VALUES))]
    # The logit of a mean is not quite the mean of the logits.
    assert check(CLAIM, new).p == pytest.approx(stats.ttest_ind(*logits).pvalue, rel=0.02)


def test_runs_within_the_bound_that_are_worse_than_the_recorded_ones_do_not_hold_the_claim():
    found = check(CLAIM, [0.9903, 0.9905, 0.9904])
    assert found.is_worse
    assert not found.holds
    assert next(found.lines()).startswith("Significant difference")


def test_runs_better_than_the_recorded_ones_hold_the_claim():
    found = check(CLAIM, [0.9951, 0.9953, 0.9952])
    assert found.p < 0.001
    assert found.holds


def test_a_mean_outside_the_bound_does_not_hold_the_claim_even_if_nothing_is_recorded():
    found = check(dataclasses.replace(CLAIM, record=None), [0.9897, 0.9899])
    assert found.p is None
    assert not found.holds
    lines = list(found.lines())
    assert lines[0].startswith("The mean is outside the bound")
    assert lines[1:] == ["The claim does not hold."]


@pytest.mark.parametrize(("sign", "holds"), [(">=", True), ("<=", False)])
def test_the_sign_says_which_side_of_the_bound_is_meant(sign, holds):
    claim = dataclasses.replace(CLAIM, sign=sign, record=None)
    assert check(claim, [0.9926, 0.9928]).holds is holds


def test_an_upper_bound_makes_higher_values_the_worse_ones():
    claim = dataclasses.replace(CLAIM, sign="<=", bound=0.999)
    assert check(claim, [0.9951, 0.9953, 0.9952]).is_worse


def test_new_seeds_are_those_after_the_recorded_ones():
    assert list(CLAIM.new_seeds(3)) == [4, 5, 6]
    assert list(dataclasses.replace(CLAIM, record=None).new_seeds(2)) == [0, 1]


def test_records_are_read_as_they_were_written(tmp_path):
    assert read_records(tmp_path) == {}
    write_records(tmp_path, {"fast": RECORD})
    assert read_records(tmp_path) == {"fast": RECORD}


@pytest.mark.parametrize("claim", read_claims().values(), ids=lambda claim: claim.name)
def test_recorded_runs_hold_their_claim(claim):
    if claim.record:
        assert claim.is_met_by(claim.record.mean)
        if values := claim.record.values:
            assert claim.sample == Sample.of(claim.metric, values)
