"""A search's trials: kept by Optuna in a database, and planned as jobs, one for each seed.

The jobs know nothing of Optuna. What a run is compared with goes along in its configuration, so a
job ends the same way when it is repeated, and may run on any machine.
"""

import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import isfinite

import numpy as np

from lenet.config.errors import ConfigError
from lenet.config.record import masked
from lenet.sweeps.jobs import DONE, FAILED, NEW, UNFINISHED, Job
from lenet.sweeps.search_space import Axis
from lenet.tracking.client import reason
from lenet.tracking.objective import Result

# isort: split
# After lenet.sweeps.search_space, which says what to install where there is no Optuna.
import optuna
from optuna.trial import FrozenTrial, TrialState

SAMPLERS = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
STARTUP = 5  # complete trials before the first can be pruned
logging.getLogger("optuna").setLevel(logging.WARNING)


class Study:
    """The trials of one search. Only one process works on it at a time, so a trial that is RUNNING
    when the study is opened was left by a process that is gone.

    Raises: ConfigError where the database can't be used.
    """

    def __init__(
        self,
        url: str,
        name: str,
        axes: Sequence[Axis],
        maximize: bool,
        sampler: str,
        seed: int | None,
    ) -> None:
        self.axes = {axis.key: axis for axis in axes}
        self.maximize = maximize
        self._sampler, self._seed = sampler, seed
        try:
            self._study = optuna.create_study(
                storage=url,
                study_name=name,
                direction="maximize" if maximize else "minimize",
                load_if_exists=True,
            )
        except Exception as error:  # Optuna's, sqlalchemy's, and those of a missing driver
            cause = reason(error.__cause__ or error)
            raise ConfigError(
                f"hydra.sweeper.storage={masked(url)}: cannot be used ({cause})"
            ) from None

    @property
    def trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def counted(self) -> list[FrozenTrial]:
        """The trials that count.

        A trial that was tried again under another number does not count, nor one whose point was
        still being drawn when the search was killed.
        """
        replaced = {trial.user_attrs.get("again") for trial in self.trials}
        return [
            trial
            for trial in self.trials
            if trial.number not in replaced and trial.params.keys() == self.axes.keys()
        ]

    def in_state(self, state: TrialState) -> list[FrozenTrial]:
        return [trial for trial in self.counted() if trial.state == state]

    def texts(self, trial: FrozenTrial) -> dict[str, str]:
        """A trial's point, as overrides write it."""
        return {key: axis.text(trial.params[key]) for key, axis in self.axes.items()}

    def retry_failed(self) -> None:
        """Queues the point of each failed trial once more."""
        for trial in self.in_state(TrialState.FAIL):
            self._study.enqueue_trial(dict(trial.params), {"again": trial.number})

    def ask(self) -> FrozenTrial:
        """The next trial. A random point depends on the seed and the trial's number alone."""
        seed = None
        if self._seed is not None:
            words = np.random.SeedSequence([self._seed, len(self.trials)]).generate_state(1)
            seed = int(words[0])
        self._study.sampler = SAMPLERS[self._sampler](seed=seed)
        trial = self._study.ask({key: axis.distribution for key, axis in self.axes.items()})
        return self.trials[trial.number]

    def tell(self, trial: FrozenTrial, results: Mapping[int, Result]) -> None:
        """Completes a trial with the results by seed; its value is their mean."""
        curves = [result.curve for result in results.values()]
        live = self._report(trial, [statistics.fmean(at) for at in zip(*curves, strict=False)])
        live.set_user_attr("values", {str(seed): float(r) for seed, r in results.items()})
        self._study.tell(trial.number, statistics.fmean(results.values()))

    def tell_failure(self, trial: FrozenTrial, job: Job) -> None:
        """Ends a trial by one of its jobs that was pruned or failed.

        A point where the training diverges counts as pruned: the sampler shall avoid it.
        """
        live = self._report(trial, () if job.result is None else job.result.curve)
        if job.state == FAILED and not job.has_diverged:
            live.set_user_attr("why", job.reason or "no reason given")
            self._study.tell(trial.number, state=TrialState.FAIL)
        else:
            self._study.tell(trial.number, state=TrialState.PRUNED)

    def _report(self, trial: FrozenTrial, curve: Sequence[float]) -> optuna.Trial:
        live = optuna.Trial(self._study, trial._trial_id)
        for epoch, value in enumerate(curve, 1):
            live.report(value, epoch)
        return live

    @property
    def best(self) -> FrozenTrial | None:
        complete = self.in_state(TrialState.COMPLETE)
        sign = -1 if self.maximize else 1
        return min(complete, key=lambda trial: sign * (trial.value or 0.0), default=None)

    def bounds(self, epochs: int) -> list[float | None]:
        """What a run should have reached by each of its epochs but the last: the median of the
        complete trials' running means. None where too few trials tell, and after one epoch.

        Source: Golovin et al. (2017), Google Vizier, section 3.2.2, the median stopping rule.
        """
        curves = [
            [value for _, value in sorted(trial.intermediate_values.items())]
            for trial in self.in_state(TrialState.COMPLETE)
        ]
        found: list[float | None] = [None]
        for epoch in range(2, epochs):
            means = [statistics.fmean(c[:epoch]) for c in curves if len(c) >= epoch]
            found.append(statistics.median(means) if len(means) >= STARTUP else None)
        return found if any(bound is not None for bound in found) else []


