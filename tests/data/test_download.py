"""Published sets are downloaded whole or not at all, and never taken on trust."""

import gzip
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torchvision

from lenet.data.download import download
from lenet.data.sources import find
from tests.support.fake_sets import Fake, digest, refusal


class Server(ThreadingHTTPServer):
    """Answers a path with a body or an HTTP status; "cut" ends the connection in the middle."""

    def __init__(self):
        self.answers = {}
        self.asked = []
        super().__init__(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server_port}"


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


def serve(server, fake, monkeypatch):
    """The server has the set in the folders a and b, and torchvision names them as its mirrors."""
    packed = {f"{file}.gz": gzip.compress(content) for file, content in fake.files.items()}
    source = getattr(torchvision.datasets, fake.known.folder)
    base = f"http://{server.host}"
    if fake.known.folder == "EMNIST":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, content in packed.items():
                archive.writestr(f"gzip/{name}", content)
        packed = {"gzip.zip": buffer.getvalue()}
        monkeypatch.setattr(source, "url", f"{base}/a/gzip.zip")
        monkeypatch.setattr(source, "md5", digest(packed["gzip.zip"], "md5"))
    elif fake.known.folder == "QMNIST":
        resources = [(f"{base}/a/{file}", digest(body, "md5")) for file, body in packed.items()]
        monkeypatch.setattr(source, "resources", {"train": resources[:2], "test": resources[2:]})
    else:
        # MNIST's own MD5s stay: its contents are known, so another packing of them will do.
        if fake.known.sha256 is None:
            resources = [(file, digest(body, "md5")) for file, body in packed.items()]
            monkeypatch.setattr(source, "resources", resources)
        monkeypatch.setattr(source, "mirrors", [f"{base}/a/", f"{base}/b/"])
    server.answers = {f"/{folder}/{f}": body for folder in "ab" for f, body in packed.items()}
    return packed


def files_under(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist", "qmnist", "emnist_letters"])
def test_a_set_is_downloaded_into_torchvisions_layout(tmp_path, monkeypatch, capsys, server, name):
    fake = Fake(name).publish(monkeypatch)
    packed = serve(server, fake, monkeypatch)
    root = tmp_path / "not" / "there yet"
    raw = download(name, root)
    assert fake.is_what_was_read(raw)
    assert raw.where == str(root / fake.known.folder / "raw")
    assert server.asked == [f"/a/{file}" for file in packed]
    shown = capsys.readouterr().err.splitlines()
    assert shown == [f"Downloading http://{server.host}/a/{file}" for file in packed]
    assert files_under(tmp_path) == fake.files  # no archive, no temporary file
    assert fake.is_what_was_read(find(name, root))


def test_your_own_mirror_is_asked_first(tmp_path, monkeypatch, server):
    fake = Fake("qmnist")
    packed = serve(server, fake, monkeypatch)
    server.answers |= {f"/own/deep/{file}": body for file, body in packed.items()}
    assert fake.is_what_was_read(download("qmnist", tmp_path, f"http://{server.host}/own/deep"))
    assert server.asked == [f"/own/deep/{file}" for file in packed]


def damaged(packed):
    """A gzip file whose deflated data is invalid from its first block on."""
    return packed[:10] + b"\xff" * (len(packed) - 10)


FAULTS = {
    "403": (lambda _: 403, "HTTP 403"),
    "the connection ends in the middle": (lambda _: "cut", "ChunkedEncodingError"),
    "a web page": (lambda _: b"<html>Please log in</html>", "BadGzipFile"),
    "half a file": (lambda packed: packed[: len(packed) // 2], "EOFError"),
    "damaged data": (damaged, "error"),
    "other contents": (
        lambda packed: gzip.compress(gzip.decompress(packed)[:-1] + b"\xee"),
        "other contents than expected",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["mnist", "kmnist"])  # checked by SHA-256, by MD5
def test_the_next_mirror_is_asked_after_one_that_fails(tmp_path, monkeypatch, server, name, fault):
    fake = Fake(name).publish(monkeypatch)
    packed = serve(server, fake, monkeypatch)
    file = list(packed)[2]
    server.answers[f"/a/{file}"] = FAULTS[fault][0](packed[file])
    assert fake.is_what_was_read(download(name, tmp_path))
    assert server.asked[-4:] == [f"/b/{file}" for file in packed]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_each_mirror_did_is_told_and_no_file_is_left(tmp_path, monkeypatch, server, fault):
    packed = serve(server, Fake("mnist").publish(monkeypatch), monkeypatch)
    answer, reason = FAULTS[fault]
    last = list(packed)[-1]
    server.answers |= {f"/a/{last}": answer(packed[last]), f"/b/{last}": 404}
    (tmp_path / "MNIST").mkdir()
    (tmp_path / "MNIST" / "notes.txt").write_text("mine")
    assert refusal(lambda: download("mnist", tmp_path)) == (
        f"mnist could not be downloaded to {tmp_path / 'MNIST' / 'raw'} "
        f"({server.host}: {reason}; {server.host}: HTTP 404)"
    )
    assert files_under(tmp_path) == {"notes.txt": b"mine"}


def test_a_root_that_is_a_file_is_refused_before_the_network_is_asked(
    tmp_path, monkeypatch, server
):
    serve(server, Fake("mnist").publish(monkeypatch), monkeypatch)
    root = tmp_path / "root"
    root.write_text("a file")
    assert "Not a directory" in refusal(lambda: download("mnist", root))
    assert server.asked == []


@pytest.mark.slow
def test_mnist_itself_is_downloaded_from_a_folder_served_over_http(tmp_path, server, mnist_root):
    server.answers = {f"/{path.name}": path.read_bytes() for path in mnist_root.glob("*.gz")}
    raw = download("mnist", tmp_path, mirror=f"http://{server.host}")
    assert len(server.asked) == 4
    assert raw.train[0].equal(find("mnist", mnist_root).train[0])
