"""A sweep's jobs: how far their earlier runs came, and how a list of them is printed."""

import pytest

from lenet.sweeps.jobs import DONE, ELSEWHERE, FAILED, NEW, PRUNED, UNFINISHED, Job, match_runs
from lenet.tracking.job import JOB_TAG
from lenet.tracking.names import PRUNED_TAG
from lenet.tracking.read import Summary


def job(seed, **facts):
    return Job({"seed": seed}, {}, f"sha-{seed}", **facts)


def run_of(seed, status, data="digits", run_id="r", **tags):
    tags |= {JOB_TAG: f"sha-{seed}"} | ({"lenet.dataset.sha256": data} if data else {})
    return Summary(run_id, "", status, 0, None, {}, tags, {})


def state_of(*runs, others=()):
    (found,) = match_runs([job(0)], runs, lambda job: "digits", others)
    return found.state, found.run_id


@pytest.mark.parametrize(
    ("run", "state"),
    [
        (run_of(0, "FINISHED"), DONE),
        (run_of(0, "FAILED"), FAILED),
        (run_of(0, "FAILED", None), FAILED),
        (run_of(0, "KILLED"), UNFINISHED),
        (run_of(0, "KILLED", **{PRUNED_TAG: "2"}), PRUNED),
        (run_of(0, "KILLED", None), NEW),  # it had no data yet, so there is nothing to continue
        (run_of(0, "FINISHED", "other digits"), NEW),
    ],
)
def test_a_job_has_the_state_of_its_run_on_the_same_data(run, state):
    assert state_of(run) == (state, None if state == NEW else "r")


def test_of_two_runs_of_a_job_the_finished_one_counts_else_the_newest():
    assert state_of(run_of(0, "FINISHED", run_id="a"), run_of(0, "KILLED"))[1] == "a"
    assert state_of(run_of(0, "KILLED"), run_of(0, "FAILED", run_id="b"))[1] == "b"


def test_a_run_from_elsewhere_counts_where_the_sweep_has_none():
    other = run_of(0, "FINISHED", run_id="o")
    assert state_of(others=[other]) == (ELSEWHERE, "o")
    assert state_of(run_of(0, "KILLED"), others=[other]) == (UNFINISHED, "r")
    assert state_of(run_of(0, "KILLED", None), others=[other]) == (ELSEWHERE, "o")
    assert state_of(others=[run_of(0, "FINISHED", "other digits")]) == (NEW, None)
    assert state_of(others=[run_of(0, "FINISHED"), other]) == (ELSEWHERE, "o")  # the newest
