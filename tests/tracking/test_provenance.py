"""What a run tells of the code and the machine it came from."""

import importlib.metadata
import os
import subprocess
import sys

from lenet.tracking import provenance as machine


def test_this_process_is_alive_and_an_ended_or_other_one_is_not():
    _, pid, started = machine.process_identity().split()
    assert pid == str(os.getpid())
    assert machine.is_alive(pid, started)
    assert machine.is_alive(pid, str(float(started) + 1))  # a clock that was adjusted
    assert not machine.is_alive(pid, str(float(started) - 1000))  # the number was used again
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not machine.is_alive(str(ended.pid), started)


def test_git_is_none_where_it_fails(monkeypatch):
    assert machine.git("no-such-command") is None
    monkeypatch.setenv("PATH", "")
    assert machine.git("status") is None


def test_the_environment_names_python_threads_and_packages():
    lines = machine.environment().splitlines()
    assert lines[0].startswith("python 3.")
    assert any(line.startswith("threads ") for line in lines)
    assert f"torch=={importlib.metadata.version('torch')}" in lines


def test_a_version_has_no_build(monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda package: "2.14.1+cpu")
    assert machine.version("torch") == "2.14.1"
