"""What a run tells of the code and the machine it came from."""

import importlib.metadata
import subprocess
import sys

import pytest

from lenet.tracking.provenance import environment, git, is_alive, process_identity


def test_this_process_is_alive_and_an_ended_or_other_one_is_not():
    host, pid, started, *scope = process_identity().split()
    assert is_alive(process_identity())
    assert is_alive(" ".join([host, pid, str(int(started) - 1000), *scope])) is False  # a reused id
    ended = subprocess.Popen([sys.executable, "-c", ""])
    zombie = is_alive(" ".join([host, str(ended.pid), started, *scope]))
    ended.wait()
    assert zombie is is_alive(" ".join([host, str(ended.pid), started, *scope])) is False


@pytest.mark.parametrize(
    "words",
    [
        ["another", "1", "1"],
        ["HOST", "1", "1", "before-the-reboot", "4026531836"],
        ["HOST", "1", "1"],  # of an older version
        [],
    ],
)
def test_nobody_can_tell_of_a_process_that_is_not_seen_from_here(words):
    host = process_identity().split()[0]
    assert is_alive(" ".join(words).replace("HOST", host)) is None


def test_git_is_none_where_it_fails(monkeypatch):
    assert git("no-such-command") is None
    monkeypatch.setenv("PATH", "")
    assert git("status") is None


def test_the_environment_names_python_and_packages():
    lines = environment().splitlines()
    assert lines[0].startswith("python 3.")
    assert f"torch=={importlib.metadata.version('torch')}" in lines
