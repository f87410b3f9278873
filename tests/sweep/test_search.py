"""Searches: what is tried next, what a trial comes to, and that a killed one goes on."""

import contextlib
import json
import math
import sqlite3
import statistics
import time
from types import SimpleNamespace

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.trial import TrialState

from lenet.config.errors import ConfigError
from lenet.sweep.jobs import Job
from lenet.sweep.search_space import Axis, axis_of, seeds_of
from lenet.sweep.study import STARTUP, Plan, Study
from lenet.tracking.job import SweepJob
from lenet.tracking.objective import Result, is_hopeless, is_maximized
from tests.support.lab import Lab

COMPLETE, FAIL, FEW = TrialState.COMPLETE, TrialState.FAIL, 3


def parsed(text):
    return OverridesParser.create().parse_override(text)


def axis(text, current=None):
    override = parsed(text)
    return axis_of(override.get_key_element(), override, current)


# ---- The space -------------------------------------------------------------------------------


def test_the_override_grammar_says_what_is_searched():
    assert axis("optimizer.lr=interval(0.1,1)") == Axis("optimizer.lr", (), 0.1, 1.0)
    assert axis("a=tag(log,interval(1e-4,1e-1))") == Axis("a", (), 1e-4, 0.1, log=True)
    assert axis("m/activation=choice(tanh,relu)") == Axis("m/activation", ("tanh", "relu"))
    assert axis("a=tanh,relu") == Axis("a", ("tanh", "relu"))
    assert axis("a=[6,16],[8,20]") == Axis("a", ("[6,16]", "[8,20]"))
    assert axis("a=range(1,10,2)") == Axis("a", (), 1, 9, 2)
    assert axis("a=range(0.1,0.6,0.1)") == Axis("a", (), 0.1, 0.5, 0.1)
    assert axis("a=tag(log,range(1,9))") == Axis("a", (), 1, 8, None, True)


def test_an_interval_is_of_whole_numbers_where_the_value_is_one():
    assert isinstance(axis("epochs=interval(1,8)", current=10).low, int)
    assert isinstance(axis("a=int(interval(1,8))", current=None).low, int)
    for text, current in (("a=interval(1,8)", 0.5), ("a=interval(1,8.5)", 3)):
        assert isinstance(axis(text, current).low, float)
    assert isinstance(axis("a=interval(0,1)", current=True).low, float)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a=interval(1,1)", "LOW below HIGH"),
        ("a=interval(3,1)", "LOW below HIGH"),
        ("a=interval(0,float('inf'))", "LOW below HIGH"),
        ("a=interval(0,float('nan'))", "LOW below HIGH"),
        ("a=tag(log,interval(0,1))", "a log scale has no 0"),
        ("a=tag(log,range(0,5))", "a log scale has no 0"),
        ("a=tag(log,range(1,9,2))", "a log scale and a step"),
        ("a=tag(logarithmic,interval(1,2))", "expected tag log, found logarithmic"),
        ("a=tag(log,choice(1,2))", "a log scale is for interval"),
        ("a=1,1", "name each value once"),
    ],
)
def test_what_is_no_space_is_said_in_one_line(text, said):
    with pytest.raises(ConfigError, match=said) as caught:
        axis(text)
    assert "\n" not in str(caught.value)
    assert text in str(caught.value)


def test_seeds_are_a_list_and_never_searched():
    assert seeds_of(parsed("seed=range(3)")) == [0, 1, 2]
    assert seeds_of(parsed("seed=4,2")) == [4, 2]
    assert seeds_of(parsed("seed=7")) == [7]
    for text in ("seed=interval(0,5)", "seed=1,1", "seed=0.5,1", "seed=a,b", "seed=true,false"):
        with pytest.raises(ConfigError, match="seed"):
            seeds_of(parsed(text))


