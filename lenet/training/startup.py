"""Start of a process that trains: output, Ctrl-C, clock, garbage collection."""

import gc
import time

from lenet import cli

_started: list[float] = []


def start_process(name: str) -> None:
    """Call it before the large imports: they count as part of the first run's time, and Ctrl-C ends
    them too. Nothing is done where `name`, the caller's `__name__`, is not that of a program: the
    process then belongs to another one, such as a notebook.
    """
    if name not in ("__main__", "__mp_main__"):  # the latter in the workers of a sweep
        return
    cli.start()
    _started[:] = [time.time()]
    gc.set_threshold(50_000, 20, 1000)  # imports leave little garbage: looking for it took 1.5 s


def run_start() -> float:
    """When the run began, in seconds since 1970: the process's first run began with the process."""
    return _started.pop() if _started else time.time()
