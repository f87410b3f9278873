"""What Hydra calls for `-m` with hydra/sweeper=tpe or random: a search as one MLflow run, with a
child for each of its jobs.
"""

import shlex
import statistics
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from lenet.config.errors import ConfigError
from lenet.config.record import config_hash
from lenet.sweep import PLUGINS
from lenet.sweep.grid import Grid, SweepFailed, data_checksums
from lenet.sweep.jobs import (
    DONE,
    FAILED,
    PRUNED,
    UNFINISHED,
    Display,
    Job,
    known,
    sha256_of,
)
from lenet.sweep.outcome import Outcome
from lenet.sweep.search_space import axis_of, first_of, is_interval, seeds_of
from lenet.tracking.objective import Result, is_maximized

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from lenet.sweep.study import Study, Trial


class Search(Grid):
    """Trials, each run with every seed; `sampler` says where the next is. The same command goes on
    with the same search, until there are `trials` of them.
    """

    __module__ = PLUGINS

    def __init__(
        self,
        sampler: str,
        trials: int,
        storage: str | None = None,
        prune: bool = True,
        seed: int | None = 0,
        max_batch_size: int | None = None,
        params: dict[str, str] | None = None,
    ) -> None:
        super().__init__(max_batch_size, params)
        self.sampler, self.trials, self.storage = sampler, trials, storage
        self.prune, self.seed = prune, seed

    def sweep(self, arguments: list[str]) -> Any:
        from lenet.sweep import parent_run as sweep_store
        from lenet.tracking import client as store

        assert self.config is not None
        with self._warming():
            self._check_settings()
            self._read([*self._parse_config(), *arguments])
            base = self._checked_base()
        self._data_sha256 = data_checksums()
        what = [config_hash({**base.config, "device": {}}), base.config["objective"]]
        what += [str(axis) for axis in sorted(self.axes, key=lambda axis: axis.key)]
        what += [f"{self.seeds} {self.sampler} {self.seed}", self._data_sha256(base)]
        axes = [*(axis.key for axis in self.axes), "seed"]
        with self._store(base) as client:
            experiment = base.config["tracking"]["experiment"]
            self.record = client and sweep_store.Sweep(client, experiment, sha256_of(what))
            storage = self._storage(store.resolved(base.config["tracking"]["uri"]))
            if self.config.sweep.dry:
                file = Path(storage.removeprefix("sqlite:///"))
                begun = bool(self.record) and (bool(self.storage) or file.is_file())
                self._print_state(self._study(storage) if begun else None, base)
                return []
            study = self._study(storage)
            count = self.trials * len(self.seeds)
            with self._recorded(arguments, self.sampler, axes, base, count) as name:
                self._run_trials(study, base, axes)
                failed = [trial for trial in study.counted() if trial.state.name == "FAIL"]
                self.record.end("FAILED" if failed else "FINISHED")
            self._print_best(study)
        self._conclude(name)
        if failed:
            for trial in failed:
                print(f"  trial {trial.number}: {trial.user_attrs.get('why', 'no reason given')}")
            raise SweepFailed(f"{len(failed)} of {len(study.counted())} trials failed")
        return study.best and study.best.value

    # ---- What is searched --------------------------------------------------------------------

    def _check_settings(self) -> None:
        from lenet.sweep.study import SAMPLERS

        assert self.config is not None

        def expect(good: bool, key: str, what: str) -> None:
            if not good:
                value = getattr(self, key)
                raise ConfigError(f"hydra.sweeper.{key}={value}: expected {what}")

        def whole(value: Any, least: int) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and value >= least

        expect(self.sampler in SAMPLERS, "sampler", f"one of {', '.join(SAMPLERS)}")
        expect(whole(self.trials, 1), "trials", "a whole number above 0")
        expect(isinstance(self.prune, bool), "prune", "true or false")
        expect(self.seed is None or whole(self.seed, 0), "seed", "a whole number or null")
        batch = self.max_batch_size
        expect(batch is None or whole(batch, 1), "max_batch_size", "a whole number above 0 or null")
        expect(isinstance(self.storage, str | None), "storage", "a SQLAlchemy URL or null")
        if self.config.sweep.zip:
            raise ConfigError("sweep.zip: a search has no values to go through together")

    def _read(self, arguments: Sequence[str]) -> None:
        """Overrides -> `axes`, `seeds`, and `fixed`: what all jobs have in common."""
        assert self.hydra_context
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides(list(arguments))
        parsed = {o.get_key_element().lstrip("+"): o for o in overrides}
        seeds = parsed.pop("seed", None)
        self.seeds = seeds_of(seeds) if seeds else []
        varying = {k: o for k, o in parsed.items() if o.is_sweep_override()}
        # As they are given: parsing anew takes quotes and plus signs into account.
        self.fixed = [str(o.input_line) for k, o in parsed.items() if k not in varying]
        self._keys = {key: o.get_key_element() for key, o in varying.items()}
        first = [f"{self._keys[k]}={first_of(o)}" for k, o in varying.items() if not is_interval(o)]
        config = OmegaConf.create(dict(self._job([*self.fixed, *first], []).config))
        self.axes = [
            axis_of(key, override, OmegaConf.select(config, key))
            for key, override in varying.items()
        ]
        if not self.axes:
            raise ConfigError(
                "hydra/sweeper: a search needs something to vary, for one "
                "optimizer.lr=tag(log,interval(1e-4,1e-1)) or model/activation=choice(tanh,relu)"
            )

    def _overrides(self, texts: Mapping[str, str], seed: int) -> list[str]:
        return [*self.fixed, *(f"{self._keys[k]}={v}" for k, v in texts.items()), f"seed={seed}"]

    def _checked_base(self) -> Job:
        """The job at the first end of every axis. Raises: ConfigError where one of the others ends
        is no configuration, or there is nothing to choose by.
        """
        texts = {axis.key: axis.ends[0] for axis in self.axes}
        base = self._job([*self.fixed, *(f"{self._keys[k]}={v}" for k, v in texts.items())], [])
        if base.config["objective"] is None:
            raise ConfigError(
                "objective=null: a search needs a measure to choose by; take val/accuracy or "
                "val/loss and set data.val_size"
            )
        self.objective = base.config["objective"]
        self.seeds = self.seeds or [base.config["seed"]]
        for axis in self.axes:
            for end in axis.ends[1:]:
                self._job(self._overrides({**texts, axis.key: end}, self.seeds[0]), [])
        return replace(base, config={**base.config, "seed": self.seeds[0]})

    def _storage(self, tracking_uri: str) -> str:
        from lenet.tracking import client as store

        file = tracking_uri.removeprefix("sqlite:///")
        folder = Path(file).parent if file != tracking_uri else store.home()
        return self.storage or f"sqlite:///{folder / 'search.db'}"

    def _study(self, storage: str) -> "Study":
        from lenet.sweep.study import Study

        maximize = is_maximized(self.objective)
        sha256 = self.record.sha256
        return Study(storage, sha256, self.axes, maximize, self.sampler, self.seed)

    # ---- Its jobs ----------------------------------------------------------------------------

    def _run_trials(self, study: "Study", base: Job, axes: Sequence[str]) -> None:
        from lenet.sweep.study import Plan

        assert self.config is not None
        settings = self.config.sweep
        if settings.retry_failed:
            study.retry()
        self._runs = self._earlier_runs(base)

        def make(frozen: "FrozenTrial", seed: int) -> Job:
            job = self._job(self._overrides(study.texts(frozen), seed), axes)
            return known([job], self._runs, self._data_sha256)[0]

        failed: list[Trial] = []

        def told(trial: "Trial") -> None:
            if trial.state.name == "FAIL":
                failed.append(trial)
            if study.best:
                best = {self.objective: float(study.best.value or 0)}
                self.record.note({}, best, len(study.over()))

        plan = Plan(study, self.trials, self.seeds, self.prune, make, self._recall, told)
        left = self._print_state(study, base)
        given: list[tuple[Trial, int, Job]] = []
        with Display(left * len(self.seeds)) as display:
            threading.Thread(target=self._read_in, daemon=True).start()

            def batch() -> Iterator[DictConfig | None]:
                for item in plan.jobs():
                    if item is None:
                        yield None
                        continue
                    given.append(item)
                    trial, _, job = item
                    own = {"trial": trial.frozen.number, "bounds": tuple(trial.bounds)}
                    yield self._launchable(job, axes, **own)

            for outcome in self._outcomes(batch(), display.started, lambda i: given[i][2]):
                trial, seed, job = given[outcome.index]
                result, diverged = self._result(job, outcome)
                job = _after(job, result)
                display.ended(job, outcome)
                display.without(plan.take(trial, seed, result, diverged))
                if failed and settings.on_error == "stop":
                    break

    def _result(self, job: Job, outcome: Outcome) -> tuple[Result | str, bool]:
        """A job's result, or why there is none and whether the training diverged. What a launcher
        brought no word of is in the run.
        """
        if isinstance(outcome.value, Result):
            return outcome.value, False
        self._runs = self.record.children()
        job = known([job], self._runs, self._data_sha256)[0]
        said = self._recall(job, retry=False)
        return said or (outcome.error or "its run has not ended", False)

    def _recall(self, job: Job, retry: bool | None = None) -> tuple[Result | str, bool] | None:
        """The same of a job that was run before, None where it is to be run."""
        assert self.config is not None
        run = next((r for r in self._runs if r.info.run_id == job.run_id), None)
        if run is None or (run.info.status not in ("FINISHED", "FAILED", "KILLED")):
            return None
        retry = self.config.sweep.retry_failed if retry is None else retry
        if job.state == FAILED and not retry:
            reason = job.reason or "no reason given"
            return reason, reason.startswith("Diverged:")
        if job.state == DONE or (job.state == UNFINISHED and "pruned" in run.data.tags):
            curve = self.record.curve(run.info.run_id, self.objective)
            if not curve:
                return f"{self.objective} was never logged", False
            return Result(curve[-1], curve, job.state == UNFINISHED), False
        return None

    # ---- What is said ------------------------------------------------------------------------

    def _print_state(self, study: "Study | None", base: Job) -> int:
        """Returns: the trials that are still to come to an end."""
        print("\n".join(str(axis) for axis in self.axes))
        print(f"seed: {', '.join(map(str, self.seeds))}, a run each; {self.objective}: their mean")
        states = [trial.state.name for trial in study.counted()] if study else []
        over = [state for state in states if state != "RUNNING"]
        said = ", ".join(
            f"{states.count(state)} {word}"
            for state, word in (
                ("COMPLETE", "done"),
                ("PRUNED", "pruned"),
                ("FAIL", "failed"),
                ("RUNNING", "under way"),
            )
            if state in states
        )
        left = max(self.trials - len(over), states.count("RUNNING"))
        print(f"{self.trials} trials: {said or 'none begun'}; {left} to come")
        print(self._time_left([], [base] * (left * len(self.seeds))))
        return left

    def _print_best(self, study: "Study") -> None:
        best = study.best
        if best is None:
            print("No trial came to its end.")
            return
        values = list(best.user_attrs["values"].values())
        spread = f", sd {statistics.stdev(values):.2g}" if len(values) > 1 else ""
        runs = f"mean of {len(values)} seeds{spread}" if len(values) > 1 else "one seed"
        texts = study.texts(best)
        command = self._command(texts)
        print(f"Best of {len(study.counted())} trials: {best.number}, {self.objective} ", end="")
        print(f"{best.value:.6g} ({runs}; being the best, it owes some of it to luck)\n  {command}")
        tags = {f"best.{key}": text for key, text in texts.items()}
        tags |= {"best.trial": str(best.number), "best.command": command}
        self.record.note(tags, {self.objective: float(best.value or 0)}, len(study.over()))

    def _command(self, texts: Mapping[str, str]) -> str:
        """The command line of one run of a point."""
        assert self.config is not None
        words = ["python", "run.py"]
        if self.config.hydra.job.config_name != "config":
            for source in self.config.hydra.runtime.config_sources:
                if source.provider == "command-line":
                    words += ["-cd", source.path]
            words += ["-cn", self.config.hydra.job.config_name, "hydra.mode=RUN"]
        overrides = self._overrides(texts, self.seeds[0])
        return shlex.join([*words, *(o for o in overrides if not o.startswith("sweep."))])


def _after(job: Job, result: Result | str) -> Job:
    if isinstance(result, str):
        return replace(job, state=FAILED, reason=result)
    return replace(job, state=PRUNED if result.pruned else DONE)
