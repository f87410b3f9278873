"""The code, the environment and the process of a run."""

import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import psutil

from lenet.config.record import masked


def environment() -> str:
    """Python, the machine and the version of every installed package, one a line."""
    import torch  # late: a configuration is checked without it

    packages = _packages()
    lines = [
        f"python {platform.python_version()}",
        f"platform {platform.platform()}",
        f"cores {os.cpu_count()}",
        f"threads {torch.get_num_threads()}",
        f"command {masked(' '.join(sys.argv))}",
    ]
    return "\n".join(lines + [f"{name}=={packages[name]}" for name in sorted(packages)]) + "\n"


@functools.cache
def _packages() -> dict[str, str]:
    return {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}


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
    """Host, process id and start time, which no two processes have in common."""
    return f"{platform.node()} {os.getpid()} {psutil.Process().create_time():.0f}"


def is_alive(identity: str) -> bool:
    """Whether the process with this identity still runs, on this machine."""
    try:
        host, pid, started = identity.split()
        drift = psutil.Process(int(pid)).create_time() - float(started)
        # Close, not equal: start times count from the boot time, which a clock may correct.
        return host == platform.node() and abs(drift) < 5
    except (psutil.NoSuchProcess, ValueError, OverflowError):
        return False
