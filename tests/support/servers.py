"""A tracking server, a proxy that makes it fail, a PostgreSQL database, and a small disk."""

import contextlib
import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from tests.conftest import LIMIT


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Server:
    """`mlflow server` in a process group of its own. Artifacts are sent through it."""

    def __init__(self, folder: Path, backend: str | None = None) -> None:
        self.folder = folder
        self.backend = backend or f"sqlite:///{folder / 'server.db'}"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        options = ["--backend-store-uri", self.backend, "--host", "127.0.0.1"]
        options += ["--artifacts-destination", str(self.folder / "artifacts"), "--serve-artifacts"]
        options += ["--port", str(self.port), "--workers", "1"]
        env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        # Its job runners are eight processes that nothing here uses.
        off = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        off["MLFLOW_SQLALCHEMYSTORE_POOLCLASS"] = "NullPool"  # tests put files in its place
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=env | off,
            )
        end = time.monotonic() + LIMIT
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{self.url}/health", timeout=5).close()
                return
            time.sleep(0.2)
        self.stop()
        pytest.fail(f"mlflow server did not start:\n{(self.folder / 'server.log').read_text()}")

    def stop(self) -> None:
        """Kills the server with SIGKILL, as a power failure would."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Proxy:
    """An HTTP proxy in front of a server. Its mode says how it fails:

    pass      it does not fail
    refuse    connections are refused
    hang      a request never gets an answer
    error     the answer is status 503
    cut       the server handles the request, but the connection breaks in the middle of the answer
    late      the server handles the request when the client has given up and tried again

    `only` has the mode of single requests, by their number.
    """

    LATE_SECONDS = 4.0

    def __init__(self, target: str) -> None:
        self.target = target.removeprefix("http://")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.mode = "refuse"
        self.only: dict[int, str] = {}
        self.requests: list[str] = []  # those that came
        self.changes: list[bytes] = []  # those of them that change something, with their content
        self._late: list[threading.Thread] = []
        self._changed = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> "Proxy":
        self.switch_to("pass")
        return self

    def __exit__(self, *_: object) -> None:
        self.switch_to("refuse")

    def switch_to(self, mode: str) -> None:
        self._changed.set()  # wakes the requests that hang
        self._changed = threading.Event()
        self.mode = mode
        if mode == "refuse" and self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        elif mode != "refuse" and not self._server:
            self._server = _Listener(("127.0.0.1", self.port), self._handler())
            threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def begin(self, only: dict[int, str]) -> None:
        """Counts the requests anew, once all that are late have been handled."""
        self.switch_to("pass")
        for thread in self._late:
            thread.join()
        self.requests, self._late, self.only = [], [], only

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def handle_any(self) -> None:
                self.close_connection = True
                changed, body = proxy._changed, self.read_body()
                proxy.requests.append(f"{self.command} {self.path}")
                if self.command != "GET" and not self.path.endswith("/search"):
                    proxy.changes.append(f"{proxy.requests[-1]} ".encode() + body)
                mode = proxy.only.get(len(proxy.requests), proxy.mode)
                if mode == "late":
                    proxy._late.append(threading.current_thread())
                    time.sleep(proxy.LATE_SECONDS)
                    self.forward(body)
                elif mode == "hang":
                    changed.wait()
                elif mode == "error":
                    self.answer(503, b'{"error_code": "INTERNAL_ERROR", "message": "?"}')
                else:
                    self.answer(*self.forward(body), is_cut=mode == "cut")

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def read_body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def forward(self, body: bytes) -> tuple[int, bytes]:
                hop = ("host", "connection", "content-length", "accept-encoding")
                hop += ("transfer-encoding",)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in hop}
                connection = http.client.HTTPConnection(proxy.target, timeout=60)
                with contextlib.closing(connection):
                    connection.request(self.command, self.path, body, headers)
                    answer = connection.getresponse()
                    return answer.status, answer.read()

            def answer(self, status: int, body: bytes, is_cut: bool = False) -> None:
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body) + is_cut))
                    self.send_header("Connection", "close")
                    self.end_headers()
                    self.wfile.write(body[: len(body) // 2] if is_cut else body)

        return Handler


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:  # the client closed the connection
        pass


class Postgres:
    """A new PostgreSQL server with an empty database, whose address is `uri`. Skips the test if it
    is not installed.
    """

    def __init__(self) -> None:
        pytest.importorskip("psycopg", reason="needs PostgreSQL's driver")
        found = [Path(path).resolve() for path in (shutil.which("initdb"),) if path]
        found += sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
        if not found:
            pytest.skip("needs PostgreSQL: initdb is not on the PATH or in /usr/lib/postgresql")
        self.programs, self.port = found[0].parent, str(free_port())
        self.uri = f"postgresql+psycopg://lenet:a-secret@127.0.0.1:{self.port}/mlflow"
        self.folder = Path(tempfile.mkdtemp(prefix="lenet-pg-"))
        self.data = self.folder / "data"

    def __enter__(self) -> "Postgres":
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            shutil.chown(self.folder, "nobody")
        self._run("initdb", "-D", str(self.data), "-A", "trust", "-U", "lenet", "-N")
        self.start()
        self._run("createdb", "-h", "127.0.0.1", "-p", self.port, "-U", "lenet", "mlflow")
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):  # it is down
            self._run("pg_ctl", "-D", str(self.data), "-m", "immediate", "-w", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """After `kill` too, on the same data and port."""
        options = f"-p {self.port} -k {self.folder} -h 127.0.0.1 -F"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.data), "-l", log, "-w", "-o", options, "start")

    def kill(self) -> None:
        """Ends all its processes with SIGKILL."""
        first = psutil.Process(int((self.data / "postmaster.pid").read_text().split()[0]))
        first.suspend()  # or it would start another one meanwhile
        processes = [first, *first.children()]
        for process in processes:
            process.kill()
        assert not psutil.wait_procs(processes, LIMIT)[1]

    def _run(self, program: str, *arguments: str) -> None:
        as_user = ["runuser", "-u", "nobody", "--"] if os.geteuid() == 0 else []
        subprocess.run(
            [*as_user, str(self.programs / program), *arguments],
            stdout=subprocess.DEVNULL,  # pg_ctl's server would keep a pipe open
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            timeout=LIMIT,
            check=True,
        )


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """`folder` as a disk of this size. Skips the test where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs to mount a small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_disk(folder: Path) -> Path:
    """Fills the disk of `folder` to the last byte. Returns: the file that takes the space."""
    path = folder / "filling"
    with path.open("wb", buffering=0) as file:
        for block in (bytes(1 << 20), b"0"):
            with contextlib.suppress(OSError):
                while True:
                    file.write(block)
    return path