def test_a_value_is_written_so_that_yaml_reads_a_number():
    import yaml

    for value in (1e-05, 0.1, 3e-17, 1.5e20, 0.30000000000000004):
        text = Axis("a", (), 0.0, 1.0).text(value)
        assert yaml.safe_load(text) == value == parsed(f"a={text}").value()
    assert Axis("a", (), 0.1, 0.5, 0.1).text(0.30000000000000004) == "0.3"
    assert Axis("a", (), 1, 8).text(3) == "3"
    assert Axis("a", ("1e-5",)).text("1e-5") == "1e-5"


# ---- When a run is hopeless ------------------------------------------------------------------


def test_the_best_so_far_is_held_against_the_bound_of_its_epoch():
    bounds = [None, 0.5, 0.6]
    assert not is_hopeless([0.1], bounds, maximize=True)
    assert is_hopeless([0.1, 0.2], bounds, maximize=True)
    assert not is_hopeless([0.1, 0.5], bounds, maximize=True)
    assert not is_hopeless([0.7, 0.2], bounds, maximize=True)
    assert not is_hopeless([0.1, 0.1, 0.1, 0.1], bounds, maximize=True)
    assert is_hopeless([0.9, 0.8], bounds, maximize=False)
    assert not is_hopeless([], bounds, maximize=True)


def test_of_a_loss_the_lowest_is_wanted():
    names = ("val/loss", "train/loss", "best/val/loss", "val/accuracy", "best/val/accuracy")
    assert [is_maximized(name) for name in names] == [False, False, False, True, True]


def test_a_result_is_a_number_that_travels_with_its_curve():
    import pickle

    copy = pickle.loads(pickle.dumps(Result(0.5, [0.4, 0.5], pruned=True)))
    assert (copy, copy.curve, copy.pruned) == (0.5, (0.4, 0.5), True)


@pytest.fixture
def opened(tmp_path):
    def study(name="one", sampler="random", seed=0, axes=None, maximize=True):
        axes = axes or [Axis("lr", (), 1e-4, 1.0, log=True), Axis("act", ("tanh", "relu"))]
        url = f"sqlite:///{tmp_path / 'search.db'}"
        return Study(url, name, axes, maximize, sampler, seed)

    return study


def complete(study, curves):
    for curve in curves:
        study.tell(study.ask(), COMPLETE, curve, {0: curve[-1]})


def test_bounds_are_the_median_of_running_means_once_there_are_a_few(opened):
    study = opened()
    curves = [[0.1 * k, 0.2 * k, 0.3 * k, 0.4 * k] for k in range(1, STARTUP + 1)]
    complete(study, curves[:-1])
    assert study.bounds(4) == []
    complete(study, curves[-1:])
    assert study.bounds(4) == [None, pytest.approx(0.45), pytest.approx(0.6)]
    assert study.bounds(2) == []
    study.tell(study.ask(), TrialState.PRUNED, [9.0, 9.0])
    assert study.bounds(4)[1] == pytest.approx(0.45)


# ---- Studies ---------------------------------------------------------------------------------


def test_random_points_depend_on_seed_and_number_alone(opened):
    def points(study, count):
        return [study.texts(study.ask()) for _ in range(count)]

    whole = points(opened("a"), 6)
    assert points(opened("b"), 2) + points(opened("b"), 4) == whole
    assert points(opened("c", seed=1), 6) != whole
    assert len({json.dumps(point) for point in whole}) == 6


def test_a_database_that_cannot_be_used_is_said_without_its_password():
    with pytest.raises(ConfigError, match=r"storage=foo://me:\*\*\*@host: cannot be used"):
        Study("foo://me:secret@host", "a", [Axis("lr", (), 0.0, 1.0)], True, "tpe", 0)


def test_values_of_the_seeds_are_averaged_and_kept(opened):
    study = opened(maximize=False)
    study.tell(study.ask(), COMPLETE, [1.0], {0: 0.25, 3: 0.75})
    study.tell(study.ask(), COMPLETE, [1.0], {0: 0.5, 3: 0.75})
    assert (study.best.number, study.best.value) == (0, 0.5)
    assert study.best.user_attrs["values"] == {"0": 0.25, "3": 0.75}


