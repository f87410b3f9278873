"""Answers many `python run.py ...` command lines: each is a fork of one process that has imported
run.py, so an answer takes a quarter of a second instead of four.

Run as a script this file is the server, and `Commands` is its client.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60  # until a command that hangs is killed
KEPT = {"PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"}


@dataclass(frozen=True)
class Answer:
    status: int  # negative: the signal that ended the command
    out: str
    err: str
    left: list[str]  # the files in the working folder afterwards


class Commands:
    """A context whose `answer` gives what `python run.py *arguments` would, without training."""

    def __enter__(self) -> "Commands":
        environment = {key: value for key, value in os.environ.items() if key in KEPT}
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        )
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._server.communicate()

    def answer(self, *arguments: str) -> Answer:
        assert self._server.stdin
        assert self._server.stdout
        self._server.stdin.write(json.dumps(arguments) + "\n")
        self._server.stdin.flush()
        return Answer(**json.loads(self._server.stdout.readline()))


class UntilConfiguration(io.TextIOWrapper):
    """Standard output that ends the command with status 0 where a run begins to print."""

    def write(self, text: str) -> int:
        written = super().write(text)
        if text.startswith("Configuration"):
            self.flush()
            os._exit(0)
        return written


def serve() -> None:
    import torch  # noqa: F401  # a group's check needs it: two seconds of each command
    from hydra import compose, initialize_config_dir

    import run
    from lenet.config.check import check

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        check(compose("config"))  # torch imports more when it is used first
    folder = Path(tempfile.mkdtemp())
    for line in sys.stdin:
        print(json.dumps(answer(run, json.loads(line), folder)), flush=True)
    shutil.rmtree(folder)


def answer(run: Any, arguments: list[str], folder: Path) -> dict[str, Any]:
    work, out, err = folder / "work", folder / "out", folder / "err"
    work.mkdir()
    pid = os.fork()
    if not pid:
        for number, file in ((1, out), (2, err)):
            os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
        os.chdir(work)
        signal.alarm(SECONDS)
        sys.argv = ["run.py", *arguments]
        sys.stdout = UntilConfiguration(sys.stdout.buffer, "utf-8", "replace")
        os._exit(status_of(run))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    left = sorted(path.relative_to(work).as_posix() for path in work.rglob("*"))
    shutil.rmtree(work)
    texts = {file.name: file.read_text(errors="replace") for file in (out, err)}
    return {"status": status, "left": left, **texts}


def status_of(run: Any) -> int:
    status = 0
    try:
        run.main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    serve()
