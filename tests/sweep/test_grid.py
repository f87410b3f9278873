"""Sweeps: what a job is, what is known of it, and what whoever gives a sweep sees."""

import json
import os
import signal
import subprocess
import time
from random import Random
from types import SimpleNamespace

import psutil
import pytest

from lenet.config.overrides import columns_of, differing, job_name
from lenet.sweep.jobs import (
    DONE,
    FAILED,
    NEW,
    UNFINISHED,
    Job,
    counted,
    known,
    sweep_sha256,
    table,
    time_left,
)
from lenet.tracking.job import JOB_TAG
from tests.support.lab import Lab

SMALL = ["data=digits", "tracking.pictures=false", "tracking.model=false"]


def job(name, **facts):
    return Job({"seed": name}, {}, f"sha-{name}", **facts)


def run_of(name, status, data="digits", run_id="r"):
    tags = {JOB_TAG: f"sha-{name}"} | ({"dataset.sha256": data} if data else {})
    info = SimpleNamespace(status=status, run_id=run_id)
    return SimpleNamespace(info=info, data=SimpleNamespace(tags=tags, metrics={}))


# ---- What a job is ---------------------------------------------------------------------------


def test_a_job_is_named_by_what_differs():
    axes = ["optimizer.lr", "model/activation", "seed"]
    overrides = ["data=digits", "optimizer.lr=1e-5", "+seed=0", "model/activation=relu"]
    differs = differing(overrides, axes)
    assert differs == {"optimizer.lr": 1e-5, "model/activation": "relu", "seed": 0}
    assert list(differs) == axes
    assert job_name(differs) == "lr=1e-05 activation=relu seed=0"


def test_keys_whose_last_words_are_the_same_are_written_out():
    assert job_name({"data.seed": 1, "seed": 0}) == "data.seed=1 seed=0"


def test_a_sweep_is_its_jobs_in_whatever_order():
    assert sweep_sha256([job(0), job(1)]) == sweep_sha256([job(1), job(0)])
    assert sweep_sha256([job(0)]) != sweep_sha256([job(0), job(1)])


@pytest.mark.parametrize(
    ("status", "state"), [("FINISHED", DONE), ("FAILED", FAILED), ("KILLED", UNFINISHED)]
)
def test_a_job_is_what_its_run_came_to(status, state):
    (found,) = known([job(0)], [run_of(0, status)], lambda job: "digits")
    assert (found.state, found.run_id) == (state, "r")


@pytest.mark.parametrize(("status", "data"), [("FINISHED", "other digits"), ("KILLED", None)])
def test_a_job_with_other_data_or_killed_before_it_had_any_is_new(status, data):
    (found,) = known([job(0)], [run_of(0, status, data)], lambda job: "digits")
    assert (found.state, found.run_id) == (NEW, None)


def test_a_job_that_failed_before_it_had_data_has_failed():
    (found,) = known([job(0)], [run_of(0, "FAILED", None)], lambda job: "digits")
    assert (found.state, found.run_id) == (FAILED, "r")


def test_of_two_runs_of_a_job_the_finished_one_counts_else_the_newest():
    runs = [run_of(0, "FINISHED", run_id="a"), run_of(0, "KILLED", run_id="b")]
    assert known([job(0)], runs, lambda job: "digits")[0].run_id == "a"
    runs = [run_of(0, "KILLED", run_id="a"), run_of(0, "FAILED", run_id="b")]
    assert known([job(0)], runs, lambda job: "digits")[0].run_id == "b"


def test_the_table_has_a_line_a_job():
    lines = table([job(0, state=DONE, seconds=2.25), job(1)]).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["0", "seed=0", "done", "2.2"],
        ["1", "seed=1", "new"],
    ]
    assert counted([job(0, state=DONE), job(1), job(2)]) == "3 jobs: 1 done, 2 new"


def test_the_time_left_counts_whole_rounds():
    assert time_left(5, 10.0, 2) == "5 jobs to run, 2 at a time: about 30 s"
    assert time_left(5, 10.0, None) == "5 jobs to run: about 50 s of computing"
    assert "no run before" in time_left(5, float("nan"), 2)