# ---- Jobs ------------------------------------------------------------------------------------


@dataclass
class Trial:
    """A trial under way. Its first job, while `bounds` may prune it, runs alone.

    `failure` is the job that ended it early. `twins` are other trials of the same point: they end
    as this one does.
    """

    frozen: FrozenTrial
    waiting: list[Job] = field(default_factory=list)
    bounds: list[float | None] = field(default_factory=list)
    running: int = 0
    results: dict[int, Result] = field(default_factory=dict)  # by seed
    failure: Job | None = None
    twins: list[FrozenTrial] = field(default_factory=list)

    @property
    def is_ready(self) -> bool:
        return bool(self.waiting) and not (self.bounds and self.running)

    def add(self, job: Job) -> int:
        """Takes a job that has ended. Returns: how many of the others need not be run."""
        self.bounds = []
        if job.state == DONE and job.result is not None and isfinite(job.result):
            self.results[job.config["seed"]] = job.result
            return 0
        dropped = len(self.waiting)
        self.waiting.clear()
        self.failure = self.failure or job
        return dropped


class Trials:
    """Which job of a search is next, until there are `trials` trials.

    `make_job` gives a point's job for a seed, in the state of its earlier run.
    """

    def __init__(
        self,
        study: Study,
        trials: int,
        seeds: Sequence[int],
        prune: bool,
        make_job: Callable[[FrozenTrial, int], Job],
    ) -> None:
        self.study, self.trials, self.seeds = study, trials, seeds
        self.prune, self.make_job = prune, make_job
        self._under_way: dict[int, Trial] = {}
        self._unfinished = study.in_state(TrialState.RUNNING)
        self._ended: dict[str, Job] = {}  # by checksum: another trial may have the same point

    def jobs(self) -> Iterator[Job | None]:
        """The jobs to run; None while there is nothing to run before the next one ends."""
        while True:
            trial = next((t for t in self._under_way.values() if t.is_ready), None)
            if trial:
                trial.running += 1
                job = trial.waiting.pop(0)
                yield replace(job, trial=trial.frozen.number, bounds=trial.bounds)
            elif self._unfinished:
                self._begin(self._unfinished.pop(0))
            elif len(self.study.counted()) < self.trials:
                self._begin(self.study.ask())
            elif self._under_way:
                yield None
            else:
                return

    def add(self, job: Job) -> int:
        """Takes a job that has ended. Returns: how many of its trial's jobs need not be run."""
        assert job.trial is not None
        trial = self._under_way[job.trial]
        trial.running -= 1
        self._ended[job.sha256] = job
        dropped = trial.add(job)
        self._end_if_over(trial)
        return dropped

    def _begin(self, frozen: FrozenTrial) -> None:
        for other in self._under_way.values():
            if other.frozen.params == frozen.params:
                other.twins.append(frozen)
                return
        trial = self._under_way[frozen.number] = Trial(frozen)
        for seed in self.seeds:
            job = self.make_job(frozen, seed)
            job = self._ended.get(job.sha256, job)
            if job.state in (NEW, UNFINISHED):
                trial.waiting.append(job)
                continue
            trial.add(job)
            if trial.failure:
                break
        if self.prune and trial.waiting and not trial.results:
            trial.bounds = self.study.bounds(int(trial.waiting[0].config["epochs"]))
        self._end_if_over(trial)

    def _end_if_over(self, trial: Trial) -> None:
        if trial.waiting or trial.running:
            return
        del self._under_way[trial.frozen.number]
        for frozen in (trial.frozen, *trial.twins):
            if trial.failure:
                self.study.tell_failure(frozen, trial.failure)
            else:
                self.study.tell(frozen, trial.results)