# ---- Plans -----------------------------------------------------------------------------------


class Runs:
    """Stands for the jobs: `score(texts, seed)` gives a curve, or a text that says why it fails."""

    def __init__(self, study, score, trials=8, seeds=(0, 1), prune=True, known=None):
        self.study, self.score, self.given, self.over = study, score, [], []
        self.known = known or {}

        def make(frozen, seed):
            texts = study.texts(frozen)
            config = {"epochs": 4, "texts": texts, "seed": seed}
            return Job({}, config, json.dumps(config))

        def recall(job):
            return self.known.get(job.sha256)

        self.plan = Plan(study, trials, seeds, prune, make, recall, self.over.append)

    def run(self, workers=2, most=math.inf):
        """Works like the pool; ends after `most` outcomes, as if killed."""
        jobs, busy, ended = self.plan.jobs(), [], 0
        while ended < most:
            while len(busy) < workers and (item := next(jobs, None)) is not None:
                trial, seed, job = item
                self.given.append((trial.frozen.number, seed))
                busy.append((trial, seed, job, list(trial.bounds)))
            if not busy:
                return self
            trial, seed, job, bounds = busy.pop(0)
            ended += 1
            said = self.score(job.config["texts"], seed)
            if isinstance(said, str):
                outcome = said
            else:
                upto = next(
                    (e for e in range(1, 5) if is_hopeless(said[:e], bounds, self.study.maximize)),
                    4,
                )
                outcome = Result(said[upto - 1], said[:upto], pruned=upto < 4)
            self.plan.take(trial, seed, outcome, diverged=str(outcome).startswith("Diverged"))
            self.known[job.sha256] = (outcome, False)
        return self


def good(texts, seed):
    best = 1 - abs(math.log10(float(texts["lr"])) + 2) / 10 + seed / 100
    return [best * part for part in (0.7, 0.8, 0.9, 1.0)]


def test_a_trial_is_a_job_for_each_seed_and_comes_to_their_mean(opened):
    runs = Runs(opened(), good, trials=4).run()
    assert sorted(runs.given) == [(n, seed) for n in range(4) for seed in (0, 1)]
    for trial in runs.study.trials:
        texts = runs.study.texts(trial)
        expected = statistics.fmean(good(texts, seed)[-1] for seed in (0, 1))
        assert (trial.state, trial.value) == (COMPLETE, pytest.approx(expected))
        assert len(trial.intermediate_values) == 4


def test_a_hopeless_trial_is_pruned_and_its_other_seeds_not_run(opened):
    def score(texts, seed):
        return good(texts, seed) if len(runs.study.trials) <= 6 else [0.0, 0.0, 0.0, 0.0]

    runs = Runs(opened(), lambda *args: score(*args), trials=10)
    runs.run(workers=1)
    pruned = [t for t in runs.study.trials if t.state == TrialState.PRUNED]
    assert len(pruned) == 4
    assert all(trial.last_step == 2 for trial in pruned)
    assert [seed for number, seed in runs.given if number >= 6] == [0] * 4
    assert len(runs.over) == len(runs.study.trials) == 10


def test_nothing_is_pruned_where_that_is_not_wanted(opened):
    runs = Runs(opened(), lambda texts, seed: [0.0] * 4, trials=8, prune=False).run()
    assert {trial.state for trial in runs.study.trials} == {COMPLETE}


def test_a_trial_that_diverged_is_avoided_not_failed(opened):
    runs = Runs(opened(), lambda texts, seed: "Diverged: nan", trials=3).run()
    assert [trial.state for trial in runs.study.trials] == [TrialState.PRUNED] * 3
    assert runs.study.best is None


