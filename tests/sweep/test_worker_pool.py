"""Worker processes: a death, an error or a parent's end, and what the other jobs notice of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lenet.config.errors import ConfigError
from lenet.sweep.worker_pool import run_jobs

DEADLINE = 20  # seconds


def work():
    """A job is a word that says what happens to it."""
    prepared = time.time_ns()

    def job(what):
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "exit":
            sys.exit(3)
        if what == "raise":
            raise ConfigError("epochs=0: should be 1 or more\nand more")
        if what == "key":
            raise KeyError("conv1")
        if what == "warn":
            print("Warning: slow disk\nnoise\nWarning: slow disk", file=sys.stderr)
        if what == "sleep":
            time.sleep(60)
        if what.startswith("/"):  # writes this file when it is stopped
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(Path(what).touch()))
            Path(f"{what}.started").touch()
            time.sleep(60)
        return os.getpid(), prepared

    return job


def outcomes(jobs, workers=1):
    found = {outcome.index: outcome for outcome in run_jobs(jobs, workers, work)}
    assert sorted(found) == list(range(len(jobs)))
    return [found[index] for index in range(len(jobs))]


def test_each_worker_is_prepared_once():
    values = [outcome.value for outcome in outcomes(["work"] * 6, workers=2)]
    assert len({pid for pid, _ in values}) == len(set(values)) <= 2


def test_a_worker_that_dies_takes_its_job_alone():
    ended = outcomes(["work", "die", "exit", "work"])
    assert [outcome.error for outcome in ended] == [
        None,
        "its process was ended by SIGKILL (out of memory, or by hand)",
        "its process ended with status 3",
        None,
    ]
    assert [outcome.is_lost for outcome in ended] == [False, True, True, False]
    assert len({outcome.value[0] for outcome in ended if outcome.value}) == 2


def test_an_error_is_one_line_and_warnings_come_along_once():
    ended = outcomes(["raise", "key", "warn", "work"])
    errors = ["epochs=0: should be 1 or more", "KeyError: 'conv1'", None, None]
    assert [outcome.error for outcome in ended] == errors
    warnings = [(), (), ("Warning: slow disk", "noise"), ()]
    assert [outcome.warnings for outcome in ended] == warnings
    assert not any(outcome.is_lost for outcome in ended)


def test_leaving_the_loop_lets_running_jobs_write_their_checkpoints(tmp_path):
    for outcome in run_jobs(["work", f"{tmp_path}/a", f"{tmp_path}/b"], 3, work):
        while not all((tmp_path / f"{name}.started").exists() for name in "ab"):
            time.sleep(0.01)
        assert outcome.index == 0
        break
    assert {path.name for path in tmp_path.glob("?")} == {"a", "b"}


PARENT = """
from tests.sweep.test_worker_pool import work
from lenet.sweep.worker_pool import run_jobs
if __name__ == "__main__":
    for outcome in run_jobs(["work", "sleep", "sleep"], 2, work):
        print(outcome.value[0], flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_end_with_a_parent_that_is_killed(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    env = os.environ | {"PYTHONPATH": os.getcwd()}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=env) as parent:
        worker = psutil.Process(int(parent.stdout.readline()))
        assert worker.is_running()
        family = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    _, alive = psutil.wait_procs([*family, worker], timeout=DEADLINE)
    assert alive == []
