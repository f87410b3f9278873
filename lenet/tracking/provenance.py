"""The code, the environment and the process of a run."""

import functools
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from lenet.config.record import masked


def environment() -> str:
    """Python, the machine and the version of every installed package, one a line."""
    packages = _packages()
    lines = [
        f"python {platform.python_version()}",
        f"platform {platform.platform()}",
        f"cores {os.cpu_count()}",
        f"command {command()}",
    ]
    return "\n".join(lines + [f"{name}=={packages[name]}" for name in sorted(packages)]) + "\n"


def command() -> str:
    """What was typed to start this process."""
    return masked(shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]]))


@functools.cache
def _packages() -> dict[str, str]:
    """The version of each installed package. Its metadata are not parsed: that takes a second."""
    found = {}
    for each in importlib.metadata.distributions():
        text = each.read_text("METADATA") or each.read_text("PKG-INFO") or ""
        about = dict(re.findall(r"^(Name|Version): *(.+?) *$", text.partition("\n\n")[0], re.M))
        found[about.get("Name", "")] = about.get("Version", "")
    return found


def environment_differences(before: str, now: str) -> list[tuple[str, str, str]]:
    """The differences of two texts of `environment` as (what, before, now); `none` where one text
    lacks it. The command does not count.
    """
    a, b = (
        dict(line.replace("==", " ", 1).partition(" ")[::2] for line in text.splitlines())
        for text in (before, now)
    )
    names = sorted((a.keys() | b.keys()) - {"command"})
    rows = [(name, a.get(name, "none"), b.get(name, "none")) for name in names]
    return [row for row in rows if row[1] != row[2]]


def short_name(tag: str) -> str:
    """A tag's name as it is printed: `git.commit`, `kernels`."""
    return tag.removeprefix("lenet.").removeprefix("mlflow.source.")


@functools.cache  # the jobs of a worker have the code that it began with
def git(*arguments: str) -> str | None:
    """git's output for this checkout; None if there is no git or no checkout."""
    try:
        done = subprocess.run(
            # This process runs the checkout's code anyway, so it may belong to another user.
            ["git", "-c", "safe.directory=*", "-C", Path(__file__).parent, *arguments],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # Not stripped: a patch without its last line break does not apply.
    return done.stdout if done.returncode == 0 else None


def code_state() -> dict[str, str]:
    """The tags `mlflow.source.git.commit` and `lenet.git.dirty`; empty outside a checkout.

    A job on a machine without a checkout has them from the machine that sent it.
    """
    status = git("status", "--porcelain")
    if status is None:
        commit, _, dirty = os.environ.get("LENET_COMMIT", "").rpartition(" ")
        return {"mlflow.source.git.commit": commit, "lenet.git.dirty": dirty} if dirty else {}
    commit = (git("rev-parse", "HEAD") or "none yet").strip()
    return {"mlflow.source.git.commit": commit, "lenet.git.dirty": str(bool(status)).lower()}


def process_identity() -> str:
    """Host, process id and start; if the system has them, also the machine's boot and the namespace
    of process ids. No two processes have it in common.
    """
    return " ".join([platform.node(), str(os.getpid()), _start_of(os.getpid()), *_scope()])


def is_alive(identity: str) -> bool | None:
    """Whether the process with this identity still runs; None if that can't be seen from here: it
    was started on another machine, before a reboot, or in another namespace of process ids.
    """
    words, here = identity.split(), _scope()
    if len(words) < 3 or not words[1].isdecimal():
        return None
    host, pid, started, *scope = words
    if scope != here or not (here or host == platform.node()):
        return None
    return started == _start_of(int(pid))


def _scope() -> list[str]:
    """Where the ids of processes mean the same as here; empty if the system does not say it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return [boot, str(os.stat("/proc/self/ns/pid").st_ino)]
    except OSError:
        return []


def _start_of(pid: int) -> str:
    """When a process started; empty if there is none."""
    with suppress(OSError):
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        # In ticks since the boot, which no step of the clock changes.
        return "" if state in "ZX" else numbers[18]
    import psutil  # late: Linux does not need it

    try:
        return f"{psutil.Process(pid).create_time():.0f}"
    except (psutil.Error, OverflowError):
        return ""
