"""A search: what to try next, which of its jobs to run now, and what a trial came to.

Nothing here knows how jobs are composed or run; `lenet.sweep.search` does. The trials are kept by
Optuna, in a database. It takes no part in the jobs: what a run is held against goes along in its
configuration, so it needs no connection to the others, ends the same way when it is done again,
and a launcher may take it to any machine.
"""

import logging
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lenet.config.errors import ConfigError
from lenet.sweep.jobs import Job
from lenet.tracking.client import first_use_lock, reason
from lenet.tracking.objective import Result

try:
    import numpy as np
    import optuna
    from optuna.trial import FrozenTrial, TrialState
except ImportError:
    raise ConfigError("hydra/sweeper: a search needs Optuna; pip install -e '.[sweep]'") from None

if TYPE_CHECKING:
    from lenet.sweep.search_space import Axis

SAMPLERS = ("tpe", "random")
STARTUP = 5  # whole trials before the first can be hopeless
OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
logging.getLogger("optuna").setLevel(logging.WARNING)


class Study:
    """The trials of one search. Whoever opens it is its only controller, so that a trial that is
    under way there belongs to one that is gone.

    Raises: ConfigError where its database can't be used.
    """

    def __init__(
        self,
        url: str,
        name: str,
        axes: "Sequence[Axis]",
        maximize: bool,
        sampler: str,
        seed: int | None,
    ) -> None:
        self.axes = {axis.key: axis for axis in axes}
        self.maximize = maximize
        self._sampler, self._seed = sampler, seed
        file = url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else None
        # Another search may hold the file for a moment.
        options = {"connect_args": {"timeout": 60}} if file else {}
        try:
            with first_use_lock(url) if file else nullcontext():
                self._study = optuna.create_study(
                    storage=optuna.storages.RDBStorage(url, engine_kwargs=options),
                    study_name=name,
                    direction="maximize" if maximize else "minimize",
                    load_if_exists=True,
                )
        except Exception as error:  # Optuna's, sqlalchemy's, and those of a missing driver
            cause = reason(error.__cause__ or error)
            shown = re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", url)
            raise ConfigError(f"hydra.sweeper.storage={shown}: cannot be used ({cause})") from None

    @property
    def trials(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False)

    def counted(self) -> list[FrozenTrial]:
        """Those that count: not one that is tried again under another number."""
        replaced = {trial.user_attrs.get("again") for trial in self.trials}
        return [
            trial
            for trial in self.trials
            if trial.number not in replaced and trial.state != TrialState.WAITING
        ]

    def over(self) -> list[FrozenTrial]:
        return [trial for trial in self.counted() if trial.state in OVER]

    def texts(self, trial: FrozenTrial) -> dict[str, str]:
        """A trial's point, as overrides say it."""
        return {key: axis.text(trial.params[key]) for key, axis in self.axes.items()}

    def stale(self) -> list[FrozenTrial]:
        """Trials that were under way; one whose point was not yet drawn whole gets the rest."""
        return [
            self._drawn(optuna.Trial(self._study, trial._trial_id))
            for trial in self.trials
            if trial.state == TrialState.RUNNING
        ]

    def retry(self) -> None:
        """The failed ones are to be asked for again, each once."""
        for trial in self.counted():
            if trial.state == TrialState.FAIL:
                self._study.enqueue_trial(dict(trial.params), {"again": trial.number})

    def ask(self) -> FrozenTrial:
        # Anew for each, so that the draws of a search that goes on are not those that it began
        # with, and a random point depends on the seed and its number alone.
        number, sampler = len(self.trials), self._sampler
        seed = None
        if self._seed is not None:
            seed = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        kind = {"tpe": optuna.samplers.TPESampler, "random": optuna.samplers.RandomSampler}[sampler]
        self._study.sampler = kind(seed=seed)
        return self._drawn(self._study.ask())

    def _drawn(self, trial: optuna.Trial) -> FrozenTrial:
        for axis in self.axes.values():
            axis.suggest(trial)
        return self.trials[trial.number]

    def tell(
        self,
        trial: FrozenTrial,
        state: TrialState,
        curve: Sequence[float] = (),
        values: Mapping[int, float] | None = None,
        why: str | None = None,
    ) -> None:
        """`values` are the objective's, by seed."""
        live = optuna.Trial(self._study, trial._trial_id)
        reported = self.trials[trial.number].intermediate_values  # by who was killed just here
        for epoch, value in enumerate(curve, 1):
            if epoch not in reported:
                live.report(value, epoch)
        if values:
            live.set_user_attr("values", {str(seed): value for seed, value in values.items()})
        if why:
            live.set_user_attr("why", why)
        mean = statistics.fmean(values.values()) if values else None
        complete = state == TrialState.COMPLETE
        self._study.tell(trial.number, mean if complete else None, state)

    @property
    def best(self) -> FrozenTrial | None:
        done = [trial for trial in self.trials if trial.state == TrialState.COMPLETE]
        sign = -1 if self.maximize else 1
        return min(done, key=lambda trial: sign * (trial.value or 0.0), default=None)

    def bounds(self, epochs: int) -> list[float | None]:
        """What a run of so many epochs should have reached by each but the last: the median of the
        whole trials' running means. None where it can't be said, as after one epoch.

        Source: Golovin et al. (2017), Google Vizier, section 3.2.2, the median stopping rule.
        """
        curves = [
            [value for _, value in sorted(trial.intermediate_values.items())]
            for trial in self.trials
            if trial.state == TrialState.COMPLETE
        ]
        found: list[float | None] = [None]
        for epoch in range(2, epochs):
            means = [statistics.fmean(c[:epoch]) for c in curves if len(c) >= epoch]
            found.append(statistics.median(means) if len(means) >= STARTUP else None)
        return found if any(bound is not None for bound in found) else []


