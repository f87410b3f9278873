"""A search's trials: which is next, how one ends, and that a killed search continues."""

import json
import math
import shutil
import subprocess
import sys

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState

from lenet.sweeps.jobs import Job
from lenet.sweeps.search_space import Axis
from lenet.sweeps.study import STARTUP, Study, Trials
from lenet.tracking.objective import Result, is_hopeless

COMPLETE, FAIL, PRUNED = TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED
LR = Axis("lr", FloatDistribution(1e-4, 1.0, log=True))
ACTIVATION = Axis("act", CategoricalDistribution(("tanh", "relu")))


@pytest.fixture
def opened(tmp_path, empty_trials):
    shutil.copy(empty_trials, tmp_path)

    def study(name="one", sampler="random", seed=0, axes=None, maximize=True):
        url = f"sqlite:///{tmp_path / 'search.db'}"
        return Study(url, name, axes or [LR, ACTIVATION], maximize, sampler, seed)

    return study


def complete(study, *curves):
    study.tell(study.ask(), {seed: Result(curve[-1], curve) for seed, curve in enumerate(curves)})


def test_bounds_are_the_median_of_running_means_once_there_are_a_few(opened):
    study = opened()
    for k in range(1, STARTUP):
        complete(study, [0.1 * k, 0.2 * k, 0.3 * k, 0.4 * k])
    assert study.bounds(4) == []
    complete(study, [0.5, 1.0, 1.5, 2.0])
    assert study.bounds(4) == [None, pytest.approx(0.45), pytest.approx(0.6)]
    assert study.bounds(2) == []


def test_random_points_depend_on_seed_and_number_alone(opened):
    def points(study, count):
        return [study.texts(study.ask()) for _ in range(count)]

    whole = points(opened("a"), 6)
    assert points(opened("b"), 2) + points(opened("b"), 4) == whole
    assert points(opened("c", seed=1), 6) != whole
    assert len({json.dumps(point) for point in whole}) == 6


def test_the_best_of_a_loss_is_the_lowest_mean_over_the_seeds(opened):
    study = opened(maximize=False)
    complete(study, [0.25], [0.75])
    complete(study, [0.5], [0.75])
    assert (study.best.number, study.best.value) == (0, 0.5)


class Runs:
    """Stands for the jobs: `score(texts, seed)` gives a curve, or a text that says why it fails."""

    def __init__(self, study, score, trials=8, seeds=(0, 1), prune=True, known=None):
        self.study, self.score, self.given = study, score, []
        self.known = known or {}
        self.plan = Trials(study, trials, seeds, prune, self._make_job)

    def _make_job(self, frozen, seed):
        config = {"epochs": 4, "texts": self.study.texts(frozen), "seed": seed}
        job = Job({}, config, json.dumps(config))
        return self.known.get(job.sha256, job)

    def run(self, workers=2, most=math.inf):
        """Works like the pool; ends after `most` jobs, as if killed."""
        jobs, busy, ended = self.plan.jobs(), [], 0
        while ended < most:
            while len(busy) < workers and (job := next(jobs, None)) is not None:
                self.given.append((job.trial, job.config["seed"]))
                busy.append(job)
            if not busy:
                return self
            job = self._ended(busy.pop(0))
            self.known[job.sha256] = job
            self.plan.add(job)
            ended += 1
        return self

    def _ended(self, job):
        curve = self.score(job.config["texts"], job.config["seed"])
        if isinstance(curve, str):
            return job.ended(None, curve)
        for epoch in range(1, 4):
            if is_hopeless(curve[:epoch], job.bounds, self.study.maximize):
                return job.ended(Result(curve[epoch - 1], curve[:epoch], pruned=True), None)
        return job.ended(Result(curve[-1], curve), None)

    @property
    def states(self):
        return [trial.state for trial in self.study.trials]


def good(texts, seed):
    best = 1 - abs(math.log10(float(texts["lr"])) + 2) / 10 + seed / 100
    return [best * part for part in (0.7, 0.8, 0.9, 1.0)]


def test_a_hopeless_trial_is_pruned_and_its_other_seeds_not_run(opened):
    def score(texts, seed):
        return good(texts, seed) if len(runs.study.trials) <= 6 else [0.0, 0.0, 0.0, 0.0]

    runs = Runs(opened(), lambda *args: score(*args), trials=10)
    runs.run(workers=1)
    assert runs.states == [COMPLETE] * 6 + [PRUNED] * 4
    assert all(trial.last_step == 2 for trial in runs.study.trials[6:])
    assert [seed for number, seed in runs.given if number >= 6] == [0] * 4


def test_a_trial_that_diverged_is_avoided_not_failed(opened):
    runs = Runs(opened(), lambda texts, seed: "Diverged: nan", trials=3).run()
    assert runs.states == [PRUNED] * 3
    assert runs.study.best is None


def test_a_killed_search_continues_to_its_number_of_trials_and_repeats_none(opened):
    uninterrupted = Runs(opened("whole"), good, trials=6, prune=False).run(workers=3)
    first = Runs(opened("cut"), good, trials=6, prune=False).run(workers=3, most=7)
    then = Runs(opened("cut"), good, trials=6, prune=False, known=first.known).run(workers=3)
    assert then.states == [COMPLETE] * 6
    expected = [(t.params, t.value) for t in uninterrupted.study.trials]
    assert [(t.params, t.value) for t in then.study.trials] == expected
    assert not set(first.given[:7]) & set(then.given)
    assert Runs(opened("cut"), good, trials=6).run().given == []
    assert len(Runs(opened("cut"), good, trials=8, prune=False).run().given) == 4


def test_a_point_drawn_twice_is_run_once(opened):
    study = opened(axes=[Axis("lr", CategoricalDistribution(("0.1", "0.01")))])
    runs = Runs(study, good, trials=6, prune=False).run(workers=4)
    assert len(study.trials) == 6
    assert len(runs.given) == 4
    for lr in ("0.1", "0.01"):
        assert len({trial.value for trial in study.trials if trial.params["lr"] == lr}) == 1


def test_without_optuna_one_line_says_what_to_install():
    code = "import sys; sys.modules['optuna'] = None; import lenet.sweeps.study"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.rstrip().endswith("a search needs Optuna; pip install -e '.[sweep]'")