@pytest.mark.parametrize("ended", range(1, 12))
def test_a_killed_search_goes_on_to_the_wanted_number_with_none_doubled(opened, ended):
    uninterrupted = Runs(opened("whole"), good, trials=6, prune=False).run(workers=3)
    first = Runs(opened("cut"), good, trials=6, prune=False).run(workers=3, most=ended)
    then = Runs(opened("cut"), good, trials=6, prune=False, known=first.known).run(workers=3)
    trials = then.study.trials
    assert [trial.state for trial in trials] == [COMPLETE] * 6
    expected = [(t.params, t.value) for t in uninterrupted.study.trials]
    assert [(t.params, t.value) for t in trials] == expected
    done_twice = set(first.given[:ended]) & set(then.given)
    assert not done_twice
    assert Runs(opened("cut"), good, trials=6).run().given == []
    assert len(Runs(opened("cut"), good, trials=8, prune=False).run().given) == 4


def test_a_point_that_was_not_drawn_whole_is_drawn_to_its_end(opened):
    study = opened()
    study._study.ask().suggest_float("lr", 1e-4, 1.0, log=True)
    runs = Runs(opened(), good, trials=2).run()
    assert [trial.state for trial in runs.study.trials] == [COMPLETE] * 2
    assert all(set(trial.params) == {"lr", "act"} for trial in runs.study.trials)


def test_a_failed_trial_counts_and_is_tried_again_only_if_wanted(opened):
    broken = Runs(opened(), lambda texts, seed: "no disk", trials=2).run(workers=1)
    assert [trial.state for trial in broken.study.trials] == [FAIL, FAIL]
    assert [seed for _, seed in broken.given] == [0, 0]
    assert Runs(opened(), good, trials=2).run().given == []
    study = opened()
    study.retry()
    again = Runs(study, good, trials=2).run()
    assert [trial.state for trial in study.counted()] == [COMPLETE, COMPLETE]
    points = [study.texts(trial) for trial in study.trials]
    assert points[2:] == points[:2]
    assert [trial.user_attrs["why"] for trial in study.trials[:2]] == ["no disk"] * 2
    assert len(again.given) == 4


def test_a_point_drawn_twice_is_run_once(opened):
    study = opened(axes=[Axis("lr", ("0.1", "0.01"))])
    runs = Runs(study, good, trials=12, prune=False).run(workers=4)
    assert len(study.trials) == 12
    assert len(runs.given) == 4
    for lr in ("0.1", "0.01"):
        assert len({trial.value for trial in study.trials if trial.params["lr"] == lr}) == 1


def test_tpe_finds_more_than_random_draws(opened):
    best = {
        sampler: Runs(opened(sampler, sampler=sampler), good, trials=40, seeds=[0])
        .run(workers=2)
        .study.best.value
        for sampler in ("tpe", "random")
    }
    assert best["tpe"] > 0.99
    assert best["tpe"] >= best["random"]


# ---- From outside ----------------------------------------------------------------------------


SMALL = ["data=digits", "data.val_size=100", "tracking.pictures=false", "tracking.model=false"]
LR = "optimizer.lr=tag(log,interval(1e-3,1e-1))"
SEARCH = ["-m", "hydra/sweeper=tpe", *SMALL, "objective=val/accuracy"]


@pytest.fixture
def lab(tmp_path) -> Lab:
    return Lab(tmp_path)


def trials_of(lab):
    (summary,) = optuna.get_all_study_summaries(f"sqlite:///{lab.folder / 'search.db'}")
    study = optuna.load_study(
        study_name=summary.study_name, storage=f"sqlite:///{lab.folder / 'search.db'}"
    )
    return study.trials


def told_trials(lab):
    """How many trials a search under way has stored; looking makes and changes nothing."""
    try:
        address = f"file:{lab.folder / 'search.db'}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True)) as database:
            return database.execute("SELECT count(*) FROM trials").fetchone()[0]
    except sqlite3.OperationalError:  # no file, no tables yet, or being written
        return 0


