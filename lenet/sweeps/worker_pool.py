"""Worker processes for many jobs: each imports once, and one that dies takes only its job along.

Built on multiprocessing itself, because no pool keeps these promises: in loky and in
concurrent.futures one dead worker fails every job under way; Pebble's pool breaks when a worker
dies between two jobs, and stops its workers one after another, with SIGKILL after a deadline. Here
all stop at once and have the time to write their checkpoints.
"""

import contextlib
import functools
import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import IO, Any

from lenet.sweeps.launcher import Outcome, outcome_of

MAX_WARNINGS = 20  # lines of one job
LEAST_LOAD = 0.01  # of a core: a process that computes less gives no sign of life
# Not fork: torch's and MLflow's threads would not come along. A server that has imported and does
# nothing else can be forked, which saves each worker 4 s of computing.
CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")


def run_jobs(
    jobs: Iterable[Any],
    workers: int,
    prepare: Callable[[], Callable[[Any], Any]],
    patience: float | None = None,
) -> Iterator[Outcome]:
    """Yields each job's outcome as it comes. Leaving the loop stops the running jobs as SIGTERM
    does, and ends the workers.

    `workers` is the largest number of processes. `prepare` is called once in each and returns the
    function that does a job. It is pickled, and so is each job.

    A job is taken from `jobs` when a worker is free for it, so it may depend on the outcomes before
    it. None in `jobs` means that no job can start before the next outcome.

    A worker that computes nothing for `patience` seconds, as it was stopped or hangs, is ended.
    """
    waiting, count = iter(jobs), 0
    idle: list[_Worker] = []
    busy: list[_Worker] = []
    try:
        while True:
            while len(busy) < workers and (job := next(waiting, None)) is not None:
                worker = idle.pop() if idle else _Worker(prepare)
                busy.append(worker)
                worker.send(count, job)
                count += 1
            if not busy:
                return
            if patience:
                for worker in busy:
                    worker.end_if_silent(patience)
            ready = wait([worker.connection for worker in busy], patience and patience / 10)
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
        for worker in [*busy, *idle]:
            worker.process.join()


class _Worker:
    def __init__(self, prepare: Callable[[], Callable[[Any], Any]]) -> None:
        self.connection, theirs = CONTEXT.Pipe()
        # The server that it is forked from has those of its own start.
        here = dict(os.environ), os.getcwd()
        self.process = CONTEXT.Process(target=_serve, args=(theirs, prepare, *here), daemon=True)
        self.process.start()
        theirs.close()

    def send(self, index: int, job: Any) -> None:
        self._index, self._silent_for = index, 0.0
        self._alive_at, self._computed = time.monotonic(), 0.0
        with contextlib.suppress(OSError):  # it died while it was idle: `receive` says so
            self.connection.send((index, job))

    def end_if_silent(self, patience: float) -> None:
        """Ends the process if it has hardly computed for so many seconds; `receive` says so."""
        import psutil  # late: most sweeps do not need it

        now = time.monotonic()
        with contextlib.suppress(psutil.Error):  # it has ended by itself
            computed = sum(psutil.Process(self.process.pid).cpu_times()[:2])
            if computed - self._computed > LEAST_LOAD * (now - self._alive_at):
                self._alive_at, self._computed = now, computed
            if now - self._alive_at > patience:
                self._silent_for = now - self._alive_at
                self.process.kill()

    def receive(self) -> Outcome:
        try:
            outcome: Outcome = self.connection.recv()
            return outcome
        except (EOFError, OSError):
            self.process.join()
            error = _death(self.process.exitcode or 0)
            if is_hung := self._silent_for > 0:
                error = f"no sign of life of its process for {self._silent_for:.0f} s"
            return Outcome(self._index, error=error, is_lost=True, is_hung=is_hung)


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
    # The server may print nothing and must not keep our pipes open. What it can't import, a job
    # imports again and reports.
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    before = os.environ.get("PYTHONPATH", "")
    # Python 3.11 drops the path that it passes: the server would import another checkout's code.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    try:
        _redirect_to_null(1, 2)
        forkserver.ensure_running()
    finally:
        os.environ["PYTHONPATH"] = before
        for descriptor, saved in zip((1, 2), kept, strict=True):
            os.dup2(saved, descriptor)
            os.close(saved)


def _redirect_to_null(*descriptors: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    for descriptor in descriptors:
        os.dup2(null, descriptor)
    os.close(null)


# ---- In the worker ---------------------------------------------------------------------------


def _serve(
    connection: Connection,
    prepare: Callable[[], Callable[[Any], Any]],
    environment: dict[str, str],
    folder: str,
) -> None:
    """Does jobs until the parent closes the connection.

    The worker has a process group of its own, so that Ctrl-C reaches the parent alone.
    """
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    _redirect_to_null(1)
    prepared = functools.cache(prepare)
    with tempfile.TemporaryFile() as errors:
        os.dup2(errors.fileno(), 2)
        while True:
            try:
                index, job = connection.recv()
            except EOFError:  # the parent has no more jobs, or is gone
                gc.freeze()  # or the interpreter takes 2 s to free what ends anyway
                return
            outcome = outcome_of(index, lambda job: prepared()(job), job)
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
