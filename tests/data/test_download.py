"""Published sets are downloaded whole or not at all, and never taken on trust."""

import gzip
import io
import shutil
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torchvision

from lenet.data.download import download
from lenet.data.sources import find
from tests.support.fake_sets import Fake, FakeBatches, digest, refusal


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def site(tmp_path):
    """A folder that a server shows, and the server's address."""
    folder = tmp_path / "site"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def publish(fake, site, monkeypatch):
    """The set lies in the folders a and b of the site, and torchvision names them as its mirrors.

    Returns: the names of the packed files.
    """
    folder, url = site
    fake.publish(monkeypatch)
    (folder / "a").mkdir()
    packed = {f"{file}.gz": gzip.compress(content) for file, content in fake.files.items()}
    source = getattr(torchvision.datasets, fake.known.folder)
    if fake.known.batches:
        path = folder / "a" / source.filename
        with tarfile.open(path, "w:gz") as archive:
            for name, content in fake.files.items():
                member = tarfile.TarInfo(f"{fake.known.batches}/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        packed = {path.name: path.read_bytes()}
        monkeypatch.setattr(source, "url", f"{url}/a/{path.name}")
        monkeypatch.setattr(source, "tgz_md5", digest(packed[path.name], "md5"))
    elif fake.known.folder == "EMNIST":
        with zipfile.ZipFile(folder / "a" / "gzip.zip", "w") as archive:
            for name, content in packed.items():
                archive.writestr(f"gzip/{name}", content)
        packed = {"gzip.zip": (folder / "a" / "gzip.zip").read_bytes()}
        monkeypatch.setattr(source, "url", f"{url}/a/gzip.zip")
        monkeypatch.setattr(source, "md5", digest(packed["gzip.zip"], "md5"))
    elif fake.known.folder == "QMNIST":
        resources = [(f"{url}/a/{file}", digest(body, "md5")) for file, body in packed.items()]
        monkeypatch.setattr(source, "resources", {"train": resources[:2], "test": resources[2:]})
    else:
        # MNIST's own MD5s stay: its contents are known, so another packing of them will do.
        if fake.known.sha256 is None:
            resources = [(file, digest(body, "md5")) for file, body in packed.items()]
            monkeypatch.setattr(source, "resources", resources)
        monkeypatch.setattr(source, "mirrors", [f"{url}/a/", f"{url}/b/"])
    for name, content in packed.items():
        (folder / "a" / name).write_bytes(content)
    shutil.copytree(folder / "a", folder / "b")
    return list(packed)


def files_under(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "name", ["mnist", "fashion_mnist", "kmnist", "qmnist", "emnist_letters", "cifar10"]
)
def test_a_set_is_downloaded_into_torchvisions_layout(tmp_path, monkeypatch, capsys, site, name):
    fake = FakeBatches() if name == "cifar10" else Fake(name)
    packed = publish(fake, site, monkeypatch)
    root = tmp_path / "not" / "there yet"
    raw = download(name, root)
    assert fake.is_what_was_read(raw)
    assert raw.where == str(root / fake.known.place)
    shown = capsys.readouterr().err.splitlines()
    assert shown == [f"Downloading {site[1]}/a/{file}" for file in packed]
    assert files_under(root) == fake.files  # no archive, no temporary file
    assert fake.is_what_was_read(find(name, root))


def test_your_own_mirror_is_asked_first(tmp_path, monkeypatch, capsys, site):
    fake = Fake("qmnist")
    packed = publish(fake, site, monkeypatch)
    folder, url = site
    shutil.copytree(folder / "a", folder / "own" / "deep")
    assert fake.is_what_was_read(download("qmnist", tmp_path, f"{url}/own/deep"))
    shown = capsys.readouterr().err.splitlines()
    assert shown == [f"Downloading {url}/own/deep/{file}" for file in packed]


FAULTS = {
    "a web page": (lambda _: b"<html>Please log in</html>", "a damaged file"),
    "half a file": (lambda packed: packed[: len(packed) // 2], "a damaged file"),
    "damaged data": (lambda packed: packed[:10] + b"\xff" * (len(packed) - 10), "a damaged file"),
    "other contents": (
        lambda packed: gzip.compress(gzip.decompress(packed)[:-1] + b"\xee"),
        "other contents than expected",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["mnist", "kmnist"])  # checked by SHA-256, by MD5
def test_the_next_mirror_is_asked_after_one_that_fails(
    tmp_path, monkeypatch, capsys, site, name, fault
):
    fake = Fake(name)
    packed = publish(fake, site, monkeypatch)
    file = site[0] / "a" / packed[2]
    file.write_bytes(FAULTS[fault][0](file.read_bytes()))
    assert fake.is_what_was_read(download(name, tmp_path / "root"))
    shown = capsys.readouterr().err.splitlines()
    assert shown[-4:] == [f"Downloading {site[1]}/b/{file}" for file in packed]


@pytest.mark.parametrize("fault", FAULTS)
def test_what_each_mirror_did_is_told_and_no_file_is_left(tmp_path, monkeypatch, site, fault):
    packed = publish(Fake("mnist"), site, monkeypatch)
    folder, url = site
    change, reason = FAULTS[fault]
    (folder / "a" / packed[-1]).write_bytes(change((folder / "a" / packed[-1]).read_bytes()))
    (folder / "b" / packed[-1]).unlink()
    target = tmp_path / "root" / "MNIST" / "raw"
    host = url.removeprefix("http://")
    assert refusal(lambda: download("mnist", tmp_path / "root")) == (
        f"mnist could not be downloaded to {target} ({host}: {reason}; {host}: HTTP 404)"
    )
    assert not list(target.iterdir())


def test_a_root_that_is_a_file_is_refused_before_the_network_is_asked(tmp_path, capsys):
    (tmp_path / "root").write_text("a file")
    assert "Not a directory" in refusal(lambda: download("mnist", tmp_path / "root"))
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_mnist_itself_is_downloaded_from_a_folder_served_over_http(tmp_path, site, mnist_root):
    for path in mnist_root.glob("*.gz"):
        shutil.copy(path, site[0])
    raw = download("mnist", tmp_path / "root", mirror=site[1])
    assert raw.train[0].equal(find("mnist", mnist_root).train[0])
