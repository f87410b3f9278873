"""A race of settings over seeds: who leaves it, how often wrongly, and when it ends."""

import math

import numpy as np
import pytest

from lenet.config.errors import ConfigError
from lenet.sweeps.jobs import NEW, Job
from lenet.sweeps.race import Race, seconds_of
from lenet.tracking.objective import Result

BUDGET = ["epochs=1", "objective=val/accuracy", "data.val_size=99"]


def grid(settings, seeds):
    return [
        Job({"lr": k, "seed": s}, {"objective": "val/accuracy", "seed": s}, f"{k} {s}")
        for k in range(settings)
        for s in range(seeds)
    ]


def run(race, jobs, value, at_once=2, seconds=math.nan):
    """Runs the race as two workers do. Returns: how many jobs were run for each setting."""
    race.begin(jobs, [job for job in jobs if job.state == NEW], seconds)
    counts, running = [0] * len({job.differs["lr"] for job in jobs}), []
    for job in race.jobs():
        if job:
            running.append(job)
            counts[job.differs["lr"]] += 1
        while running and (job is None or len(running) >= at_once):
            done = running.pop(0)
            result = value(done.differs["lr"], done.differs["seed"])
            race.add(done.ended(Result(result), None))
    return counts


def accuracy(logit):
    return float(1 / (1 + np.exp(-logit)))


def test_a_clear_best_ends_the_race_after_three_seeds():
    rng, jobs = np.random.default_rng(0), grid(4, 10)
    race = Race(jobs, "1h")
    counts = run(race, jobs, lambda k, s: accuracy(4 - 3 * (k != 2) + rng.normal(0, 0.1)))
    assert counts == [3, 3, 3, 3]
    assert race.left == {f'{{"lr": {k}}}' for k in (0, 1, 3)}
    (line,) = race.summary()
    assert line == "Jobs not run: 28, because they would hardly change the verdict."


def test_a_setting_whose_verdict_is_open_gets_all_seeds_and_others_do_not():
    rng, jobs = np.random.default_rng(0), grid(4, 10)
    race = Race(jobs, "1h")
    means = [4, 3.86, 1, 1]
    counts = run(race, jobs, lambda k, s: accuracy(means[k] + rng.normal(0, 0.1)))
    assert counts[:2] == [10, 10]
    assert max(counts[2:]) <= 5


def test_equal_settings_get_few_seeds_and_none_leaves():
    noise = {(k, s): 0.02 * ((3 * k + s) % 4) for k in range(4) for s in range(12)}
    jobs = grid(4, 12)
    race = Race(jobs, "1h")
    counts = run(race, jobs, lambda k, s: accuracy(3 + noise[k, s]))
    assert max(counts) <= 8
    assert race.left == set()


def test_what_is_done_already_is_not_run():
    jobs = grid(2, 6)
    done = [job.ended(Result(accuracy(3 + 0.1 * job.differs["seed"])), None) for job in jobs[:4]]
    race = Race(jobs, "1h")
    rng = np.random.default_rng(0)
    counts = run(race, [*done, *jobs[4:]], lambda k, s: accuracy(3 + rng.normal(0, 0.1)))
    assert counts == [2, 6]


def test_a_setting_with_a_failed_seed_leaves_and_so_may_all_of_them():
    jobs = grid(2, 6)
    race = Race(jobs, "1h")
    assert run(race, [jobs[0].ended(None, "no"), *jobs[1:]], lambda k, s: 0.5 + s / 100) == [0, 3]
    race = Race(jobs, "1h")
    assert run(race, [job.ended(None, "no") for job in jobs], lambda k, s: 0.5) == [0, 0]


def test_no_job_begins_after_the_time():
    jobs = grid(2, 6)
    race = Race(jobs, "1min")
    assert run(race, jobs, lambda k, s: 0.5, seconds=61) == [0, 0]
    assert race.summary()[0].endswith("Jobs not run: 12, because the time is over.")


def simulated(means, spreads, seeds, rng):
    """A race of settings with these means and spreads on the logit scale, and its jobs run."""
    jobs, effects = grid(len(means), seeds), rng.normal(0, 0.1, seeds)

    def value(k, seed):
        return accuracy(means[k] + effects[seed] + rng.normal(0, spreads[k]))

    race = Race(jobs, "1h")
    return race, sum(run(race, jobs, value))


@pytest.mark.slow
@pytest.mark.parametrize("noisier", [1, 3])
def test_the_best_leaves_in_one_of_twenty_races_at_most(noisier):
    rng, times = np.random.default_rng(1), 100
    races = [simulated([3] * 6, [0.1 * noisier, *[0.1] * 5], 8, rng)[0] for _ in range(times)]
    wrong = sum('{"lr": 0}' in race.left for race in races)
    assert wrong / times <= 0.09  # 0.05, and two standard deviations of the count


@pytest.mark.slow
def test_a_race_keeps_the_best_at_less_than_half_of_the_cost():
    rng, kept, cost, times = np.random.default_rng(2), 0, 0, 60
    for _ in range(times):
        means = rng.normal(3, 0.5, 12)
        race, jobs = simulated(means, [0.1] * 12, 10, rng)
        kept += f'{{"lr": {means.argmax()}}}' not in race.left
        cost += jobs
    assert kept / times >= 0.95
    assert cost / (times * 120) <= 0.5


def test_a_grid_with_a_budget_runs_only_the_seeds_that_it_needs(sweep, jobs, capsys):
    def curve(cfg):
        noise = np.random.default_rng(cfg.seed).normal(0, 0.003)
        own = np.random.default_rng(cfg.seed + int(1000 * cfg.optimizer.momentum)).normal(0, 0.001)
        return [cfg.optimizer.momentum + noise + own]

    jobs.curve = curve
    command = [*BUDGET, "optimizer.momentum=0.5,0.9", "seed=range(8)"]
    sweep(*command, "sweep.budget=1h")
    assert len(jobs.ran) == 6
    out = capsys.readouterr().out
    assert "Before the first comparison 6 jobs to run; no earlier run" in out
    assert "\nNo job begins after 1h.\n" in out
    assert "Jobs not run: 10, because they would hardly change the verdict.\n" in out
    sweep(*command, "sweep.budget=1h")
    assert len(jobs.ran) == 6, "what is done tells enough"
    sweep(*command)
    assert len(jobs.ran) == 16, "without a budget the rest runs"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*BUDGET, "seed=range(8)", "sweep.budget=10"], "sweep.budget=10: expected a time such as"),
        ([*BUDGET, "seed=range(2)", "sweep.budget=10s"], "expected 3 or more, such as 'seed=range"),
        (["seed=range(8)", "sweep.budget=10s"], "sweep.budget: needs a measure to choose by"),
        ([*BUDGET, "hydra/sweeper=tpe", "sweep.budget=1h"], "for a grid; a search has hydra"),
    ],
)
def test_a_budget_that_cannot_be_spent_is_refused(sweep, jobs, arguments, message):
    with pytest.raises(ConfigError, match=message):
        sweep(*arguments)
    assert jobs.ran == []


def test_a_time_is_a_number_and_a_unit():
    assert [seconds_of(text) for text in ("90s", "10min", "1.5h")] == [90, 600, 5400]