# ---- Jobs ------------------------------------------------------------------------------------


@dataclass
class Trial:
    """A point on its way: a job for each seed, of which the first, while it is held to `bounds`,
    goes alone. `twins` are trials of the same point, which come to the same.
    """

    frozen: FrozenTrial
    waiting: list[tuple[int, Job]] = field(default_factory=list)  # with their seeds
    bounds: list[float | None] = field(default_factory=list)
    running: int = 0
    results: dict[int, Result] = field(default_factory=dict)
    state: TrialState = TrialState.COMPLETE  # that it will be told with
    curve: Sequence[float] = ()
    why: str | None = None
    twins: list[FrozenTrial] = field(default_factory=list)

    @property
    def is_ready(self) -> bool:
        return bool(self.waiting) and not (self.bounds and self.running)

    @property
    def is_over(self) -> bool:
        return not self.waiting and not self.running

    def take(self, seed: int, outcome: Result | str, diverged: bool = False) -> None:
        """A job's result, or why it failed. One that diverged says of its point, not of the
        machine, that it is bad, and is to be avoided as a pruned one is.
        """
        self.bounds = []
        if isinstance(outcome, Result) and not outcome.pruned and outcome == outcome:
            self.results[seed] = outcome
            return
        self.waiting.clear()
        if self.state != TrialState.COMPLETE:
            return
        if isinstance(outcome, Result):
            self.state, self.curve = TrialState.PRUNED, outcome.curve
            self.why = f"after epoch {len(outcome.curve)}" if outcome.pruned else "not a number"
        else:
            self.state = TrialState.PRUNED if diverged else TrialState.FAIL
            self.why = outcome


class Plan:
    """Which job is next. `make` gives a point's job for a seed, with what is known of it; `recall`
    the result of one that is known, or why it failed and whether it diverged.
    """

    def __init__(
        self,
        study: Study,
        trials: int,
        seeds: Sequence[int],
        prune: bool,
        make: Callable[[FrozenTrial, int], Job],
        recall: Callable[[Job], tuple[Result | str, bool] | None],
        told: Callable[[Trial], None],
    ) -> None:
        self.study, self.count, self.seeds, self.prune = study, trials, seeds, prune
        self._make, self._recall, self._told = make, recall, told
        self.under_way: list[Trial] = []
        self._stale = study.stale()

    def jobs(self) -> Iterator[tuple[Trial, int, Job] | None]:
        """None while there is nothing to do before the next outcome."""
        while True:
            trial = next((t for t in self.under_way if t.is_ready), None)
            if trial:
                seed, job = trial.waiting.pop(0)
                trial.running += 1
                yield trial, seed, job
            elif self._stale or len(self.study.counted()) < self.count:
                self._begin(self._stale.pop(0) if self._stale else self.study.ask())
            elif self.under_way:
                yield None
            else:
                return

    def take(self, trial: Trial, seed: int, outcome: Result | str, diverged: bool = False) -> int:
        """Returns: how many of the trial's jobs are not to be run after it."""
        trial.running -= 1
        waiting = len(trial.waiting)
        trial.take(seed, outcome, diverged)
        dropped = waiting - len(trial.waiting)
        if trial.is_over:
            self.under_way.remove(trial)
            self._tell(trial)
        return dropped

    def _begin(self, frozen: FrozenTrial) -> None:
        trial = Trial(frozen)
        if self._is_twin(frozen):
            return
        for seed in self.seeds:
            job = self._make(frozen, seed)
            known = self._recall(job)
            if known is None:
                trial.waiting.append((seed, job))
            else:
                trial.take(seed, *known)
                if trial.state != TrialState.COMPLETE:
                    break
        if trial.is_over:
            self._tell(trial)
            return
        if self.prune and not trial.results:
            trial.bounds = self.study.bounds(int(trial.waiting[0][1].config["epochs"]))
        self.under_way.append(trial)

    def _is_twin(self, frozen: FrozenTrial) -> bool:
        """A point that was drawn before is not run again."""
        texts = self.study.texts(frozen)
        for trial in self.under_way:
            if self.study.texts(trial.frozen) == texts:
                trial.twins.append(frozen)
                return True
        for other in self.study.over():
            retried = other.state == TrialState.FAIL and "again" in frozen.user_attrs
            if not retried and self.study.texts(other) == texts:
                values = {int(s): v for s, v in other.user_attrs.get("values", {}).items()}
                curve = [value for _, value in sorted(other.intermediate_values.items())]
                self.study.tell(frozen, other.state, curve, values, other.user_attrs.get("why"))
                return True
        return False

    def _tell(self, trial: Trial) -> None:
        if trial.state == TrialState.COMPLETE:
            curves = [result.curve for result in trial.results.values()]
            trial.curve = [statistics.fmean(at) for at in zip(*curves, strict=False)]
        values = {seed: float(result) for seed, result in trial.results.items()}
        for frozen in (trial.frozen, *trial.twins):
            self.study.tell(frozen, trial.state, trial.curve, values, trial.why)
        self._told(trial)
