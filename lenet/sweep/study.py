"""A search's trials: kept by Optuna in a database, and planned as jobs, one for each seed.

The jobs know nothing of Optuna. What a run is compared with goes along in its configuration, so a
job ends the same way when it is repeated, and may run on any machine.
"""

import logging
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import numpy as np

from lenet.config.errors import ConfigError
from lenet.config.record import masked
from lenet.sweep.jobs import Job
from lenet.sweep.search_space import Axis
from lenet.tracking.client import first_use_lock, reason
from lenet.tracking.objective import Result

# isort: split
# After lenet.sweep.search_space, which says what to install where there is no Optuna.
import optuna
from optuna.trial import FrozenTrial, TrialState

SAMPLERS = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}
STARTUP = 5  # complete trials before the first can be pruned
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
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
        is_file = url.startswith("sqlite:///")
        # Another search may hold the file for a moment.
        options = {"connect_args": {"timeout": 60}} if is_file else {}
        try:
            with first_use_lock(url) if is_file else nullcontext():
                self._study = optuna.create_study(
                    storage=optuna.storages.RDBStorage(url, engine_kwargs=options),
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

    def in_state(self, *states: TrialState) -> list[FrozenTrial]:
        return [trial for trial in self.counted() if trial.state in states]

    def count_ended(self) -> int:
        return len(self.in_state(*ENDED))

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

    def tell(
        self,
        trial: FrozenTrial,
        state: TrialState,
        curve: Sequence[float] = (),
        values: Mapping[int, float] | None = None,
        why: str | None = None,
    ) -> None:
        """Ends a trial. `values` are the objective's, by seed; the trial's is their mean."""
        live = optuna.Trial(self._study, trial._trial_id)
        reported = self.trials[trial.number].intermediate_values  # where a search was killed here
        for epoch, value in enumerate(curve, 1):
            if epoch not in reported:
                live.report(value, epoch)
        if values:
            live.set_user_attr("values", {str(seed): value for seed, value in values.items()})
        if why:
            live.set_user_attr("why", why)
        is_complete = state == TrialState.COMPLETE
        mean = statistics.fmean(values.values()) if is_complete and values else None
        self._study.tell(trial.number, mean, state)

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

    `twins` are other trials of the same point: they end as this one does.
    """

    frozen: FrozenTrial
    waiting: list[Job] = field(default_factory=list)
    bounds: list[float | None] = field(default_factory=list)
    running: int = 0
    results: dict[int, Result] = field(default_factory=dict)  # by seed
    state: TrialState = TrialState.COMPLETE  # when it ends
    curve: Sequence[float] = ()
    why: str | None = None
    twins: list[FrozenTrial] = field(default_factory=list)

    @property
    def is_ready(self) -> bool:
        return bool(self.waiting) and not (self.bounds and self.running)

    @property
    def has_ended(self) -> bool:
        return not self.waiting and not self.running

    def add(self, seed: int, result: Result | str) -> None:
        """Takes a job's result, or why it failed. A failure ends the trial.

        A point where the training diverges counts as pruned: the sampler shall avoid it.
        """
        self.bounds = []
        if isinstance(result, Result) and not result.pruned and result == result:
            self.results[seed] = result
            return
        self.waiting.clear()
        if self.state != TrialState.COMPLETE:
            return
        self.state = TrialState.PRUNED
        if isinstance(result, Result):
            self.curve = result.curve
            self.why = f"after epoch {len(result.curve)}" if result.pruned else "not a number"
        else:
            self.why = result
            if not result.startswith("Diverged:"):
                self.state = TrialState.FAIL


@dataclass
class Plan:
    """Which job is next, until there are `trials` trials.

    `make_job` gives a point's job for a seed. `recall` gives the result of a job that has ended
    before, or None. `on_end` is called when a trial has ended.
    """

    study: Study
    trials: int
    seeds: Sequence[int]
    prune: bool
    make_job: Callable[[FrozenTrial, int], Job]
    recall: Callable[[Job], Result | str | None]
    on_end: Callable[[Trial], None]

    def __post_init__(self) -> None:
        self._under_way: dict[int, Trial] = {}
        self._unfinished = self.study.in_state(TrialState.RUNNING)

    def jobs(self) -> Iterator[Job | None]:
        """The jobs to run; None while there is nothing to run before the next outcome."""
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

    def add(self, job: Job, result: Result | str) -> int:
        """Takes a job's result. Returns: how many of its trial's jobs need not be run any more."""
        assert job.trial is not None
        trial = self._under_way[job.trial]
        trial.running -= 1
        waiting = len(trial.waiting)
        trial.add(job.config["seed"], result)
        dropped = waiting - len(trial.waiting)
        self._end_if_over(trial)
        return dropped

    def _begin(self, frozen: FrozenTrial) -> None:
        texts = self.study.texts(frozen)
        for other in self._under_way.values():
            if self.study.texts(other.frozen) == texts:
                other.twins.append(frozen)
                return
        trial = self._under_way[frozen.number] = Trial(frozen)
        for seed in self.seeds:
            job = self.make_job(frozen, seed)
            result = self.recall(job)
            if result is None:
                trial.waiting.append(job)
                continue
            trial.add(seed, result)
            if trial.state != TrialState.COMPLETE:
                break
        if self.prune and trial.waiting and not trial.results:
            trial.bounds = self.study.bounds(int(trial.waiting[0].config["epochs"]))
        self._end_if_over(trial)

    def _end_if_over(self, trial: Trial) -> None:
        if not trial.has_ended:
            return
        del self._under_way[trial.frozen.number]
        if trial.state == TrialState.COMPLETE:
            curves = [result.curve for result in trial.results.values()]
            trial.curve = [statistics.fmean(at) for at in zip(*curves, strict=False)]
        values = {seed: float(result) for seed, result in trial.results.items()}
        for frozen in (trial.frozen, *trial.twins):
            self.study.tell(frozen, trial.state, trial.curve, values, trial.why)
        self.on_end(trial)
