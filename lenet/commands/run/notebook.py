"""`lenet.run` and `lenet.sweep`: what run.py does, for a notebook or a program."""

import functools
import inspect
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from lenet.config.errors import ConfigError, is_own
from lenet.config.hydra_errors import explain, run_hydra
from lenet.config.labs import lab_folder
from lenet.native import set_threads
from lenet.report.loaded import LoadedRun, LoadedSweep
from lenet.sweeps.parent_run import ParentRun
from lenet.tracking.run import Run


def run(*arguments: str) -> LoadedRun | None:
    """The run that `python run.py` makes of these arguments: `run("data=digits", "epochs=2")`.

    Returns: None where nothing is trained, as with `--cfg job`.
    Raises: ValueError for a mistake, ArithmeticError for a training that diverges, each with one
    line; KeyboardInterrupt where the run was stopped, once its checkpoint is saved.
    """
    Run.latest = None
    _run_story(arguments)
    return Run.latest and LoadedRun(Run.latest.id, Run.latest.uri)


def sweep(*arguments: str) -> LoadedSweep | None:
    """The sweep that `python run.py -m` makes of these arguments:
    `sweep("optimizer.momentum=0.5,0.9", "seed=range(3)")`.

    Returns: None after `sweep.dry=true`.
    Raises: as `run`; ArithmeticError where a job failed, once the others are done.
    """
    ParentRun.latest = None
    _run_story(["-m", *arguments])
    parent = ParentRun.latest
    return parent and LoadedSweep(parent.run_id, parent.client.tracking_uri)


def _run_story(arguments: Sequence[str]) -> None:
    """Does what run.py does with these arguments, but ends no process."""
    story = lab_folder() / "run.py"
    task = inspect.unwrap(runpy.run_path(str(story), run_name="run")["main"])
    failures: list[Exception] = []

    @functools.wraps(task)  # a sweep takes the task itself to its workers
    def one_run(cfg: Any) -> Any:
        try:
            return task(cfg)
        except Exception as error:  # Hydra would print it before it raises it
            failures.append(error)

    try:
        with _borrowed_process(str(story)):
            run_hydra(one_run, story.parent / "conf", arguments)
            if failures:
                raise failures[0]
    except SystemExit as end:
        if end.code:  # a signal, see lenet.training.signals; 0 after --help
            raise KeyboardInterrupt from None
    except KeyboardInterrupt:  # in a sweep; without the frames of what it stopped
        raise KeyboardInterrupt from None
    except Exception as error:
        if is_own(error):
            raise error.with_traceback(None) from None
        raise


@contextmanager
def _borrowed_process(program: str) -> Iterator[None]:
    """The process as that of a command. What a run changes in it is put back; an error of Hydra
    becomes a ConfigError with one line.
    """
    argv, threads = sys.argv, torch.get_num_threads()
    sys.argv = [program]
    try:
        yield
    except Exception as error:
        line = explain(error, lab_folder() / "conf")  # it looks into sys.argv
        if is_own(error) or line is None:
            raise
        raise ConfigError(line) from None
    finally:
        sys.argv = argv
        torch.set_num_threads(threads)
        set_threads(None)
