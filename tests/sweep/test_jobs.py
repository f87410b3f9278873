"""A sweep's jobs: how far their earlier runs came, and how a list of them is printed."""

import pytest

from lenet.sweep.display import job_counts, job_table, time_estimate
from lenet.sweep.jobs import DONE, FAILED, NEW, PRUNED, UNFINISHED, Job, match_runs
from lenet.tracking.client import PRUNED_TAG
from lenet.tracking.job import JOB_TAG
from lenet.tracking.read import Summary


def job(seed, **facts):
    return Job({"seed": seed}, {}, f"sha-{seed}", **facts)


def run_of(seed, status, data="digits", run_id="r", **tags):
    tags |= {JOB_TAG: f"sha-{seed}"} | ({"lenet.dataset.sha256": data} if data else {})
    return Summary(run_id, "", status, 0, None, {}, tags, {})


def state_of(*runs):
    (found,) = match_runs([job(0)], runs, lambda job: "digits")
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


def test_the_table_has_a_line_for_each_job():
    lines = job_table([job(0, state=DONE, seconds=2.25), job(1)]).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["0", "seed=0", "done", "2.2"],
        ["1", "seed=1", "new"],
    ]
    assert job_counts([job(0, state=DONE), job(1), job(2)]) == "3 jobs: 1 done, 2 new"


def test_the_time_estimate_counts_whole_rounds():
    assert time_estimate(5, 10.0, 2) == "5 jobs to run, 2 at a time: about 30 s"
    assert time_estimate(5, 10.0, None) == "5 jobs to run: about 50 s of computing"
    assert "no earlier run" in time_estimate(5, float("nan"), 2)
