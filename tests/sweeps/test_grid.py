"""A grid: which jobs it runs, skips, continues and tries again, and which mistakes it refuses."""

import json
import re

import pytest

from lenet.config.errors import ConfigError
from lenet.sweeps.session import SweepFailed
from tests.support.terminal import make_terminal

SEEDS = ["epochs=1", "seed=range(2)"]


def test_a_grid_is_a_run_with_a_child_for_each_job(sweep, jobs, capsys):
    sweep("epochs=1", "optimizer.momentum=0.5,0.9", "seed=range(2)")
    parent, children = jobs.family()
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    assert json.loads(parent.data.tags["lenet.sweep.axes"]) == ["optimizer.momentum", "seed"]
    assert parent.data.tags["lenet.sweep"] == "grid"
    points = [(cfg.optimizer.momentum, cfg.seed) for cfg in jobs.ran]
    assert points == [(0.5, 0), (0.5, 1), (0.9, 0), (0.9, 1)]
    out, err = capsys.readouterr()
    assert out.startswith("4 jobs: 4 new\n")
    assert f"MLflow run {parent.info.run_id}" in out
    assert err.count(": done in ") == 4


def test_a_terminal_shows_what_a_sweep_does_before_its_first_line(sweep, capsys, monkeypatch):
    make_terminal(monkeypatch, 80)
    sweep(*SEEDS, "sweep.dry=true")
    out, err = capsys.readouterr()
    assert "2 jobs to run" in out
    assert "Checking the jobs" in err
    assert "Reading earlier runs" in err
    assert err.count("\n") == err.count("\x1b[1A\x1b[2K")  # each line is erased at its end


def test_the_same_command_runs_only_what_is_not_done(sweep, jobs, capsys):
    sweep(*SEEDS)
    sweep("seed=1,0", "epochs=1", "device.threads=null")  # another order is no other sweep
    assert len(jobs.ran) == 2
    assert "2 jobs: 2 done\nNothing to do: all jobs are done." in capsys.readouterr().out
    assert len(jobs.family()[1]) == 2


def test_a_sweep_that_was_interrupted_continues_where_it_stopped(sweep, jobs, capsys):
    def interrupted(cfg):
        if cfg.seed == 1:
            raise KeyboardInterrupt
        return [0.5]

    jobs.curve = interrupted
    with pytest.raises(KeyboardInterrupt):
        sweep(*SEEDS)
    assert capsys.readouterr().out.endswith("the sweep, give the same command again.\n")
    parent, (first, second) = jobs.family()
    statuses = [run.info.status for run in (parent, first, second)]
    assert statuses == ["KILLED", "FINISHED", "KILLED"]
    jobs.curve = lambda cfg: [0.5]
    sweep(*SEEDS)
    assert jobs.ran[-1].resume == second.info.run_id
    parent, children = jobs.family()
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 3


def test_a_job_fails_alone_and_is_tried_again_when_asked(sweep, jobs, capsys):
    def diverges(cfg):
        if cfg.optimizer.lr == 0.5:
            raise ArithmeticError("loss is nan")
        return [0.9]

    jobs.curve = diverges
    command = ["epochs=1", "optimizer.lr=0.1,0.5,0.2"]
    with pytest.raises(SweepFailed, match="1 of 3 jobs failed"):
        sweep(*command)
    assert "Failed jobs:\n  lr=0.5  ArithmeticError: loss is nan\n" in capsys.readouterr().out
    parent, children = jobs.family()
    assert [run.info.status for run in (parent, *children)] == [
        *("FAILED", "FINISHED", "FAILED", "FINISHED")
    ]
    with pytest.raises(SweepFailed):
        sweep(*command)
    assert "sweep.retry_failed=true" in capsys.readouterr().out
    assert len(jobs.ran) == 3
    jobs.curve = lambda cfg: [0.9]
    sweep(*command, "sweep.retry_failed=true")
    assert jobs.ran[-1].resume == children[1].info.run_id
    assert len(jobs.ran) == 4


def test_on_error_stop_ends_the_sweep_with_the_first_failure(sweep, jobs):
    def fails(cfg):
        raise ArithmeticError("no")

    jobs.curve = fails
    with pytest.raises(SweepFailed, match="1 of 2 jobs failed"):
        sweep(*SEEDS, "sweep.on_error=stop")


def test_jobs_that_differ_in_a_tag_are_repetitions_and_each_is_found_again(sweep, jobs, capsys):
    command = ["epochs=1", "+tags.repeat=1,2", "note='a, b','c = d'"]
    sweep(*command)
    assert [(cfg.tags.repeat, cfg.note) for cfg in jobs.ran] == [
        *((1, "a, b"), (1, "c = d"), (2, "a, b"), (2, "c = d"))
    ]
    sweep("+tags.repeat=2,1", "note='c = d','a, b'", "epochs=1")
    assert "4 jobs: 4 done" in capsys.readouterr().out
    assert len(jobs.ran) == 4