# ---- What is refused -------------------------------------------------------------------------


def test_values_side_by_side_are_no_product():
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_overrides(["a=range(5000)", "b=range(5000)"])
    assert len(columns_of(parsed, ["a", "b"])["a"]) == 5000
    with pytest.raises(ValueError, match="more than 10,000 runs"):
        columns_of(parsed)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["seed=0,0"], "two of the jobs are the same"),
        (["seed=0,1", "sweep.zip=[epochs]"], "sweep.zip: expected keys that vary, found epochs"),
        (
            ["seed=0,1", "epochs=1,2,3", "sweep.zip=[seed,epochs]"],
            "sweep.zip: expected as many values of each, seed has 2, epochs has 3",
        ),
        (["seed=interval(0,3)"], "hydra/sweeper=tpe"),
        (["optimizer.lr=0.1,-1"], "optimizer.lr=-1"),
        (["seed=0,1", "sweep.on_error=maybe"], "sweep.on_error=maybe"),
        (["seed=0,1", "hydra.launcher.workers=0"], "hydra.launcher.workers=0"),
        (["hydra.launcher.workers=1,2"], "hydra.launcher.workers"),
    ],
)
def test_a_mistake_ends_a_sweep_before_it_begins(tmp_path, arguments, said):
    lab = Lab(tmp_path)
    _, err = lab.run("-m", *SMALL, *arguments, status=2)
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_what_varies_may_not_set_the_launcher(tmp_path):
    """Hydra has taken its own by then, and would not say so."""
    folder = tmp_path / "own" / "experiment"
    folder.mkdir(parents=True)
    for name, workers in (("a", 1), ("b", 2)):
        own = f"# @package _global_\nhydra:\n  launcher:\n    workers: {workers}\n"
        (folder / f"{name}.yaml").write_text(own)
    lab = Lab(tmp_path)
    _, err = lab.run("-cd", str(folder.parent), "-m", *SMALL, "experiment=a,b", status=2)
    assert err.startswith("error: hydra.launcher: what varies sets it, where it comes too late")
    assert [path.name for path in tmp_path.iterdir()] == ["own"]


# ---- From outside ----------------------------------------------------------------------------


