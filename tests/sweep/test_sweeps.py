"""Sweeps from outside: real trainings, killed in many ways, and what is in MLflow afterwards."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import time
from random import Random

import psutil
import pytest

from tests.support.lab import PLAIN, Lab

SMALL = ["-m", "data=digits", *PLAIN]
SEARCH = [*SMALL, "data.val_size=100", "objective=val/accuracy"]
long = pytest.mark.skipif(not os.environ.get("LENET_LONG"), reason="takes minutes: LENET_LONG=1")


def family(lab):
    """The one sweep's run, and its jobs'."""
    runs = lab.runs()
    (parent,) = [run for run in runs if "lenet.sweep" in run.data.tags]
    found = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(found) + 1 == len(runs)
    return parent, found


def steps_of(lab, run):
    history = lab.client.get_metric_history(run.info.run_id, "train/loss")
    return sorted(point.step for point in history)


def wait_for_training(lab, process, seconds=300):
    """A job's run that has some epochs in the store."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        for run in lab.runs():
            if "sweep.job" in run.data.tags and len(steps_of(lab, run)) > 3:
                return run
        time.sleep(0.2)
    return pytest.fail("no job trains")


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path)


@pytest.mark.slow
def test_a_sweep_trains_its_jobs_side_by_side_and_reports(lab):
    out, err = lab.run(*SMALL, "epochs=1", "optimizer.momentum=0.5,0.9")
    parent, children = family(lab)
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert sorted(run.info.run_name for run in children) == ["momentum=0.5", "momentum=0.9"]
    for child in children:
        assert "test/accuracy" in child.data.metrics
        assert json.loads(child.data.tags["sweep.job"]).keys() == {"optimizer.momentum"}
    workers = len(os.sched_getaffinity(0))
    if workers > 1:
        assert {child.data.params["device.threads"] for child in children} == {"1"}
    assert f"2 jobs to run, {workers} at a time" in out
    assert "momentum=0.9" in out.partition("verdict")[2]
    assert f"MLflow run {parent.info.run_id}" in out
    assert err.count(": done in ") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGKILL, pytest.param(signal.SIGINT, marks=long)]
)
def test_a_sweep_that_was_stopped_goes_on_where_it_was(lab, number):
    command = [*SMALL, "epochs=40", "seed=range(3)", "hydra.launcher.workers=2"]
    process = lab.start(*command)
    wait_for_training(lab, process)
    process.send_signal(number)
    process.communicate()
    out, _ = lab.run(*command)
    assert "unfinished" in out.splitlines()[0]
    parent, children = family(lab)
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 4
    assert any(int(run.data.tags.get("resumed", "0")) for run in children)
    assert all(steps_of(lab, run) == list(range(1, 41)) for run in children)


