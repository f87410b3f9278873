"""Worker processes for many jobs: each imports once, and one that dies takes only its job along."""

import contextlib
import gc
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import IO, Any

from lenet.cli import first_error_line
from lenet.config.errors import is_own, no_memory
from lenet.sweep.outcome import Outcome

Work = Callable[[Any], Any]
MOST_WARNINGS = 20  # lines of one job
# Not fork: torch's and MLflow's threads don't come along. A server that has imported and does
# nothing else can be forked, which saves each worker 4 s of computing.
CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")


class _Worker:
    def __init__(self, modules: Sequence[str]) -> None:
        self.connection, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_serve, args=(theirs, modules), daemon=True)
        self.process.start()
        theirs.close()
        self.index: int | None = None
        self.is_prepared = False

    def give(self, index: int, job: Any, prepare: Callable[[], Work]) -> None:
        self.index = index
        self.connection.send((index, job, None if self.is_prepared else prepare))
        self.is_prepared = True

    def outcome(self) -> Outcome:
        """Of the job it had, which is over, one way or another."""
        assert self.index is not None
        index, self.index = self.index, None
        try:
            outcome: Outcome = self.connection.recv()
            return outcome
        except (EOFError, OSError):
            self.process.join()
            return Outcome(index, error=_death(self.process.exitcode or 0), lost=True)

    def stop(self, seconds: float = 10.0) -> None:
        with contextlib.suppress(OSError):
            self.connection.send(None)
        self.process.join(seconds)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join()


def _death(code: int) -> str:
    if code >= 0:
        return f"its process ended with status {code}"
    name = signal.Signals(-code).name
    why = " (out of memory, or by hand)" if -code == signal.SIGKILL else ""
    return f"its process was ended by {name}{why}"


class Pool:
    """Up to `workers` processes, which have imported `modules` before their first job."""

    def __init__(self, workers: int, modules: Sequence[str] = ()) -> None:
        self._workers, self._modules = workers, modules
        self._free: list[_Worker] = []

    def warm(self) -> None:
        """Begins with the imports, before the jobs are known."""
        if sys.platform == "linux":
            CONTEXT.set_forkserver_preload(["__main__", *self._modules])
            with _unheard():
                forkserver.ensure_running()

    def cool(self) -> None:
        """Ends what `warm` began, where there are no jobs."""
        if pid := getattr(forkserver._forkserver, "_forkserver_pid", None):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def run(
        self,
        jobs: Iterable[Any],
        prepare: Callable[[], Work],
        started: Callable[[int], None] = lambda index: None,
    ) -> Iterator[Outcome]:
        """Yields each job's outcome as it comes; leaving the loop ends the jobs that run, and the
        workers with them.

        A job is taken from `jobs` when a worker is free for it, so it may depend on outcomes before
        it; None says that there is none before the next outcome. `prepare` is called once in each
        worker, and gives the function of a job; both are pickled.
        """
        waiting, count = iter(jobs), 0
        busy: list[_Worker] = []
        try:
            while True:
                while len(busy) < self._workers and (job := next(waiting, None)) is not None:
                    busy.append(self._given(count, job, prepare))
                    started(count)
                    count += 1
                if not busy:
                    return
                ready = wait([worker.connection for worker in busy])
                for worker in [worker for worker in busy if worker.connection in ready]:
                    outcome = worker.outcome()
                    busy.remove(worker)
                    if worker.process.is_alive():
                        self._free.append(worker)
                    yield outcome
        finally:
            for worker in busy:
                worker.process.terminate()
                worker.connection.close()  # where that ended no more than its job
            for worker in self._free:
                worker.stop()
            for worker in busy:
                worker.process.join()
            self._free.clear()

    def _given(self, index: int, job: Any, prepare: Callable[[], Work]) -> _Worker:
        """A worker that has the job: a free one, unless it died meanwhile, or a new one."""
        while self._free:
            worker = self._free.pop(0)
            with contextlib.suppress(OSError):
                worker.give(index, job, prepare)
                return worker
        worker = _Worker(self._modules)
        worker.give(index, job, prepare)
        return worker


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """A process that is started here has nothing to say: the workers tell what fails."""
    heard = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(heard, 2)
        os.close(heard)
        os.close(nowhere)


# ---- In the worker ---------------------------------------------------------------------------


def _serve(connection: Connection, modules: Sequence[str]) -> None:
    """A worker's life, in a group of its own: Ctrl-C is the parent's to answer."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    with tempfile.TemporaryFile() as errors:
        os.dup2(errors.fileno(), 2)
        work: Work | None = None
        while True:
            try:
                given = connection.recv()
            except EOFError:  # whoever gave the jobs is gone
                given = None
            if given is None:
                gc.freeze()  # as run.py does when it ends
                return
            index, job, prepare = given
            outcome = Outcome(index)
            try:
                if prepare:
                    for module in modules:
                        importlib.import_module(module)
                    work = prepare()
                assert work
                outcome = replace(outcome, value=work(job))
            except BaseException as error:  # SystemExit too: it is this job's alone
                traceback.print_exc()
                outcome = replace(outcome, error=said(error))
            with contextlib.suppress(OSError):  # nobody there: the next recv tells
                connection.send(replace(outcome, warnings=_warnings(errors, outcome.error)))


def _warnings(errors: IO[bytes], error: str | None) -> tuple[str, ...]:
    """The lines that came since the last time, without what belongs to an error."""
    sys.stderr.flush()
    errors.seek(0)
    lines = errors.read().decode(errors="replace").splitlines()
    errors.seek(0)
    errors.truncate()
    found = [line for line in lines if error is None or line.startswith("Warning: ")]
    return tuple(dict.fromkeys(found))[:MOST_WARNINGS]


def said(error: BaseException) -> str:
    """What a job's error says, in one line."""
    if isinstance(error, SystemExit):
        return f"ended with status {error.code}"
    if line := no_memory(error):
        return line
    line = first_error_line(error)
    named = line == type(error).__name__ or (is_own(error) and isinstance(error, ValueError))
    return (line if named else f"{type(error).__name__}: {line}")[:500]


def _end_with_parent() -> None:
    """A sweep that is killed takes its jobs along, which stop as by SIGTERM, with a checkpoint."""
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