def family(lab):
    runs = lab.runs()
    (parent,) = [run for run in runs if "lenet.sweep" in run.data.tags]
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) + 1 == len(runs)
    return parent, children


def means(children):
    """The objective's mean over the seeds of each trial, from MLflow alone."""
    values = {}
    for child in children:
        tags = child.data.tags
        job = json.loads(tags["sweep.job"])
        assert job["optimizer.lr"] == float(child.data.params["optimizer.lr"])
        values.setdefault(int(tags["trial"]), {})[job["seed"]] = child.data.metrics["val/accuracy"]
    return {number: statistics.fmean(of.values()) for number, of in values.items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([*SMALL, LR], "objective=null: a search needs a measure"),
        ([*SMALL, "objective=test/accuracy", LR], "the test set is scored once, at the end"),
        ([*SMALL, "objective=val/accuracy"], "a search needs something to vary"),
        (
            [*SMALL, "objective=val/loss", "optimizer.lrr=interval(0,1)"],
            "did you mean optimizer.lr",
        ),
        ([*SMALL, "objective=val/loss", "optimizer.lr=choice()"], "optimizer.lr=choice()"),
        (
            [*SMALL, "objective=val/loss", "optimizer.momentum=interval(0,1)"],
            "optimizer.momentum=1",
        ),
        ([*SMALL, "objective=val/loss", "model/pooling=avg,mux"], "model/pooling=mux"),
        ([*SMALL, "objective=val/loss", LR, "hydra.sweeper.trials=0"], "hydra.sweeper.trials=0"),
    ],
)
def test_a_mistake_ends_a_search_before_it_begins(lab, arguments, said):
    _, err = lab.run("-m", "hydra/sweeper=tpe", *arguments, status=2)
    assert said in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not (lab.folder / "search.db").exists()


@pytest.mark.slow
def test_an_interval_is_not_for_the_grid(lab):
    _, err = lab.run("-m", *SMALL, LR, status=2)
    assert "take choice or range, or hydra/sweeper=tpe" in err


@pytest.mark.slow
def test_a_killed_search_given_again_has_the_wanted_trials_and_the_true_best(lab):
    command = [*SEARCH, "epochs=2", LR, "seed=range(2)", "hydra.sweeper.trials=5"]
    command.append("hydra.launcher.workers=2")
    with lab.start(*command) as process:
        while process.poll() is None and told_trials(lab) < FEW:
            time.sleep(0.1)
        process.kill()
        process.communicate()
    before = [trial.params for trial in trials_of(lab)]
    out, _ = lab.run(*command)
    trials = trials_of(lab)
    assert [trial.state for trial in trials] == [COMPLETE] * 5
    assert [trial.params for trial in trials][: len(before)] == before
    parent, children = family(lab)
    assert sorted((int(c.data.tags["trial"]), int(c.data.params["seed"])) for c in children) == [
        (trial, seed) for trial in range(5) for seed in (0, 1)
    ]
    assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
    found = means(children)
    assert {trial.number: trial.value for trial in trials} == pytest.approx(found)
    best = max(found, key=lambda number: found[number])
    tags = parent.data.tags
    assert found[int(tags["best.trial"])] == found[best] == parent.data.metrics["val/accuracy"]
    assert tags["best.command"] in out
    assert (
        float(tags["best.optimizer.lr"]) == trials[int(tags["best.trial"])].params["optimizer.lr"]
    )
    assert (tags["lenet.sweep"], tags["sweep.direction"]) == ("tpe", "maximize")
    assert json.loads(tags["sweep.axes"]) == ["optimizer.lr", "seed"]
    out, _ = lab.run(*command, "sweep.dry=true")
    assert "5 trials: 5 done; 0 to come" in out
    lab.run(*command)
    assert len(lab.runs()) == 11


