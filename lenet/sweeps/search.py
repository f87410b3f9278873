"""`hydra/sweeper=tpe` and `random`: a search as one MLflow run, with a child for each job."""

import shlex
import statistics
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from lenet.cli.screen import getting_ready
from lenet.config.check import check_value
from lenet.config.errors import ConfigError
from lenet.config.limits import Count, Flag, Size, Text
from lenet.config.metrics import is_maximized
from lenet.config.overrides import differing
from lenet.config.record import config_hash
from lenet.sweeps.jobs import DONE, ELSEWHERE, FAILED, PRUNED, UNFINISHED, Job
from lenet.sweeps.session import Session, SweepFailed
from lenet.tracking.objective import Result

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from lenet.sweeps.search_space import Space
    from lenet.sweeps.study import Study


@dataclass
class Search(Sweeper):
    """Runs trials, each with every seed; `sampler` chooses their points.

    The same command given again continues the search, until there are `trials` trials. `params` is
    the space, as on the command line; `storage` is the database of the trials.
    """

    sampler: Literal["tpe", "random"]
    trials: Count
    storage: Text | None = None
    prune: Flag = True
    seed: Size | None = 0
    params: dict[Text, Any] | None = None

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        self.session = Session(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> float | None:
        """The best trial's value. Raises: SweepFailed where a trial failed."""
        from lenet.sweeps.search_space import read_space
        from lenet.tracking.client import is_there

        session = self.session
        for option in fields(self):
            value = getattr(self, option.name)
            check_value(f"hydra.sweeper.{option.name}", option.type, value)
        if session.options.budget is not None:
            raise ConfigError("sweep.budget: for a grid; a search has hydra.sweeper.trials")
        if session.options.zip:
            raise ConfigError("sweep.zip: a search has no values to take side by side")
        space = read_space(session.overrides(self.params or {}, arguments))
        space, jobs = self._check_space(space)
        base = jobs[0]
        with session.connect(base, self._identity(space, base)):
            url = self.storage or _beside_store(base.config["tracking"]["uri"])
            if session.options.dry:
                has_begun = session.parent and is_there(url)
                self._print_state(self._study(url, space, base) if has_begun else None, space, base)
                return None
            study = self._study(url, space, base)
            session.find_runs(jobs)
            axes = [*(axis.key for axis in space.axes), "seed"]
            with session.record(self.sampler, arguments, axes, base):
                self._run(study, space, base, axes)
                failed = [trial for trial in study.counted() if trial.state.name == "FAIL"]
                session.parent.end("FAILED" if failed else "FINISHED")
            self._print_best(study, space, base)
        session.conclude()
        if failed:
            for trial in failed:
                print(f"  trial {trial.number}: {trial.user_attrs['why']}")
            raise SweepFailed(f"{len(failed)} of {len(study.counted())} trials failed")
        return study.best.value if study.best else None

    # ---- What is searched ------------------------------------------------------------------------

    @getting_ready("Checking the jobs")
    def _check_space(self, space: "Space") -> "tuple[Space, list[Job]]":
        """The space with its seeds, and its jobs at the first end of every axis and at each other
        end and seed.

        Raises: ConfigError where another end is no configuration, or there is no objective.
        """
        texts = {axis.key: axis.ends[0] for axis in space.axes}
        try:
            base = self.session.compose_job(space.overrides(texts))
        except ConfigError as error:
            if "valid integer" not in str(error):
                raise
            raise ConfigError(f"{error}; whole numbers are int(interval(LOW, HIGH))") from None
        if base.config["objective"] is None:
            raise ConfigError(
                "objective=null: a search needs a measure to choose by; take val/accuracy or "
                "val/loss and set data.val_size"
            )
        space = replace(space, seeds=space.seeds or [base.config["seed"]])
        jobs = [base]
        for axis in space.axes:
            for end in axis.ends[1:]:
                point = {**texts, axis.key: end}
                overrides = space.overrides(point, space.seeds[0])
                jobs.append(self.session.compose_job(overrides, differing(overrides, [axis.key])))
        jobs += [self.session.compose_job(space.overrides(texts, s)) for s in space.seeds[1:]]
        self.session.rehearse(jobs)
        return space, [replace(base, config={**base.config, "seed": space.seeds[0]}), *jobs[1:]]

    def _identity(self, space: "Space", base: Job) -> list[str]:
        """Identifies the search: its space, sampler, data and the settings its jobs share."""
        words = [config_hash({**base.config, "device": {}}), base.config["objective"]]
        words += [str(axis) for axis in sorted(space.axes, key=lambda axis: axis.key)]
        return [
            *words,
            f"{space.seeds} {self.sampler} {self.seed}",
            self.session.data_sha256(base),
        ]

    def _study(self, url: str, space: "Space", base: Job) -> "Study":
        from lenet.sweeps.study import Study

        name, maximize = self.session.parent.sha256, is_maximized(base.config["objective"])
        return Study(url, name, space.axes, maximize, self.sampler, self.seed)

    # ---- Its jobs --------------------------------------------------------------------------------

    def _run(self, study: "Study", space: "Space", base: Job, axes: list[str]) -> None:
        from lenet.sweeps.study import Trials

        session, options = self.session, self.session.options
        if options.retry_failed:
            study.retry_failed()

        def make_job(frozen: "FrozenTrial", seed: int) -> Job:
            overrides = space.overrides(study.texts(frozen), seed)
            job = session.compose_job(overrides, differing(overrides, axes))
            (job,) = session.match([job])
            if job.state == ELSEWHERE:
                session.parent.reuse([job])
                job = replace(job, state=DONE)
            if job.state == DONE:
                session.progress.drop(1)
            if job.state == FAILED and options.retry_failed:
                return replace(job, state=UNFINISHED)
            if job.run_id and job.state in (DONE, PRUNED):
                curve = session.parent.curve(job.run_id, job.config["objective"])
                return replace(job, result=Result(curve[-1], curve, job.state == PRUNED))
            return job

        plan = Trials(study, self.trials, space.seeds, self.prune, make_job)
        trials = self._print_state(study, space, base)
        for job in session.run(plan, trials * len(space.seeds)):
            if options.on_error == "stop" and job.state == FAILED and not job.has_diverged:
                break

    # ---- What is printed -------------------------------------------------------------------------

    def _print_state(self, study: "Study | None", space: "Space", base: Job) -> int:
        """Prints the space and how far the search is. Returns: the number of trials to come."""
        print("\n".join(str(axis) for axis in space.axes))
        seeds = ", ".join(map(str, space.seeds))
        print(f"seed: {seeds}, a run each; {base.config['objective']}: their mean")
        states = [trial.state.name for trial in study.counted()] if study else []
        words = {"COMPLETE": "done", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "unfinished"}
        counts = [f"{states.count(s)} {word}" for s, word in words.items() if s in states]
        unfinished = states.count("RUNNING")
        to_come = max(self.trials - len(states) + unfinished, unfinished)
        print(f"{self.trials} trials: {', '.join(counts) or 'none begun'}; {to_come} to come")
        print(self.session.time_left([base] * (to_come * len(space.seeds))))
        return to_come

    def _print_best(self, study: "Study", space: "Space", base: Job) -> None:
        best, objective = study.best, base.config["objective"]
        if best is None:
            print("No trial was completed.")
            return
        values = list(best.user_attrs["values"].values())
        runs = "one seed"
        if len(values) > 1:
            runs = f"mean of {len(values)} seeds, sd {statistics.stdev(values):.2g}"
        texts = study.texts(best)
        command = self._command(space.overrides(texts, space.seeds[0]))
        print(
            f"Best of {len(study.counted())} trials: {best.number}, {objective} {best.value:.6g} "
            f"({runs}; the best of many trials is partly luck)\n  {command}"
        )
        tags = {f"lenet.best.{key}": text for key, text in texts.items()}
        tags |= {"lenet.best.trial": str(best.number), "lenet.best.command": command}
        self.session.parent.note(tags, {objective: float(best.value or 0)})

    def _command(self, overrides: list[str]) -> str:
        """The command line of a single run."""
        hydra = self.session.config.hydra
        words = ["python", "run.py"]
        if hydra.job.config_name != "config":
            for source in hydra.runtime.config_sources:
                if source.provider == "command-line":
                    words += ["-cd", source.path]
            words += ["-cn", hydra.job.config_name, "hydra.mode=RUN"]
        return shlex.join([*words, *(o for o in overrides if not o.startswith("sweep."))])


def _beside_store(uri: str | None) -> str:
    """The URL of search.db, in the folder of mlflow.db."""
    from lenet.tracking import client as store

    database = store.sqlite_file(store.resolved(uri))
    return store.sqlite_uri((database.parent if database else store.home()) / "search.db")