def test_a_given_name_is_the_sweeps_and_jobs_are_named_by_what_differs(sweep, jobs):
    sweep(*SEEDS, "tracking.run_name='my sweep'")
    parent, _ = jobs.family()
    assert parent.info.run_name == "my sweep"
    assert [cfg.tracking.run_name for cfg in jobs.ran] == [None, None]


@pytest.mark.parametrize("names", ["a,b", "run-${seed}"])
def test_names_that_vary_are_those_of_the_jobs(sweep, jobs, names):
    sweep("epochs=1", "seed=0,1", f"tracking.run_name={names}", "sweep.zip=[]")
    assert None not in {cfg.tracking.run_name for cfg in jobs.ran}
    assert jobs.family()[0].info.run_name.startswith("seed=0,1 ")


def test_a_sweeps_run_shows_no_password(sweep, jobs):
    sweep("epochs=1", "seed=0,1", "+tags.at='http://me:secret@host/'")
    assert "secret" not in str(jobs.family()[0].to_dictionary())


def test_values_in_a_file_of_a_sweep_may_be_of_any_type(sweep, jobs):
    params = "hydra.sweeper.params={clip_norm: null, +tags: {a: 'b, c', d: true}}"
    sweep("epochs=1", "seed=0,1", params)
    assert jobs.ran[0].clip_norm is None
    assert jobs.ran[0].tags == {"a": "b, c", "d": True}


def test_zipped_keys_go_through_their_values_side_by_side(sweep, jobs):
    zipped = ["optimizer.lr=0.01,0.1", "seed=0,1", "data.batch_size=16,128"]
    sweep("epochs=1", *zipped, "sweep.zip=[optimizer.lr,data.batch_size]")
    points = [(cfg.optimizer.lr, cfg.data.batch_size, cfg.seed) for cfg in jobs.ran]
    assert points == [(0.01, 16, 0), (0.01, 16, 1), (0.1, 128, 0), (0.1, 128, 1)]


def test_a_dry_sweep_says_what_it_would_do(sweep, jobs, capsys):
    sweep(*SEEDS)
    capsys.readouterr()
    sweep("epochs=1", "seed=range(2)", "sweep.dry=true")
    assert capsys.readouterr().out.count(" done ") == 2
    sweep("epochs=1", "seed=range(3)", "sweep.dry=true")
    assert "1 job to run" in capsys.readouterr().out
    assert len(jobs.ran) == 2


def test_a_dry_sweep_makes_no_store(sweep, jobs, capsys):
    (jobs.folder / "mlflow.db").unlink()
    sweep(*SEEDS, "sweep.dry=true")
    assert capsys.readouterr().out.count(" new") == 2
    assert list(jobs.folder.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["seed=0,0"],
            "two of the jobs are the same; name each value once, and +tags.repeat=1,2 to",
        ),
        (["seed=0,1", "sweep.zip=[epochs]"], "sweep.zip: expected keys that vary, found epochs"),
        (
            ["seed=0,1", "epochs=1,2,3", "sweep.zip=[seed,epochs]"],
            "sweep.zip: expected as many values of each, seed has 2, epochs has 3",
        ),
        (["seed=interval(0,3)"], "hydra/sweeper=tpe"),
        (["optimizer.lr=0.1,-1"], "optimizer.lr=-1"),
        (
            ["seed=0,1", "data.val_size=9,9999"],
            "seed=0 val_size=9999: data.val_size=9999: ",
        ),
        (["device.threads=1,9999"], "threads=9999: device.threads=9999: expected 1 to"),
        (["model.pooling.kernel_size=2,30"], "kernel_size=30: model: Given input size"),
        (
            ["device.kernels=native", "data.image_size=32,28"],
            "image_size=28: device.kernels=native",
        ),
        (
            ["schedule=lecun1998", "schedule.lengths=[1],[2,3,3,4]"],
            "lengths=[1]: schedule: ",
        ),
        (["seed=0,1", "sweep.on_error=maybe"], "sweep.on_error=maybe"),
        (["hydra/launcher=local", "hydra.launcher.workers=0"], "hydra.launcher.workers=0"),
        (["seed=0,1", "hydra.sweeper.params=true"], "hydra.sweeper.params=true: should be"),
    ],
)
def test_a_mistake_ends_a_sweep_before_a_job_runs(sweep, jobs, arguments, message):
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        sweep(*arguments)
    assert "\n" not in str(error.value)
    assert jobs.ran == []


def test_an_option_that_varies_cannot_set_the_launcher(sweep, tmp_path):
    """Hydra has made its own by then, and would not say so."""
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    for name, workers in (("a", 1), ("b", 2)):
        own = f"# @package _global_\nhydra:\n  launcher:\n    workers: {workers}\n"
        (tmp_path / "own" / "experiment" / f"{name}.yaml").write_text(own)
    with pytest.raises(ConfigError, match="what varies sets it, where it comes too late"):
        sweep("hydra/launcher=local", f"hydra.searchpath=[file://{tmp_path}/own]", "experiment=a,b")