@pytest.mark.slow
def test_an_absurd_learning_rate_is_pruned_and_never_sees_the_test_set(lab):
    learn, absurd = [0.02, 0.03, 0.04, 0.05, 0.06, 0.07, 0.08, 0.09], [1e-7, 2e-7, 3e-7]
    choice = "optimizer.lr=" + ",".join(map(str, [*learn, *absurd]))
    command = ["-m", "hydra/sweeper=random", *SMALL, "objective=val/accuracy", "epochs=4"]
    lab.run(*command, choice, "seed=0,1", "hydra.sweeper.trials=30")
    trials = trials_of(lab)
    _, children = family(lab)
    pruned = [child for child in children if "pruned" in child.data.tags]
    assert any(float(child.data.params["optimizer.lr"]) < 1e-6 for child in pruned)
    for child in pruned:
        assert child.info.status == "KILLED"
        assert child.data.params["seed"] == "0"
        assert not [name for name in child.data.metrics if name.startswith("test/")]
        assert int(child.data.tags["pruned"]) < 4
        trial = trials[int(child.data.tags["trial"])]
        assert (trial.state, trial.last_step) == (TrialState.PRUNED, int(child.data.tags["pruned"]))
    whole = [child for child in children if "pruned" not in child.data.tags]
    assert all("test/accuracy" in child.data.metrics for child in whole)
    # Whoever wants to know all the same goes on with it.
    one = pruned[0].info.run_id
    lab.run(f"resume={one}")
    run = lab.client.get_run(one)
    assert run.info.status == "FINISHED"
    assert "pruned" not in run.data.tags


@pytest.mark.slow
def test_random_draws_come_again_by_their_seed(tmp_path):
    found = []
    for name, workers in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        lab = Lab(tmp_path / name)
        command = ["-m", "hydra/sweeper=random", *SMALL, "objective=val/loss", "epochs=1", LR]
        command += ["hydra.sweeper.trials=3", "hydra.sweeper.seed=7", "device.threads=1"]
        lab.run(*command, f"hydra.launcher.workers={workers}")
        found.append([(trial.params, trial.value) for trial in trials_of(lab)])
        assert family(lab)[0].data.tags["sweep.direction"] == "minimize"
    assert found[0] == found[1]


def test_without_optuna_one_line_says_what_to_install():
    import subprocess
    import sys

    code = "import sys; sys.modules['optuna'] = None; import lenet.sweep.study"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.rstrip().endswith("a search needs Optuna; pip install -e '.[sweep]'")


def test_a_run_that_is_pruned_says_so(tmp_path, composed, capsys):
    from lenet.config.check import check
    from lenet.tracking import client as store
    from lenet.tracking import run as tracking
    from lenet.tracking.settings import Settings
    from lenet.training.progress import Epoch

    cfg = composed("data=digits", "data.val_size=100", "objective=val/loss")
    cfg.job = SweepJob("0" * 32, "1" * 64, trial=3, bounds=(None, 0.5)).plain()
    uri, folder = f"sqlite:///{tmp_path / 'mlflow.db'}", str(tmp_path / "waiting")
    run = tracking.Run(Settings(check(cfg), [], time.time()), uri=uri, folder=folder)
    val = SimpleNamespace(loss=0.6, accuracy=0.5)
    with run:
        for epoch in (1, 2):
            assert not run.pruned
            run.log_epoch(Epoch(1.0, 1, 2, epoch, [], 0.1, 1.0, val, True))
        assert run.pruned
    assert (run.result, run.result.curve, run.result.pruned) == (0.6, (0.6, 0.6), True)
    assert (
        "Pruned after epoch 2: val/loss 0.6000, other trials had 0.5000" in capsys.readouterr().out
    )
    client = store.connect(uri)
    (one,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert (one.info.status, one.data.tags["pruned"], one.data.tags["trial"]) == (
        "KILLED",
        "2",
        "3",
    )
