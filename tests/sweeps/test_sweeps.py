"""Sweeps as a user starts them: jobs that are killed or pruned, and what MLflow holds then."""

import json
import os
import re
import signal

import pytest

from tests.conftest import LIMIT
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
def test_a_sweep_that_was_killed_continues_where_it_stopped(lab):
    command = ["epochs=40", "seed=range(3)", "hydra.launcher.workers=2"]
    process = lab.start(*command)
    lab.wait_for_training(process)
    process.kill()
    process.communicate()
    out, _ = lab.run(*command)
    assert "unfinished" in out.splitlines()[0]
    parent, children = lab.family()
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 4
    assert any(int(run.data.tags.get("lenet.resumed", "0")) for run in children)
    assert all(lab.steps(run) == list(range(1, 41)) for run in children)


@pytest.mark.slow
def test_a_job_whose_worker_was_killed_continues_when_the_sweep_is_given_again(lab):
    command = ["epochs=100", "seed=range(2)", "hydra.launcher.workers=1"]
    process = lab.start(*command)
    _, pid = lab.wait_for_training(process)
    os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1, out + err
    assert "  its process was ended by SIGKILL (out of memory, or by hand)\n" in out
    _, children = lab.family()
    assert sorted(run.info.status for run in children) == ["FINISHED", "KILLED"]
    (killed,) = [run for run in children if run.info.status == "KILLED"]
    assert killed.data.tags["lenet.error"].startswith("its process was ended by SIGKILL")
    lab.run(*command)
    assert [run.info.status for run in lab.family()[1]] == ["FINISHED"] * 2


@pytest.mark.slow
def test_a_job_whose_worker_was_stopped_is_continued_by_another(lab):
    command = ["epochs=100", "seed=range(2)", "hydra.launcher.workers=1", "sweep.patience=15"]
    process = lab.start(*command)
    run, pid = lab.wait_for_training(process)
    os.kill(pid, signal.SIGSTOP)
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, out + err
    assert re.search(r"seed=\d: no sign of life of its process for \d+ s; another worker", err)
    _, children = lab.family()
    assert [run.info.status for run in children] == ["FINISHED"] * 2
    (resumed,) = [each for each in children if "lenet.resumed" in each.data.tags]
    assert resumed.info.run_id == run.info.run_id
    assert lab.steps(resumed) == list(range(1, 101))


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
def test_an_absurd_learning_rate_is_pruned_and_never_sees_the_test_set(lab):
    # The sampler, whose seed is fixed, draws 1e-7 last, after five good rates.
    rates = "optimizer.lr=1,0.03,0.04,1e-7,0.06,0.05,0.02"
    command = ["hydra/sweeper=random", *SEARCH, "epochs=4", rates, "seed=0,1"]
    lab.run(*command, "hydra.sweeper.trials=10")
    _, children = lab.family()
    pruned = [child for child in children if "lenet.pruned" in child.data.tags]
    assert [float(child.data.params["optimizer.lr"]) for child in pruned] == [1e-7]
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
