"""Sweeps from outside: real trainings, killed in many ways, and what is in MLflow afterwards."""

import json
import os
import signal
import time

import pytest

from tests.support.lab import Lab, SweepLab

SEARCH = ["data.val_size=100", "objective=val/accuracy"]


@pytest.fixture
def lab(tmp_path):
    return SweepLab(tmp_path)


@pytest.mark.slow
def test_a_sweep_trains_its_jobs_side_by_side_and_reports(lab):
    out, err = lab.run("epochs=1", "optimizer.momentum=0.5,0.9")
    parent, children = lab.family()
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert sorted(run.info.run_name for run in children) == ["momentum=0.5", "momentum=0.9"]
    for child in children:
        assert "test/accuracy" in child.data.metrics
        assert json.loads(child.data.tags["lenet.sweep.job"]).keys() == {"optimizer.momentum"}
    workers = len(os.sched_getaffinity(0))
    if workers > 1:
        assert {child.data.params["device.threads"] for child in children} == {"1"}
    assert f"2 jobs to run, {workers} at a time" in out
    assert "momentum=0.9" in out.partition("verdict")[2]
    assert f"MLflow run {parent.info.run_id}" in out
    assert err.count(": done in ") == 2


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_was_stopped_goes_on_where_it_was(lab, number):
    command = ["epochs=40", "seed=range(3)", "hydra.launcher.workers=2"]
    process = lab.start(*command)
    lab.wait_for_training(process)
    process.send_signal(number)
    process.communicate()
    out, _ = lab.run(*command)
    assert "unfinished" in out.splitlines()[0]
    parent, children = lab.family()
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 4
    assert any(int(run.data.tags.get("lenet.resumed", "0")) for run in children)
    assert all(lab.steps(run) == list(range(1, 41)) for run in children)


@pytest.mark.slow
def test_a_job_whose_worker_is_killed_goes_on_next_time(lab):
    command = ["epochs=100", "seed=range(2)", "hydra.launcher.workers=1"]
    process = lab.start(*command)
    _, pid = lab.wait_for_training(process)
    os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, out + err
    assert "  its process was ended by SIGKILL (out of memory, or by hand)\n" in out
    _, children = lab.family()
    assert sorted(run.info.status for run in children) == ["FINISHED", "KILLED"]
    (killed,) = [run for run in children if run.info.status == "KILLED"]
    assert killed.data.tags["lenet.error"].startswith("its process was ended by SIGKILL")
    lab.run(*command)
    assert [run.info.status for run in lab.family()[1]] == ["FINISHED"] * 2


@pytest.mark.slow
def test_a_sweep_that_is_running_is_not_started_again(lab):
    command = ["epochs=5000", "seed=range(2)"]  # longer than the second command needs to start
    process = lab.start(*command)
    lab.wait_for_training(process)
    _, err = lab.run(*command, status=2)
    assert f"this sweep is running, in process {process.pid}" in err
    process.terminate()
    process.communicate()
    assert process.returncode == 143
    assert lab.family()[0].info.status == "KILLED"


@pytest.mark.slow
def test_a_killed_search_given_again_has_the_wanted_trials(lab):
    lr = "optimizer.lr=tag(log,interval(1e-3,1e-1))"
    command = ["hydra/sweeper=tpe", *SEARCH, "epochs=2", lr, "seed=range(2)"]
    command += ["hydra.sweeper.trials=4", "hydra.launcher.workers=2"]
    with lab.start(*command) as process:
        while process.poll() is None and len(lab.runs()) < 4:
            time.sleep(0.1)
        process.kill()
        process.communicate()
    lab.run(*command)
    parent, children = lab.family()
    # A job that was killed before it had its data began anew: its first run stays KILLED.
    children = [child for child in children if "lenet.dataset.sha256" in child.data.tags]
    found = sorted((int(c.data.tags["lenet.trial"]), int(c.data.params["seed"])) for c in children)
    # The number of a trial that was killed while its point was drawn is not used again.
    trials = sorted({trial for trial, _ in found})
    assert len(trials) == 4
    assert found == [(trial, seed) for trial in trials for seed in (0, 1)]
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}


@pytest.mark.slow
def test_an_absurd_learning_rate_is_pruned_and_never_sees_the_test_set(lab):
    rates = [0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 1e-7, 2e-7, 3e-7]
    choice = "optimizer.lr=" + ",".join(map(str, rates))
    command = ["hydra/sweeper=random", *SEARCH, "epochs=4", choice, "seed=0,1"]
    lab.run(*command, "hydra.sweeper.trials=25")
    _, children = lab.family()
    pruned = [child for child in children if "lenet.pruned" in child.data.tags]
    assert any(float(child.data.params["optimizer.lr"]) < 1e-6 for child in pruned)
    for child in pruned:
        assert (child.info.status, child.data.params["seed"]) == ("KILLED", "0")
        assert int(child.data.tags["lenet.pruned"]) < 4
        assert not [name for name in child.data.metrics if name.startswith("test/")]
    whole = [child for child in children if "lenet.pruned" not in child.data.tags]
    assert all("test/accuracy" in child.data.metrics for child in whole)
    one = pruned[0].info.run_id
    Lab(lab.folder).run(f"resume={one}")  # as the line about its end says
    run = lab.client.get_run(one)
    assert run.info.status == "FINISHED"
    assert "lenet.pruned" not in run.data.tags
