"""Finished runs that a sweep reuses: which, that they count as its own, and what it still runs."""

import shutil

import pytest

from lenet.report.results import read_sweep
from tests.support.lab import Lab, SweepLab

MOMENTUM = "optimizer.momentum=0.5,0.9"


def points(sweep_id, jobs):
    """Momentum and seed of each run that a report of the sweep counts."""
    runs = read_sweep(sweep_id, jobs.uri).runs
    assert set(runs["status"]) == {"FINISHED"}
    return sorted(zip(runs["optimizer.momentum"], runs["seed"], strict=True))


def test_more_seeds_run_the_new_ones_alone(sweep, jobs, capsys):
    sweep("epochs=1", MOMENTUM, "seed=range(2)")
    sweep("epochs=1", MOMENTUM, "seed=range(3)", "sweep.dry=true")
    assert capsys.readouterr().out.count("  done elsewhere  ") == 4
    sweep("epochs=1", MOMENTUM, "seed=range(3)")
    assert "6 jobs: 4 done elsewhere, 2 new\n" in capsys.readouterr().out
    assert [cfg.seed for cfg in jobs.ran] == [0, 1, 0, 1, 2, 2]
    first, second = jobs.sweeps()
    assert points(first, jobs) == [(m, s) for m in (0.5, 0.9) for s in range(2)]
    assert points(second, jobs) == [(m, s) for m in (0.5, 0.9) for s in range(3)]


def test_a_reused_run_has_a_value_for_each_axis_of_the_new_sweep(sweep, jobs):
    sweep("epochs=1", "seed=range(2)")  # with the default momentum, 0.9
    sweep("epochs=1", MOMENTUM, "seed=range(2)")
    assert len(jobs.ran) == 4
    assert points(jobs.sweeps()[1], jobs) == [(0.5, 0), (0.5, 1), (0.9, 0), (0.9, 1)]


def test_a_number_is_the_same_with_and_without_a_point(sweep, jobs):
    sweep("epochs=1", "optimizer.weight_decay=0.0,1.0", "loss.label_smoothing=0.0")
    sweep("epochs=1", "optimizer.weight_decay=0,1", "loss.label_smoothing=0")
    assert len(jobs.ran) == 2


def test_a_sweep_that_was_interrupted_keeps_the_runs_that_it_reuses(sweep, jobs, capsys):
    sweep("epochs=1", MOMENTUM, "seed=0")

    def interrupted(cfg):
        raise KeyboardInterrupt

    jobs.curve = interrupted
    with pytest.raises(KeyboardInterrupt):
        sweep("epochs=1", MOMENTUM, "seed=0,1")
    jobs.curve = lambda cfg: [0.5]
    capsys.readouterr()
    sweep("epochs=1", MOMENTUM, "seed=0,1")
    counts = "4 jobs: 2 done elsewhere, 1 unfinished, 1 new\n"
    assert capsys.readouterr().out.startswith(counts)
    assert points(jobs.sweeps()[1], jobs) == [(0.5, 0), (0.5, 1), (0.9, 0), (0.9, 1)]


def test_what_is_deleted_of_the_first_sweep_runs_again(sweep, jobs):
    sweep("epochs=1", MOMENTUM, "seed=0")
    first = jobs.sweeps()[0]
    old = read_sweep(first, jobs.uri).runs["run_id"]
    sweep("epochs=1", MOMENTUM, "seed=0,1")
    jobs.client.delete_run(first)
    (second,) = jobs.sweeps()
    assert len(points(second, jobs)) == 4
    jobs.client.delete_run(old[0])
    assert len(points(second, jobs)) == 3
    sweep("epochs=1", MOMENTUM, "seed=0,1")
    assert len(points(second, jobs)) == 4
    assert len(jobs.ran) == 5


def test_a_sweep_without_reuse_is_one_of_its_own(sweep, jobs, capsys):
    sweep("epochs=1", "seed=0,1")
    for _ in range(2):  # then it is done itself
        sweep("epochs=1", "seed=0,1", "sweep.reuse=false")
        assert len(jobs.ran) == 4
    assert "2 jobs: 2 done\n" in capsys.readouterr().out


def test_other_settings_and_repetitions_are_other_jobs(sweep, jobs):
    sweep("epochs=1", "seed=0,1")
    sweep("epochs=2", "seed=0,1")
    sweep("epochs=1", "seed=0,1", "optimizer.lr=0.5")
    sweep("epochs=1", "seed=0,1", "+tags.repeat=1,2")
    assert len(jobs.ran) == 10
    sweep("epochs=1", "seed=0", "+tags.repeat=1,2", "tracking.pictures=false")
    assert len(jobs.ran) == 10


def test_a_search_takes_trials_from_a_finished_grid(sweep, jobs, empty_trials):
    held_out = ["epochs=1", "objective=val/accuracy", "data.val_size=99"]
    jobs.curve = lambda cfg: [cfg.optimizer.momentum]
    sweep(*held_out, MOMENTUM, "seed=0,1")
    shutil.copy(empty_trials, jobs.folder)
    command = [*held_out, "hydra/sweeper=random", "hydra.sweeper.trials=6"]
    best = sweep(*command, "optimizer.momentum=choice(0.5,0.7,0.9)", "seed=0,1")
    assert best == 0.9
    assert [(cfg.optimizer.momentum, cfg.seed) for cfg in jobs.ran[4:]] == [(0.7, 0), (0.7, 1)]
    every = [(m, s) for m in (0.5, 0.7, 0.9) for s in (0, 1)]
    assert points(jobs.sweeps()[1], jobs) == every


@pytest.mark.slow
def test_a_run_of_its_own_is_reused_and_reported(tmp_path):
    lab = SweepLab(tmp_path)
    Lab(tmp_path).run("data=digits", "epochs=1", "seed=1", f"tracking.experiment={tmp_path.name}")
    out, err = lab.run("epochs=1", "seed=0,1,2")
    assert out.startswith("3 jobs: 1 done elsewhere, 2 new\n")
    assert err.count(": done in ") == 2
    assert "test/accuracy of 3 finished runs" in out
