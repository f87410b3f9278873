"""Command lines by the hundred: a server that has run.py in memory answers each in a fork.

A Python that starts, imports Hydra and torch, and composes, takes four seconds; a fork of one that
has them takes 0.2. `Commands` is the client and this file, run as a script, the server.
"""

import contextlib
import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60  # of wall time: three times what composing may take before it is ended
MEGABYTES = 3000  # above what the server itself has mapped


@dataclass(frozen=True)
class Answer:
    status: int | str  # "hung", or the signal's name, where there is no exit status
    out: str
    err: str
    left: list[str]  # in the working folder
    megabytes: int  # at the highest, above what the server itself holds
    seconds: float


class Commands:
    """Use as a context. `answer` is what `python run.py *arguments` would give, up to the check."""

    def __enter__(self) -> "Commands":
        kept = {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV"}
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={key: value for key, value in os.environ.items() if key in kept}
            | {"PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"},
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._server.communicate()

    def answer(self, *arguments: str) -> Answer:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(arguments) + "\n")
        self._server.stdin.flush()
        return Answer(**json.loads(self._server.stdout.readline()))


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch  # noqa: F401  # not under test here, and four seconds of each command without
    from hydra import compose, initialize_config_dir

    import run
    from lenet.config.check import check

    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        check(compose("config"))  # a first one makes torch read in what it puts off

    base_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folder = Path(tempfile.mkdtemp())
    try:
        for line in sys.stdin:
            answers.write(json.dumps(answer(run, json.loads(line), folder, base_kb)) + "\n")
            answers.flush()
    finally:
        shutil.rmtree(folder)


def answer(run: Any, arguments: list[str], folder: Path, base_kb: int) -> dict[str, Any]:
    import signal
    import time

    work = folder / "work"
    work.mkdir()
    start = time.perf_counter()
    pid = os.fork()
    if not pid:
        with contextlib.suppress(BaseException):
            child(run, arguments, folder)
        os._exit(99)
    with os.fdopen(os.pidfd_open(pid)) as process:
        ended, _, _ = select.select([process], [], [], SECONDS)
    seconds = time.perf_counter() - start
    if not ended:
        os.kill(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    left = sorted(path.relative_to(work).as_posix() for path in work.rglob("*"))
    shutil.rmtree(work)
    return {
        "status": "hung" if not ended else code if code >= 0 else signal.Signals(-code).name,
        "out": (folder / "out").read_text(errors="replace"),
        "err": (folder / "err").read_text(errors="replace"),
        "left": left,
        "megabytes": max(0, usage.ru_maxrss - base_kb) // 1024,
        "seconds": round(seconds, 2),
    }


def child(run: Any, arguments: list[str], folder: Path) -> None:
    for number, name in enumerate(("out", "err"), 1):
        os.dup2(os.open(folder / name, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), number)
    os.chdir(folder / "work")
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEGABYTES * 2**20,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.argv = ["run.py", *arguments]

    def valid() -> None:
        raise SystemExit(0)

    run.let_threads_wait = valid  # is called once the configuration has passed
    try:
        run.main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve()
