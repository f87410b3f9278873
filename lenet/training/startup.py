"""Start of a process that trains: output, Ctrl-C, clock, garbage collection, thread settings."""

import gc
import os
import time

import psutil

from lenet import cli

_started: list[float] = []


def start_process() -> None:
    """Call it before the large imports: they count as part of the first run's time, and Ctrl-C ends
    them too.
    """
    cli.start()
    _started[:] = [time.time()]
    gc.set_threshold(50_000, 20, 1000)  # imports leave little garbage: looking for it took 1.5 s
    psutil.cpu_percent()  # the load is measured from here on


def start_run() -> float:
    """Sets how long torch's threads spin. Returns: when the run began, see `run_start`."""
    # Threads that wait for each other spin, which takes time from other processes. 20,000 turns
    # last from one parallel part of a step to the next: best on an idle machine. 1000, libgomp's
    # choice for crowded machines, is a fifth slower there, four times faster beside a busy process.
    other_cores = psutil.cpu_percent() / 100 * (os.cpu_count() or 1) - 1
    os.environ.setdefault("GOMP_SPINCOUNT", "1000" if other_cores > 0.5 else "20000")
    return run_start()


def run_start() -> float:
    """When the run began, in seconds since 1970: the process's first run began with the process."""
    return _started.pop() if _started else time.time()