def family(lab):
    """The one sweep's run, and its jobs'."""
    (parent,) = [run for run in lab.runs() if "lenet.sweep" in run.data.tags]
    found = [r for r in lab.runs() if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(found) + 1 == len(lab.runs())
    return parent, found


def steps_of(lab, run):
    history = lab.client.get_metric_history(run.info.run_id, "train/loss")
    return [point.step for point in history]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    return Lab(tmp_path_factory.mktemp("sweep"))


GRID = ["-m", *SMALL, "epochs=1", "optimizer.momentum=0.5,0.9", "seed=range(2)"]
NAMES = [f"momentum={momentum} seed={seed}" for momentum in (0.5, 0.9) for seed in (0, 1)]


@pytest.fixture(scope="module")
def first(lab):
    return lab.run(*GRID)


def test_a_sweep_is_a_run_with_a_child_for_each_job(lab, first):
    parent, children = family(lab)
    assert sorted(run.info.run_name for run in children) == NAMES
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    tags = parent.data.tags
    assert json.loads(tags["sweep.axes"]) == ["optimizer.momentum", "seed"]
    assert (tags["lenet.sweep"], tags["sweep.jobs"]) == ("grid", "4")
    assert tags["git.commit"]
    for child in children:
        told = json.loads(child.data.tags["sweep.job"])
        assert str(told["seed"]) == child.data.params["seed"]
        assert str(told["optimizer.momentum"]) == child.data.params["optimizer.momentum"]
        assert "test/accuracy" in child.data.metrics
    out, err = first
    assert "4 jobs: 4 new\n" in out
    assert f"MLflow run {parent.info.run_id}" in out
    assert err.count(": done in ") == 4


def test_jobs_share_the_cores(lab, first):
    _, children = family(lab)
    workers = min(os.cpu_count() or 1, 64)
    share = max(1, len(os.sched_getaffinity(0)) // workers)
    if workers > 1:
        assert {child.data.params["device.threads"] for child in children} == {str(share)}


def test_the_same_command_again_does_nothing_again(lab, first):
    before = [(run.info.run_id, run.info.end_time) for run in family(lab)[1]]
    out, err = lab.run(*GRID)
    assert "4 jobs: 4 done\nNothing to do: all jobs are done." in out
    assert err == ""
    assert [(run.info.run_id, run.info.end_time) for run in family(lab)[1]] == before


def test_a_dry_sweep_says_what_is_done_and_what_is_left(lab, first):
    # Another order and other threads make no other sweep.
    out, _ = lab.run(*GRID[:-2], "optimizer.momentum=0.9,0.5", GRID[-1], "sweep.dry=true")
    assert out.count(" done ") == 4
    out, _ = lab.run(*GRID[:-2], "optimizer.momentum=0.5,0.9", "seed=range(3)", "sweep.dry=true")
    assert out.count(" new") == 6
    assert "6 jobs to run" in out
    assert "about " in out
    assert len(lab.runs()) == 5


def test_a_dry_sweep_leaves_nothing(tmp_path):
    lab = Lab(tmp_path)
    out, _ = lab.run(*GRID, "sweep.dry=true")
    assert [line.split()[-1] for line in out.splitlines()[1:5]] == ["new"] * 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_zipped_keys_go_through_their_values_side_by_side(tmp_path):
    lab = Lab(tmp_path)
    zipped = ["optimizer.lr=0.01,0.1", "data.batch_size=16,128", "seed=0,1"]
    lab.run("-m", *SMALL, "epochs=1", *zipped, "sweep.zip=[optimizer.lr,data.batch_size]")
    params = [run.data.params for run in family(lab)[1]]
    assert sorted((p["optimizer.lr"], p["data.batch_size"], p["seed"]) for p in params) == [
        ("0.01", "16", "0"),
        ("0.01", "16", "1"),
        ("0.1", "128", "0"),
        ("0.1", "128", "1"),
    ]


@pytest.mark.slow
def test_a_job_that_fails_takes_no_other_along_and_is_retried_when_asked(tmp_path):
    lab = Lab(tmp_path)
    command = ["-m", *SMALL, "epochs=2", "optimizer.lr=0.01,1e30,0.02"]
    out, err = lab.run(*command, status=1)
    assert "Failed jobs:\n  lr=1e+30  Diverged: " in out
    assert err.endswith("error: 1 of 3 jobs failed\n")
    parent, children = family(lab)
    assert sorted(run.info.status for run in children) == ["FAILED", "FINISHED", "FINISHED"]
    assert parent.info.status == "FAILED"
    out, err = lab.run(*command, status=1)
    assert "3 jobs: 2 done, 1 failed" in out
    assert "sweep.retry_failed=true" in out
    assert len(lab.runs()) == 4
    out, err = lab.run(*command, "sweep.retry_failed=true", status=1)
    assert "1 jobs to run" in out
    assert len(lab.runs()) == 4, "the same run, gone on with"


@pytest.mark.slow
def test_on_error_stop_ends_the_sweep_with_the_first_failure(tmp_path):
    lab = Lab(tmp_path)
    command = ["-m", *SMALL, "epochs=2", "optimizer.lr=1e30,0.01,0.02", "sweep.on_error=stop"]
    lab.run(*command, "hydra.launcher.workers=1", status=1)
    assert len(family(lab)[1]) == 1
    out, _ = lab.run(*command, "sweep.on_error=continue", "hydra.launcher.workers=1", status=1)
    assert "1 failed, 2 new" in out
    assert len(family(lab)[1]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_sweep_that_was_stopped_goes_on_where_it_was(tmp_path, number):
    lab = Lab(tmp_path)
    command = ["-m", *SMALL, "epochs=40", "seed=range(4)", "hydra.launcher.workers=2"]
    process = lab.start(*command)
    end = time.monotonic() + 90
    while time.monotonic() < end:
        under_way = [r for r in lab.runs() if "sweep.job" in r.data.tags] if process.pid else []
        if any(len(steps_of(lab, run)) > 3 for run in under_way):
            break
        time.sleep(0.2)
    process.send_signal(number)
    process.communicate()
    out, _ = lab.run(*command)
    assert "unfinished" in out or "done" in out.splitlines()[0]
    parent, children = family(lab)
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 5
    assert sorted(run.data.params["seed"] for run in children) == ["0", "1", "2", "3"]
    assert any(int(run.data.tags.get("resumed", "0")) for run in children)
    for run in children:
        assert sorted(steps_of(lab, run)) == list(range(1, 41))


@pytest.mark.slow
def test_a_sweep_killed_at_random_moments_ends_with_the_bits_of_one_that_was_not(tmp_path):
    random = Random(5)
    weights = []
    for name, kills in (("killed", 3 if not os.environ.get("LENET_LONG") else 20), ("whole", 0)):
        (tmp_path / name).mkdir()
        lab = Lab(tmp_path / name)
        command = ["-m", *SMALL, "epochs=60", "optimizer.momentum=0.5,0.9", "seed=0,1"]
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
        assert all(sorted(steps_of(lab, run)) == list(range(1, 61)) for run in done)
        # A job that was killed before it had its data is begun anew, in another run.
        empty = [run for run in children if run not in done]
        assert [(run.info.status, run.data.metrics) for run in empty] == [("KILLED", {})] * len(
            empty
        )
        weights.append({r.info.run_name: r.data.tags["weights.sha256"] for r in done})
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_told_and_its_job_goes_on_next_time(tmp_path):
    lab = Lab(tmp_path)
    command = ["-m", *SMALL, "epochs=200", "seed=range(3)", "hydra.launcher.workers=1"]
    process = lab.start(*command)
    victim = None
    while victim is None:
        for run in lab.runs():
            if "sweep.job" in run.data.tags and len(steps_of(lab, run)) > 3:
                victim = int(run.data.tags["lenet.process"].split()[1])
        time.sleep(0.2)
    os.kill(victim, signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, out + err
    assert "  its process was ended by SIGKILL (out of memory, or by hand)\n" in out
    _, children = family(lab)
    assert sorted(run.info.status for run in children) == ["FINISHED", "FINISHED", "KILLED"]
    (lost,) = [run for run in children if run.info.status == "KILLED"]
    assert lost.data.tags["error"].startswith("its process was ended by SIGKILL")
    out, _ = lab.run(*command)
    assert "2 done" in out
    _, children = family(lab)
    assert [run.info.status for run in children] == ["FINISHED"] * 3


@pytest.mark.slow
def test_a_sweep_that_is_running_is_not_begun_again(tmp_path):
    lab = Lab(tmp_path)
    command = ["-m", *SMALL, "epochs=60", "seed=range(4)"]
    process = lab.start(*command)
    while not any("lenet.sweep" in run.data.tags for run in lab.runs()):
        time.sleep(0.2)
    _, err = lab.run(*command, status=2)
    assert f"this sweep is running, in process {process.pid}" in err
    process.terminate()
    process.communicate()
    assert process.returncode == 143
    assert family(lab)[0].info.status == "KILLED"


@pytest.mark.slow
@pytest.mark.parametrize("time_over", range(10))
def test_four_workers_on_a_new_database(tmp_path, time_over):
    lab = Lab(tmp_path)
    lab.run("-m", *SMALL, "epochs=1", "seed=range(4)", "hydra.launcher.workers=4")
    assert [run.info.status for run in lab.runs()] == ["FINISHED"] * 5


@pytest.mark.slow
def test_a_launcher_that_is_not_ours_makes_the_same_sweep(tmp_path):
    lab = Lab(tmp_path)
    command = ["-m", *SMALL, "epochs=1", "seed=range(2)", "hydra/launcher=basic"]
    lab.run(*command)
    parent, children = family(lab)
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 3
    out, _ = lab.run(*command)
    assert "all jobs are done" in out
