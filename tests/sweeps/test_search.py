"""A search is a sweep: its trials, its runs in MLflow, and what it refuses."""

import json
import shutil
import statistics

import optuna
import pytest
from optuna.trial import TrialState

from lenet.config.errors import ConfigError
from lenet.sweeps.session import SweepFailed

COMPLETE, PRUNED, FAIL = TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL
SMALL = ["data.val_size=100", "epochs=3"]
OBJECTIVE = [*SMALL, "objective=val/accuracy"]
LR = "optimizer.lr=tag(log,interval(1e-3,1e-1))"


def curve(cfg):
    best = 1 - abs(cfg.optimizer.lr - 0.03) + cfg.seed / 1000
    return [best - 0.2, best - 0.1, best]


@pytest.fixture(autouse=True)
def trial_tables(jobs, empty_trials):
    shutil.copy(empty_trials, jobs.folder)


def names_of_studies(jobs):
    return optuna.get_all_study_names(f"sqlite:///{jobs.folder / 'search.db'}")


def trials_of(jobs):
    (name,) = names_of_studies(jobs)
    storage = f"sqlite:///{jobs.folder / 'search.db'}"
    return optuna.load_study(study_name=name, storage=storage).trials


def test_a_search_is_a_run_with_a_child_for_each_seed_of_each_trial(sweep, jobs, capsys):
    jobs.curve = curve
    command = ["hydra/sweeper=tpe", *OBJECTIVE, LR, "seed=0,1", "hydra.sweeper.trials=3"]
    assert sweep(*command) == max(trial.value for trial in trials_of(jobs))
    points = {(cfg.job.trial, cfg.seed) for cfg in jobs.ran}
    assert points == {(trial, seed) for trial in range(3) for seed in (0, 1)}
    for trial in trials_of(jobs):
        values = [curve(cfg)[-1] for cfg in jobs.ran if cfg.job.trial == trial.number]
        assert (trial.state, trial.value) == (COMPLETE, pytest.approx(statistics.fmean(values)))
    parent, children = jobs.family()
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    tags, best = parent.data.tags, max(trials_of(jobs), key=lambda trial: trial.value)
    assert tags["lenet.sweep"] == "tpe"
    assert json.loads(tags["lenet.sweep.axes"]) == ["optimizer.lr", "seed"]
    assert tags["lenet.best.trial"] == str(best.number)
    assert float(tags["lenet.best.optimizer.lr"]) == best.params["optimizer.lr"]
    assert parent.data.metrics["val/accuracy"] == pytest.approx(best.value)
    assert tags["lenet.best.command"] in capsys.readouterr().out

    sweep(*command)
    assert len(jobs.ran) == 6, "all trials are done"
    sweep(*command, "sweep.dry=true")
    assert "3 trials: 3 done; 0 to come" in capsys.readouterr().out


def test_a_search_that_was_interrupted_continues_its_trials(sweep, jobs):
    def interrupted(cfg):
        if len(jobs.ran) == 2:
            raise KeyboardInterrupt
        return curve(cfg)

    command = ["hydra/sweeper=random", *OBJECTIVE, LR, "hydra.sweeper.trials=3"]
    jobs.curve = interrupted
    with pytest.raises(KeyboardInterrupt):
        sweep(*command)
    before = [trial.params for trial in trials_of(jobs)]
    jobs.curve = curve
    sweep(*command)
    trials = trials_of(jobs)
    assert [trial.state for trial in trials] == [COMPLETE] * 3
    assert [trial.params for trial in trials][:2] == before
    assert [cfg.optimizer.lr for cfg in jobs.ran][1:3] == [before[1]["optimizer.lr"]] * 2
    parent, children = jobs.family()
    assert [run.info.status for run in (parent, *children)] == ["FINISHED"] * 4


def test_a_failed_trial_is_tried_again_only_when_asked(sweep, jobs, capsys):
    def fails(cfg):
        raise ArithmeticError("no disk")

    command = ["hydra/sweeper=random", *OBJECTIVE, LR, "hydra.sweeper.trials=1"]
    jobs.curve = fails
    for _ in range(2):
        with pytest.raises(SweepFailed, match="1 of 1 trials failed"):
            sweep(*command)
        assert "  trial 0: ArithmeticError: no disk\n" in capsys.readouterr().out
    assert len(jobs.ran) == 1
    jobs.curve = curve
    sweep(*command, "sweep.retry_failed=true")
    assert [trial.state for trial in trials_of(jobs)] == [FAIL, COMPLETE]
    assert len(jobs.family()[1]) == 1, "the failed run is continued"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*SMALL, LR], "objective=null: a search needs a measure"),
        ([*SMALL, "objective=test/accuracy", LR], "the test set is scored once, at the end"),
        (OBJECTIVE, "a search needs something to vary"),
        ([*OBJECTIVE, "optimizer.momentum=interval(0,1)"], "optimizer.momentum=1"),
        ([*OBJECTIVE, "epochs=interval(1,8)"], r"whole numbers are int\(interval\(LOW, HIGH\)\)"),
        ([*OBJECTIVE, LR, "hydra.sweeper.trials=0"], "hydra.sweeper.trials=0"),
        ([*OBJECTIVE, LR, "sweep.zip=[seed]"], "sweep.zip: a search has no values"),
        ([*OBJECTIVE, LR, "hydra.sweeper.storage=foo://me:secret@host"], r"foo://me:\*\*\*@host"),
    ],
)
def test_a_mistake_ends_a_search_before_a_job_runs(sweep, jobs, arguments, message):
    with pytest.raises(ConfigError, match=message) as error:
        sweep("hydra/sweeper=tpe", *arguments)
    assert "\n" not in str(error.value)
    assert jobs.ran == []
    assert names_of_studies(jobs) == []
