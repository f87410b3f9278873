"""Two sweeps on one store that share jobs: one sleeps at some change, the other runs, it wakes."""

import random
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.conftest import LIMIT
from tests.crash.disk import Disk
from tests.crash.lab import Lab, Run, differences
from tests.crash.points import DATABASE
from tests.crash.scenarios import PLAIN, SMALL, SWEEP, doubled_and_left, send_rest
from tests.crash.typist import Typed

WIDER = ["run.py", "-m", *SMALL, *PLAIN, "optimizer.lr=0.01,0.05,0.1"]


def side_by_side(lab: Lab, n: int) -> tuple[bool, list[str]]:
    """Whether the second sweep ran while all processes of the first one slept, from the moment when
    one of them made its n-th change in the runs' folders; and the story.
    """
    env = {"CRASH_ROOT": str(lab.folder), "CRASH_FAULT": f"change {lab.waiting} {n} 0 60"}
    first, story = lab.typist.start(lab.folder, lab.env | env, *SWEEP), list[str]()
    is_tried = _has_stopped(first)
    if is_tried:
        _each(first, psutil.Process.suspend)
        is_tried = not _is_locked(lab.folder / DATABASE)  # the other one would wait for it
    if is_tried:
        lab.tell(story, *WIDER)
    while _has_stopped(first):  # each of its processes comes to its n-th change
        _each(first, psutil.Process.resume)
    status, text = first.wait()
    story.append(f"The first one:\n{text}[exit status {status}]")
    send_rest(lab, SWEEP, story)
    return is_tried, story


def _is_locked(database: Path) -> bool:
    with closing(sqlite3.connect(database, timeout=0)) as db:
        try:
            db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
    return False


def _each(typed: Typed, call: Callable[[psutil.Process], Any]) -> list[Any]:
    """Calls this for each process of the command, and returns the results, the main one's first."""
    main, results = psutil.Process(typed.pid), []
    for process in [main, *main.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # it has just ended
            results.append(call(process))
    return results


def _has_stopped(typed: Typed) -> bool:
    """Whether a process of the command has stopped, as soon as one has; False once it has ended."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        states = _each(typed, psutil.Process.status)
        if states[0] == psutil.STATUS_ZOMBIE or psutil.STATUS_STOPPED in states:
            return states[0] != psutil.STATUS_ZOMBIE
        time.sleep(0.01)
    raise TimeoutError(typed.output.read_text())


def _problems(lab: Lab, expected: list[Run]) -> list[str]:
    """What is not as it would be if each sweep had been alone. A job may be done by both."""
    runs = lab.runs()
    found = [f"a run is {run['status']}" for run in runs if run["status"] != "FINISHED"]
    by_job = {run["job"]: run for run in expected if run["job"]}
    jobs = [run for run in runs if run["job"]]
    found += [f"no run of {job}" for job in by_job.keys() - {run["job"] for run in jobs}]
    found += [each for run in jobs for each in differences(run, by_job[run["job"]])]
    return found + doubled_and_left(lab, runs)


def try_all(
    lab: Lab, empty_store: Path, chosen: Sequence[str], count: int | None, seed: int
) -> tuple[int, int]:
    """How many times something was wrong, and how many times both sweeps were at work. The first
    one sleeps at the `chosen` changes, or else at `count` of all.
    """
    lab.begin(empty_store)
    start = Disk.of(lab.folder)
    own = [each for each in lab.recorded(*SWEEP) if each.path.startswith("waiting")]
    start.write(lab.folder)
    lab.type(*WIDER)
    expected, failed, tried = lab.runs(), 0, 0
    numbers = range(1, len(own) // 2)  # of the larger of two jobs
    for n in map(int, chosen or random.Random(seed).sample(numbers, count or len(numbers))):
        start.write(lab.folder)
        is_tried, story = side_by_side(lab, n)
        tried += is_tried
        wrong = _problems(lab, expected) if is_tried else []
        wrong += ["a traceback"] if "Traceback" in "".join(story) else []
        if wrong:
            failed += 1
            print("", f"python -m tests.crash sweeps {n}", *wrong, *story, sep="\n", flush=True)
    print(f"{tried} times side by side")
    return failed, tried
