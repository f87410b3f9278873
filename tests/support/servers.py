"""Tracking servers to fail on purpose: MLflow's own, a proxy that breaks it, and PostgreSQL."""

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

import pytest
import sqlalchemy


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


class Server:
    """`mlflow server` with its artifacts behind it, in a process group of its own."""

    def __init__(self, folder: Path, backend: str | None = None, port: int | None = None) -> None:
        self.folder = folder
        self.backend = backend or f"sqlite:///{folder / 'server.db'}"
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, seconds: float = 120) -> None:
        options = ["--backend-store-uri", self.backend, "--host", "127.0.0.1"]
        options += ["--artifacts-destination", str(self.folder / "artifacts"), "--serve-artifacts"]
        options += ["--port", str(self.port), "--workers", "1"]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *options],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
                | {"MLFLOW_DISABLE_TELEMETRY": "true"},
            )
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            time.sleep(0.2)
        self.stop()
        pytest.fail(f"mlflow server did not start:\n{(self.folder / 'server.log').read_text()}")

    def stop(self) -> None:
        """At once, as a power failure would."""
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


class Proxy:
    """An address in front of a server whose `mode` says how it fails, for every `every`-th request:

    pass      as if it was not there
    refuse    nobody listens
    hang      takes the request and never answers
    error     answers `status`
    cut       the server has carried the request out, but the connection breaks within the answer
    half      the connection breaks within the request; the server gets half of it
    late      the server gets the request whole, but `seconds` later, and so is the answer
    garbage   answers 200 with a web page

    Several, separated by spaces, take turns. `only` limits it to requests whose path that is a
    part of. `counts` has how many requests there were in each mode.
    """

    def __init__(self, target: str) -> None:
        self.target = target.removeprefix("http://")
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.mode, self.every, self.status, self.seconds, self.only = "refuse", 1, 500, 1.0, ""
        self.counts: dict[str, int] = {}
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._server: ThreadingHTTPServer | None = None

    def __enter__(self) -> "Proxy":
        self.set("pass")
        return self

    def __exit__(self, *_: object) -> None:
        self.set("refuse")

    def set(
        self, mode: str, every: int = 1, status: int = 500, seconds: float = 1.0, only: str = ""
    ) -> None:
        self._changed.set()  # those that hang go
        self._changed = threading.Event()
        self.mode, self.every, self.status = mode, every, status
        self.seconds, self.only = seconds, only
        if mode == "refuse" and self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        elif mode != "refuse" and not self._server:
            self._server = _Listener(("127.0.0.1", self.port), self._handler())
            threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def requests(self) -> int:
        return sum(self.counts.values())

    def mode_for(self, path: str) -> str:
        with self._lock:
            count = self.counts[self.mode] = self.counts.get(self.mode, 0) + 1
            modes = self.mode.split()
            fails = self.only in path and count % self.every == 0
            return modes[count // self.every % len(modes)] if fails else "pass"

    def _handler(proxy) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def handle_any(self) -> None:
                self.close_connection = True
                changed, body, mode = proxy._changed, self.body(), proxy.mode_for(self.path)
                if mode == "hang":
                    changed.wait()
                elif mode == "error":
                    self.answer(proxy.status, b'{"error_code": "INTERNAL_ERROR", "message": "?"}')
                elif mode == "garbage":
                    self.answer(200, b"<html><body>It works!</body></html>")
                elif mode == "half":
                    with contextlib.suppress(OSError, http.client.HTTPException):
                        self.forward(body, part=len(body) // 2)
                else:
                    if mode == "late":
                        changed.wait(proxy.seconds)
                    self.answer(*self.forward(body), part=0.5 if mode == "cut" else 1)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any

            def body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def forward(self, body: bytes, part: int | None = None) -> tuple[int, bytes]:
                connection = http.client.HTTPConnection(proxy.target, timeout=60)
                with contextlib.closing(connection):
                    connection.putrequest(self.command, self.path)
                    for name, value in self.headers.items():
                        hop = ("host", "connection", "content-length", "accept-encoding")
                        if name.lower() not in (*hop, "transfer-encoding"):
                            connection.putheader(name, value)
                    connection.putheader("Content-Length", str(len(body)))
                    connection.endheaders(body[:part])
                    if part is not None:
                        return 0, b""
                    answer = connection.getresponse()
                    return answer.status, answer.read()

            def answer(self, status: int, body: bytes, part: float = 1) -> None:
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(body) + (part < 1)))
                    self.send_header("Connection", "close")
                    self.end_headers()
                    self.wfile.write(body[: int(len(body) * part)])

        return Handler


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def handle_error(self, *_: object) -> None:  # whoever asked has gone
        pass


class Postgres:
    """A PostgreSQL of its own, which root may not run: then as `postgres` or `nobody`."""

    def __init__(self, binaries: Path, user: str | None) -> None:
        self.binaries = binaries
        self.user = user
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="lenet-pg-"))
        if user:
            shutil.chown(self.folder, user)
        self._run("initdb", "-D", self.data, "-A", "trust", "-U", "lenet", "-N")
        self.start()

    @property
    def data(self) -> str:
        return str(self.folder / "data")

    def _run(self, program: str, *arguments: str) -> None:
        as_user = ["runuser", "-u", self.user, "--"] if self.user else []
        done = subprocess.run(
            [*as_user, str(self.binaries / program), *arguments],
            stdout=subprocess.DEVNULL,  # a pipe would stay open in the server that it starts
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            timeout=120,
        )
        assert done.returncode == 0, f"{program} {arguments}: status {done.returncode}"

    def start(self) -> None:
        options = f"-p {self.port} -k {self.folder} -h 127.0.0.1 -F"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", self.data, "-l", log, "-w", "-o", options, "start")

    def stop(self) -> None:
        """At once, as a power failure would."""
        self._run("pg_ctl", "-D", self.data, "-m", "immediate", "-w", "stop")

    def database(self, name: str) -> str:
        """The address of a new one."""
        place = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "lenet"]
        self._run("createdb", *place, name)
        return f"postgresql://lenet:a-secret@127.0.0.1:{self.port}/{name}"

    def close(self) -> None:
        if (self.folder / "data" / "postmaster.pid").exists():
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """Skips where there is none."""
    try:
        sqlalchemy.create_engine("postgresql://x")
    except ImportError as error:
        pytest.skip(f"needs PostgreSQL's driver: {error}")
    found = [Path(p) for p in (shutil.which("initdb"),) if p]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
    if not found:
        pytest.skip("needs PostgreSQL: initdb is not on the PATH or in /usr/lib/postgresql")
    user = None
    if os.geteuid() == 0:
        users = [name for name in ("postgres", "nobody") if _has_user(name)]
        if not users or not shutil.which("runuser"):
            pytest.skip("PostgreSQL can't be run by root, and there is no other user to be")
        user = users[0]
    server = Postgres(found[0].resolve().parent, user)
    try:
        yield server
    finally:
        server.close()


def _has_user(name: str) -> bool:
    import pwd

    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A folder on a disk of its own. Skips where mounting is not allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    options = ["-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    done = subprocess.run(["mount", *options], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"needs to mount a small disk: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Takes all that is free on a folder's disk, to the last byte. Returns: the file that does."""
    path = folder / "filling"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(1 << 20))
            except OSError:
                break
        while True:
            file.write(b"0")
    return path
