"""What a run tells of the code and the machine it came from."""

import importlib.metadata
import subprocess
import sys

from lenet.tracking.provenance import environment, git, is_alive, process_identity


def test_this_process_is_alive_and_an_ended_or_other_one_is_not():
    host, pid, started = process_identity().split()
    assert is_alive(f"{host} {pid} {started}")
    assert is_alive(f"{host} {pid} {float(started) + 1}")  # a clock that was adjusted
    assert not is_alive(f"{host} {pid} {float(started) - 1000}")  # the number was used again
    assert not is_alive(f"another {pid} {started}")
    assert not is_alive("")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not is_alive(f"{host} {ended.pid} {started}")


def test_git_is_none_where_it_fails(monkeypatch):
    assert git("no-such-command") is None
    monkeypatch.setenv("PATH", "")
    assert git("status") is None


def test_the_environment_names_python_threads_and_packages():
    lines = environment().splitlines()
    assert lines[0].startswith("python 3.")
    assert any(line.startswith("threads ") for line in lines)
    assert f"torch=={importlib.metadata.version('torch')}" in lines
