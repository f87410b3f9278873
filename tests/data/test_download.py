"""Published sets are downloaded whole or not at all, and never taken on trust."""

import gzip
import io
import shutil
import socket
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pooch
import pytest
import torchvision

from lenet.data.download import download
from lenet.data.sources import find
from tests.support.fake_sets import Fake, digest, refusal, tree


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch):
    """A test that asks the network fails, wherever it asks from."""
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def local_connect(self, address):
        assert address[0] == "127.0.0.1", f"a test reached for {address}"
        connect(self, address)

    def local_getaddrinfo(host, *args, **options):
        assert host == "127.0.0.1", f"a test reached for {host}"
        return getaddrinfo(host, *args, **options)

    monkeypatch.setattr(socket.socket, "connect", local_connect)
    monkeypatch.setattr(socket, "getaddrinfo", local_getaddrinfo)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


class Server(ThreadingHTTPServer):
    """Answers a path with a body or an HTTP status; "cut" ends the connection in the middle."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self):
        self.server.asked.append(self.path)
        answer = self.server.answers.get(self.path, 404)
        body = b"x" * 500 if isinstance(answer, str | int) else answer
        self.send_response(answer if isinstance(answer, int) else 200)
        self.send_header("Content-Length", str(len(body) * (2 if answer == "cut" else 1)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def packed_files(fake):
    return {f"{file}.gz": gzip.compress(content) for file, content in fake.files.items()}


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def serve(server, fake, monkeypatch, folders=("a",)):
    """Makes torchvision believe that a fake set is the real one and that the server has it."""
    packed = packed_files(fake)
    source = getattr(torchvision.datasets, fake.known.folder)
    if fake.known.folder == "EMNIST":
        packed = {"gzip.zip": zipped({f"gzip/{file}": body for file, body in packed.items()})}
        monkeypatch.setattr(source, "url", f"{server.url}/a/gzip.zip")
        monkeypatch.setattr(source, "md5", digest(packed["gzip.zip"], "md5"))
    elif fake.known.folder == "QMNIST":
        resources = [(f"{server.url}/a/{f}", digest(body, "md5")) for f, body in packed.items()]
        monkeypatch.setattr(source, "resources", {"train": resources[:2], "test": resources[2:]})
    else:
        # MNIST's own MD5s stay: its contents are known, so another packing of them will do.
        if fake.known.sha256 is None:
            resources = [(file, digest(body, "md5")) for file, body in packed.items()]
            monkeypatch.setattr(source, "resources", resources)
        monkeypatch.setattr(source, "mirrors", [f"{server.url}/{folder}/" for folder in folders])
    server.answers |= {f"/{folder}/{f}": body for folder in folders for f, body in packed.items()}
    return packed


ONE_OF_EACH_KIND = ("mnist", "fashion_mnist", "kmnist", "qmnist", "emnist_letters")


@pytest.mark.parametrize("name", ONE_OF_EACH_KIND)
def test_a_set_is_downloaded_into_torchvisions_layout_and_only_once(
    tmp_path, monkeypatch, capsys, server, name
):
    fake = Fake(name).publish(monkeypatch)
    packed = serve(server, fake, monkeypatch)
    root = tmp_path / "not" / "there yet"
    raw = download(name, root)
    assert fake.is_what_was_read(raw)
    assert raw.where == str(root / fake.known.folder / "raw")
    assert server.asked == [f"/a/{file}" for file in packed]
    shown = capsys.readouterr().err.splitlines()
    assert shown == [f"Downloading {server.url}/a/{file}" for file in packed]
    # No archive, no temporary file, nothing but the four.
    kept = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*") if path.is_file()}
    folder = Path("not", "there yet", fake.known.folder, "raw")
    assert {path.name: path.read_bytes() for path in kept.values()} == fake.files
    assert {path.parent for path in kept} == {folder}
    assert sum(1 for _ in tmp_path.rglob("*")) == len(kept) + len(folder.parts)

    assert fake.is_what_was_read(find(name, root))


def test_your_own_mirror_is_asked_first(tmp_path, monkeypatch, server):
    fake = Fake("qmnist")
    packed = serve(server, fake, monkeypatch)
    server.answers |= {f"/own/deep/{file}": body for file, body in packed.items()}
    raw = download("qmnist", tmp_path, mirror=f"{server.url}/own/deep")
    assert fake.is_what_was_read(raw)
    assert server.asked == [f"/own/deep/{file}" for file in packed]


def damaged(packed):
    """A gzip file whose deflated data is invalid from its first block on."""
    return packed[:10] + b"\xff" * (len(packed) - 10)


FAULTS = {
    "403": lambda _: 403,
    "500": lambda _: 500,
    "the connection ends in the middle": lambda _: "cut",
    "a web page": lambda _: b"<html>Please log in</html>",
    "half a file": lambda packed: packed[: len(packed) // 2],
    "damaged data": damaged,
    "other contents": lambda packed: gzip.compress(gzip.decompress(packed)[:-1] + b"\xee"),
    "not packed": gzip.decompress,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["mnist", "kmnist"])  # checked by SHA-256, by MD5
def test_the_next_mirror_is_asked_after_one_that_fails(tmp_path, monkeypatch, server, name, fault):
    fake = Fake(name).publish(monkeypatch)
    packed = serve(server, fake, monkeypatch, ("a", "b"))
    file = list(packed)[2]
    server.answers[f"/a/{file}"] = FAULTS[fault](packed[file])
    assert fake.is_what_was_read(download(name, tmp_path))
    asked = [f"/a/{other}" for other in packed]
    asked.insert(3, f"/b/{file}")
    assert server.asked == asked


@pytest.mark.parametrize(
    ("name", "fault"),
    [("mnist", "half a file"), ("kmnist", "other contents"), ("emnist_letters", "half a file")],
)
def test_a_file_that_no_mirror_has_leaves_nothing_behind(
    tmp_path, monkeypatch, server, name, fault
):
    packed = serve(server, Fake(name).publish(monkeypatch), monkeypatch)
    file = list(packed)[-1]
    server.answers[f"/a/{file}"] = FAULTS[fault](packed[file])
    before = tree(tmp_path)
    message = refusal(lambda: download(name, tmp_path / "deep" / "root"))
    assert message.startswith(f"{file} could not be downloaded (127.0.0.1:{server.server_port}: ")
    assert tree(tmp_path) == before == {}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("403", "HTTP 403"),
        ("the connection ends in the middle", "ChunkedEncodingError"),
        ("a web page", "a damaged archive"),
        ("damaged data", "a damaged archive"),
        ("other contents", "other contents than expected"),
    ],
)
def test_the_reason_of_each_mirror_is_shown(tmp_path, monkeypatch, server, fault, reason):
    packed = serve(server, Fake("mnist").publish(monkeypatch), monkeypatch, ("a", "b"))
    first = next(iter(packed))
    server.answers[f"/a/{first}"] = FAULTS[fault](packed[first])
    server.answers[f"/b/{first}"] = 404
    host = f"127.0.0.1:{server.server_port}"
    assert refusal(lambda: download("mnist", tmp_path)) == (
        f"{first} could not be downloaded ({host}: {reason}; {host}: HTTP 404)"
    )


@pytest.mark.parametrize(("when", "error"), [(0, SystemExit), (3, KeyboardInterrupt)])
def test_an_interrupted_download_leaves_nothing(tmp_path, monkeypatch, server, when, error):
    serve(server, Fake("mnist").publish(monkeypatch), monkeypatch)
    fetch = pooch.HTTPDownloader.__call__
    calls = []

    def interrupted(self, url, output, *rest, **options):
        calls.append(url)
        if len(calls) > when:
            Path(output).write_bytes(b"half of")
            raise error
        return fetch(self, url, output, *rest, **options)

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", interrupted)
    with pytest.raises(error):
        download("mnist", tmp_path / "deep" / "root")
    assert len(calls) == when + 1
    assert tree(tmp_path) == {}


def test_a_failed_download_leaves_what_was_there_before(tmp_path, monkeypatch, server):
    packed = serve(server, Fake("mnist").publish(monkeypatch), monkeypatch)
    server.answers[f"/a/{list(packed)[3]}"] = 500
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "MNIST" / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    refusal(lambda: download("mnist", tmp_path))
    assert tree(tmp_path) == before


def test_a_root_that_is_a_file_is_refused_before_the_network_is_asked(
    tmp_path, monkeypatch, server
):
    serve(server, Fake("mnist").publish(monkeypatch), monkeypatch)
    root = tmp_path / "root"
    root.write_text("a file")
    message = refusal(lambda: download("mnist", root))
    assert message.startswith(f"{root}: mnist cannot be stored there (")
    assert tree(tmp_path) == {"root": b"a file"}
    assert server.asked == []


def test_a_full_disk_is_one_line(tmp_path, monkeypatch, server):
    serve(server, Fake("mnist").publish(monkeypatch), monkeypatch)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    assert "No space left on device" in refusal(lambda: download("mnist", tmp_path))
    assert tree(tmp_path) == {}


@pytest.mark.slow
def test_mnist_itself_is_downloaded_from_a_folder_served_over_http(
    tmp_path, monkeypatch, server, mnist_root
):
    server.answers = {f"/{path.name}": path.read_bytes() for path in mnist_root.glob("*.gz")}
    raw = download("mnist", tmp_path, mirror=server.url)
    assert len(server.asked) == 4
    found = find("mnist", mnist_root)
    assert raw.train[0].equal(found.train[0])
    assert (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").stat().st_size == 47_040_016
