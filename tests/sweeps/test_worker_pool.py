"""Worker processes: one that dies or fails costs one job, and none outlives its parent."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from lenet.config.errors import ConfigError
from lenet.sweeps.worker_pool import run_jobs
from tests.conftest import LIMIT


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
        if what == "where":
            return os.environ.get("LENET_DATA"), os.getcwd()
        if what == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if what == "hang":
            threading.Event().wait()
        if what == "compute":
            end = time.monotonic() + 3
            while time.monotonic() < end:
                pass
        if what == "sleep":
            time.sleep(60)
        if what.startswith("/"):  # writes this file when it is stopped
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(Path(what).touch()))
            Path(f"{what}.started").touch()
            time.sleep(60)
        return os.getpid(), prepared

    return job


def outcomes(jobs, workers=1, patience=None):
    found = {outcome.index: outcome for outcome in run_jobs(jobs, workers, work, patience)}
    assert sorted(found) == list(range(len(jobs)))
    return [found[index] for index in range(len(jobs))]


def test_each_worker_is_prepared_once():
    values = [outcome.value for outcome in outcomes(["work"] * 6, workers=2)]
    assert len({pid for pid, _ in values}) == len(set(values)) <= 2


def test_a_worker_has_the_environment_and_folder_of_its_start(monkeypatch, tmp_path):
    outcomes(["work"])  # the server that workers are forked from runs by now
    monkeypatch.setenv("LENET_DATA", "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert outcomes(["where"])[0].value == ("elsewhere", str(tmp_path))
    monkeypatch.delenv("LENET_DATA")
    assert outcomes(["where"])[0].value == (None, str(tmp_path))


def test_a_worker_that_dies_fails_one_job_only():
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
from tests.sweeps.test_worker_pool import work
from lenet.sweeps.worker_pool import run_jobs
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
    _, alive = psutil.wait_procs([*family, worker], timeout=LIMIT)
    assert alive == []


SHADOWED = """
from lenet.sweeps.worker_pool import run_jobs, warm_up
def work():
    return lambda name: __import__(name).__file__
if __name__ == "__main__":
    warm_up(["colorsys"])
    print(*(outcome.value for outcome in run_jobs(["colorsys"], 1, work)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only there a server imports for the workers")
def test_workers_import_what_this_process_would_import(tmp_path):
    """Beside another checkout that is installed, a sweep would train with that one's code."""
    (tmp_path / "colorsys.py").touch()
    (tmp_path / "script.py").write_text(SHADOWED)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
        cwd=tmp_path.parent,
    )
    assert done.stdout == f"{tmp_path / 'colorsys.py'}\n", done.stderr


def test_a_worker_that_is_stopped_or_hangs_is_ended_and_one_that_computes_is_not():
    *ended, done = outcomes(["stop", "hang", "compute"], workers=3, patience=1)
    for outcome in ended:
        assert (outcome.is_lost, outcome.is_hung) == (True, True)
        assert outcome.error.startswith("no sign of life of its process for ")
    assert done.error is None
