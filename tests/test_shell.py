"""The commands as a shell sees them: all listed, all with an example, and completed by Tab."""

import os
import re
import subprocess
import sys

import pytest

from lenet.__main__ import COMMANDS
from tests.conftest import ROOT

MODULES = sorted(name.split()[1] for name in COMMANDS if name.startswith("-m "))


def python(*arguments, **env):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_with_a_command_is_listed():
    sources = [path.read_text() for path in (ROOT / "lenet").rglob("*.py")]
    programs = [re.findall(r'prog="python -m (\S+)"', source) for source in sources]
    assert sorted(name for names in programs for name in names) == MODULES
    out = python("-m", "lenet")
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("module", MODULES)
def test_each_has_help_with_an_example(module):
    out = python("-m", module, "--help")
    assert out.startswith(f"usage: python -m {module} ")
    assert re.search(rf"Example: python -m {module}\b", out)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("optimizer=", "optimizer=adam optimizer=adamw optimizer=rmsprop optimizer=sdlm"),
        ("data=digits optimizer.l", "optimizer.lr="),
        ("model/pool", "model/pooling="),
        ("experiment=be", "experiment=best"),
    ],
)
def test_tab_completes_groups_options_and_keys(line, expected):
    out = python("run.py", "-sc", "query=bash", COMP_LINE=f"python run.py {line}")
    assert out.startswith(expected)