@pytest.mark.slow
@long
def test_a_sweep_killed_at_random_moments_ends_with_the_bits_of_one_that_was_not(tmp_path):
    random = Random(5)
    weights = []
    for name, kills in (("killed", 20), ("whole", 0)):
        (tmp_path / name).mkdir()
        lab = Lab(tmp_path / name)
        command = [*SMALL, "epochs=60", "optimizer.momentum=0.5,0.9", "seed=0,1"]
        for _ in range(kills):
            process = lab.start(*command)
            try:
                process.communicate(timeout=random.uniform(3, 12))
            except subprocess.TimeoutExpired:
                children = psutil.Process(process.pid).children(recursive=True)
                random.choice([process, process, *children]).kill()
                process.communicate()
        lab.run(*command)
        parent, children = family(lab)
        done = [run for run in children if run.info.status == "FINISHED"]
        assert parent.info.status == "FINISHED"
        assert len(done) == len({run.info.run_name for run in done}) == 4
        assert all(steps_of(lab, run) == list(range(1, 61)) for run in done)
        # A job that was killed before it had its data starts anew, in another run.
        empty = [(r.info.status, r.data.metrics) for r in children if r not in done]
        assert empty == [("KILLED", {})] * len(empty)
        weights.append({r.info.run_name: r.data.tags["weights.sha256"] for r in done})
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_job_whose_worker_is_killed_goes_on_next_time(lab):
    command = [*SMALL, "epochs=100", "seed=range(2)", "hydra.launcher.workers=1"]
    process = lab.start(*command)
    run = wait_for_training(lab, process)
    os.kill(int(run.data.tags["lenet.process"].split()[1]), signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, out + err
    assert "  its process was ended by SIGKILL (out of memory, or by hand)\n" in out
    _, children = family(lab)
    assert sorted(run.info.status for run in children) == ["FINISHED", "KILLED"]
    (killed,) = [run for run in children if run.info.status == "KILLED"]
    assert killed.data.tags["error"].startswith("its process was ended by SIGKILL")
    lab.run(*command)
    assert [run.info.status for run in family(lab)[1]] == ["FINISHED"] * 2


@pytest.mark.slow
def test_a_sweep_that_is_running_is_not_started_again(lab):
    command = [*SMALL, "epochs=60", "seed=range(4)"]
    process = lab.start(*command)
    wait_for_training(lab, process)
    _, err = lab.run(*command, status=2)
    assert f"this sweep is running, in process {process.pid}" in err
    process.terminate()
    process.communicate()
    assert process.returncode == 143
    assert family(lab)[0].info.status == "KILLED"


def count_trials(lab):
    """How many trials a search under way has stored; to look at them changes nothing."""
    try:
        address = f"file:{lab.folder / 'search.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
            return database.execute("SELECT count(*) FROM trials").fetchone()[0]
    except sqlite3.OperationalError:  # no file, no tables yet, or being written
        return 0


@pytest.mark.slow
def test_a_killed_search_given_again_has_the_wanted_trials(lab):
    lr = "optimizer.lr=tag(log,interval(1e-3,1e-1))"
    command = [*SEARCH, "hydra/sweeper=tpe", "epochs=2", lr, "seed=range(2)"]
    command += ["hydra.sweeper.trials=4", "hydra.launcher.workers=2"]
    with lab.start(*command) as process:
        while process.poll() is None and count_trials(lab) < 3:
            time.sleep(0.1)
        process.kill()
        process.communicate()
    lab.run(*command)
    parent, children = family(lab)
    found = sorted((int(c.data.tags["trial"]), int(c.data.params["seed"])) for c in children)
    # The number of a trial that was killed while its point was drawn is not used again.
    trials = sorted({trial for trial, _ in found})
    assert len(trials) == 4
    assert found == [(trial, seed) for trial in trials for seed in (0, 1)]
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}


@pytest.mark.slow
def test_an_absurd_learning_rate_is_pruned_and_never_sees_the_test_set(lab):
    rates = [0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 1e-7, 2e-7, 3e-7]
    choice = "optimizer.lr=" + ",".join(map(str, rates))
    command = [*SEARCH, "hydra/sweeper=random", "epochs=4", choice, "seed=0,1"]
    lab.run(*command, "hydra.sweeper.trials=25")
    _, children = family(lab)
    pruned = [child for child in children if "pruned" in child.data.tags]
    assert any(float(child.data.params["optimizer.lr"]) < 1e-6 for child in pruned)
    for child in pruned:
        assert (child.info.status, child.data.params["seed"]) == ("KILLED", "0")
        assert int(child.data.tags["pruned"]) < 4
        assert not [name for name in child.data.metrics if name.startswith("test/")]
    whole = [child for child in children if "pruned" not in child.data.tags]
    assert all("test/accuracy" in child.data.metrics for child in whole)
    # A user may still resume it by hand.
    one = pruned[0].info.run_id
    lab.run(f"resume={one}")
    run = lab.client.get_run(one)
    assert run.info.status == "FINISHED"
    assert "pruned" not in run.data.tags
