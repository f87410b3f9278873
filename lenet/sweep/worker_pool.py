"""Worker processes for many jobs: each imports once, and one that dies takes only its job along.

Built on multiprocessing itself, because no pool keeps these promises: in loky and in
concurrent.futures one dead worker fails every job under way; Pebble's pool breaks when a worker
dies between two jobs, and stops its workers one after another, with SIGKILL after a deadline. Here
all stop at once and have the time to write their checkpoints.
"""

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

from lenet.sweep.launcher import Outcome, error_line

Work = Callable[[Any], Any]
MAX_WARNINGS = 20  # lines of one job
EXIT_SECONDS = 10.0  # for an idle worker to end
# Not fork: torch's and MLflow's threads would not come along. A server that has imported and does
# nothing else can be forked, which saves each worker 4 s of computing.
CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")


class Pool:
    """Up to `workers` processes, which import `modules` before their first job.

    `prepare` is called once in each worker and returns the function that does a job. It is pickled,
    and so is each job.
    """

    def __init__(
        self, workers: int, prepare: Callable[[], Work], modules: Sequence[str] = ()
    ) -> None:
        self._workers, self._prepare, self._modules = workers, prepare, modules

    def run(
        self, jobs: Iterable[Any], on_start: Callable[[int], None] = lambda index: None
    ) -> Iterator[Outcome]:
        """Yields each job's outcome as it comes. Leaving the loop stops the running jobs as SIGTERM
        does, and ends the workers.

        A job is taken from `jobs` when a worker is free for it, so it may depend on the outcomes
        before it. None in `jobs` means that no job can start before the next outcome.
        """
        waiting, count = iter(jobs), 0
        idle: list[_Worker] = []
        busy: list[_Worker] = []
        try:
            while True:
                while len(busy) < self._workers and (job := next(waiting, None)) is not None:
                    busy.append(self._start(idle, count, job))
                    on_start(count)
                    count += 1
                if not busy:
                    return
                ready = wait([worker.connection for worker in busy])
                for worker in [worker for worker in busy if worker.connection in ready]:
                    busy.remove(worker)
                    outcome = worker.receive()
                    if not outcome.is_lost:
                        idle.append(worker)
                    yield outcome
        finally:
            for worker in busy:
                worker.process.terminate()
            for worker in [*busy, *idle]:
                worker.connection.close()
            for worker in busy:
                worker.process.join()
            for worker in idle:
                worker.process.join(EXIT_SECONDS)

    def _start(self, idle: "list[_Worker]", index: int, job: Any) -> "_Worker":
        """Gives the job to an idle worker that is still alive, or to a new one."""
        while idle:
            worker = idle.pop(0)
            with contextlib.suppress(OSError):
                worker.send(index, job)
                return worker
        worker = _Worker(self._prepare, self._modules)
        worker.send(index, job)
        return worker


class _Worker:
    def __init__(self, prepare: Callable[[], Work], modules: Sequence[str]) -> None:
        self.connection, theirs = CONTEXT.Pipe()
        self.process = CONTEXT.Process(target=_serve, args=(theirs, prepare, modules), daemon=True)
        self.process.start()
        theirs.close()
        self._index = 0

    def send(self, index: int, job: Any) -> None:
        self._index = index
        self.connection.send((index, job))

    def receive(self) -> Outcome:
        try:
            outcome: Outcome = self.connection.recv()
            return outcome
        except (EOFError, OSError):
            self.process.join()
            return Outcome(self._index, error=_death(self.process.exitcode or 0), is_lost=True)


def _death(code: int) -> str:
    if code >= 0:
        return f"its process ended with status {code}"
    reason = " (out of memory, or by hand)" if -code == signal.SIGKILL else ""
    return f"its process was ended by {signal.Signals(-code).name}{reason}"


def warm_up(modules: Sequence[str]) -> None:
    """Starts the server that workers are forked from; it imports in the background."""
    if sys.platform != "linux":
        return
    CONTEXT.set_forkserver_preload(["__main__", *modules])
    # The server may print nothing and must not keep our pipes open. A module that it can't import
    # fails again in a worker, which reports it.
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        _redirect_to_null(1, 2)
        forkserver.ensure_running()
    finally:
        for descriptor, saved in zip((1, 2), kept, strict=True):
            os.dup2(saved, descriptor)
            os.close(saved)


def _redirect_to_null(*descriptors: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(null, descriptor)
    os.close(null)


# ---- In the worker ---------------------------------------------------------------------------


def _serve(connection: Connection, prepare: Callable[[], Work], modules: Sequence[str]) -> None:
    """Does jobs until the parent closes the connection.

    The worker has a process group of its own, so that Ctrl-C reaches the parent alone.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    _redirect_to_null(1)
    work: Work | None = None
    with tempfile.TemporaryFile() as errors:
        os.dup2(errors.fileno(), 2)
        while True:
            try:
                index, job = connection.recv()
            except EOFError:  # the parent has no more jobs, or is gone
                gc.freeze()  # or the interpreter takes 2 s to free what ends anyway
                return
            try:
                if work is None:
                    for module in modules:
                        importlib.import_module(module)
                    work = prepare()
                outcome = Outcome(index, work(job))
            except BaseException as error:  # SystemExit too: it ends this job alone
                traceback.print_exc()
                outcome = Outcome(index, error=error_line(error))
            with contextlib.suppress(OSError):  # the parent is gone: the next recv finds out
                connection.send(replace(outcome, warnings=_warnings(errors, outcome.error)))


def _warnings(errors: IO[bytes], error: str | None) -> tuple[str, ...]:
    """The lines written since the last call. For a job that failed, only the warnings."""
    sys.stderr.flush()
    errors.seek(0)
    lines = errors.read().decode(errors="replace").splitlines()
    errors.seek(0)
    errors.truncate()
    found = [line for line in lines if error is None or line.startswith("Warning: ")]
    return tuple(dict.fromkeys(found))[:MAX_WARNINGS]


def _stop_with_parent() -> None:
    """Stops the job as SIGTERM does, with a checkpoint, when the sweep's process dies."""
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
