"""Types commands: each runs in a fork of one process that has imported everything before.

So a command costs a tenth of its usual time. `python -m tests.crash.typist` is that process.
"""

import ctypes
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.conftest import LIMIT, ROOT

NEEDED = [
    *("run", "sklearn.datasets", "mlflow.pytorch", "mlflow.store.tracking.sqlalchemy_store"),
    *("lenet.commands.send", "lenet.data.sets", "lenet.tracking.resume", "lenet.training.loop"),
]


class Typist:
    """The process, as a test sees it. The library is loaded into it, but notes nothing until a
    command's environment says where to.
    """

    def __init__(self, library: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.typist"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": str(ROOT)},
        )
        self._answer()

    def __enter__(self) -> "Typist":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of its input ends it

    def _answer(self) -> Any:
        assert self._process.stdout
        return json.loads(self._process.stdout.readline())

    def _ask(self, *words: Any) -> Any:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(words) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def start(self, folder: Path, env: dict[str, str], *command: str) -> "Typed":
        """Starts `run.py ...` or `-m lenet ...` in a folder, with these variables set as well."""
        handle, output = tempfile.mkstemp(prefix="lenet-crash-out-")
        os.close(handle)
        return Typed(self, self._ask("start", str(folder), env, output, command), Path(output))

    def type(self, folder: Path, env: dict[str, str], *command: str) -> tuple[int, str]:
        """Exit status and output of a command."""
        return self.start(folder, env, *command).wait()


class Typed:
    """A command that was started."""

    def __init__(self, typist: Typist, pid: int, output: Path) -> None:
        self.typist, self.pid, self.output = typist, pid, output

    def wait(self) -> tuple[int, str]:
        status = self.typist._ask("wait", self.pid, LIMIT)
        text = self.output.read_text()
        self.output.unlink()
        return status, text

    def wait_for_stop(self) -> bool:
        """Whether it has stopped, as soon as that is known; False if it has ended."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state in "TZ":
                return state == "T"
            time.sleep(0.01)
        raise TimeoutError(self.output.read_text())

    def wake(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


def _start(folder: str, env: dict[str, str], output: str, command: list[str]) -> int:
    if pid := os.fork():
        return pid
    status = 1
    try:
        os.setsid()
        file = os.open(output, os.O_WRONLY | os.O_TRUNC)
        os.dup2(file, 1), os.dup2(file, 2)
        os.chdir(folder)
        os.environ.update(env)
        ctypes.CDLL(None).crash_watch()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if command[0] == "-m":
            sys.argv = command[1:]
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [str(ROOT / command[0]), *command[1:]]
            runpy.run_path(sys.argv[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def _wait(pid: int, seconds: float) -> int:
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.005)


def main() -> None:
    for name in NEEDED:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    print("0", file=answers, flush=True)
    for line in sys.stdin:
        what, *words = json.loads(line)
        answer = _start(*words) if what == "start" else _wait(*words)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
