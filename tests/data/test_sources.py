"""Known sets are found in every layout, fetched whole or not at all, and never taken on trust."""

import gzip
import hashlib
import io
import shutil
import socket
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest
import torch
import torchvision

from lenet.__main__ import main as lenet
from lenet.data import sources
from lenet.data.download import download
from lenet.data.errors import DataError
from lenet.data.known_sets import DIGITS, EMNIST_SPLITS, KNOWN
from lenet.data.sources import Raw, find

TRAIN, TEST, SIDE = 12, 6, 5
LAYOUTS = ("raw", "raw.gz", "plain", "plain.gz")


@pytest.fixture(autouse=True)
def only_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that asks the network fails, wherever it asks from."""
    connect, getaddrinfo = socket.socket.connect, socket.getaddrinfo

    def local_connect(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1", f"a test reached for {address}"
        connect(self, address)

    def local_getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        assert host == "127.0.0.1", f"a test reached for {host}"
        return getaddrinfo(host, *args, **options)

    monkeypatch.setattr(socket.socket, "connect", local_connect)
    monkeypatch.setattr(socket, "getaddrinfo", local_getaddrinfo)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def idx_bytes(array: np.ndarray) -> bytes:
    code, dtype = (0x08, "u1") if array.dtype == np.uint8 else (0x0C, ">i4")
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + shape + array.astype(dtype).tobytes()


def digest(content: bytes, kind: str = "sha256") -> str:
    return hashlib.new(kind, content).hexdigest()


class Fake:
    """A tiny set in a known set's files: what they hold, and what should be read from them."""

    def __init__(self, name: str, seed: int = 0) -> None:
        known = KNOWN[name]
        draw = np.random.default_rng(seed)
        self.name, self.known, self.pairs = name, known, []
        self.files: dict[str, bytes] = {}
        for count, images_file, labels_file in zip(
            (TRAIN, TEST), known.files[::2], known.files[1::2], strict=True
        ):
            images = draw.integers(0, 256, (count, SIDE, SIDE), np.uint8)
            labels = draw.integers(0, len(known.classes), count, np.uint8)
            upright = images.transpose(0, 2, 1) if name.startswith("emnist") else images
            self.pairs.append((torch.tensor(upright.copy()), torch.tensor(labels).long()))
            if name == "emnist_letters":
                labels += 1
            if name == "qmnist":  # class, series, writer, digit ...
                labels = np.column_stack([labels, np.full((count, 7), 1000)]).astype(np.int32)
            self.files |= {images_file: idx_bytes(images), labels_file: idx_bytes(labels)}

    def publish(self, monkeypatch: pytest.MonkeyPatch) -> "Fake":
        """From now on these contents are what the set's published checksums ask for."""
        sha256 = tuple(digest(content) for content in self.files.values())
        if self.known.sha256:
            monkeypatch.setitem(KNOWN, self.name, replace(self.known, sha256=sha256))
        return self

    def folder(self, root: Path, layout: str) -> Path:
        return root / self.known.folder / "raw" if layout.startswith("raw") else root

    def lay(self, root: Path, layout: str, leave_out: str = "") -> None:
        folder = self.folder(root, layout)
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in self.files.items():
            if file != leave_out and layout.endswith(".gz"):
                (folder / f"{file}.gz").write_bytes(gzip.compress(content))
            elif file != leave_out:
                (folder / file).write_bytes(content)

    def lay_pt(self, root: Path) -> tuple[Path, Path]:
        paths = []
        for part, file, pair in zip(
            ("train", "test"), ("training.pt", "test.pt"), self.pairs, strict=True
        ):
            folder = root / part / self.known.folder / "processed"
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(pair, folder / file)
            paths.append(folder / file)
        return paths[0], paths[1]

    def is_what_was_read(self, raw: Raw | None) -> bool:
        return raw is not None and all(
            got.dtype == expected.dtype and got.equal(expected)
            for pair, (images, labels) in zip((raw.train, raw.test), self.pairs, strict=True)
            for got, expected in zip(pair, (images, labels), strict=True)
        )


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def tree(folder: Path) -> dict[str, bytes | None]:
    """All that lies under a folder, hidden things and empty folders too."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


# ---- on disk ---------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", KNOWN)
def test_each_set_is_read_upright_and_from_0_in_each_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, layout: str
) -> None:
    fake = Fake(name).publish(monkeypatch)
    fake.lay(tmp_path, layout)
    raw = find(name, tmp_path)
    assert fake.is_what_was_read(raw)
    assert raw is not None
    assert (raw.name, raw.where) == (name, str(fake.folder(tmp_path, layout)))
    assert raw.classes == KNOWN[name].classes


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_the_tutorials_layout_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    fake = Fake(name).publish(monkeypatch)
    fake.lay_pt(tmp_path)
    assert fake.is_what_was_read(find(name, tmp_path))


def test_the_tutorials_layout_goes_before_torchvisions_and_that_before_plain_files(
    tmp_path: Path,
) -> None:
    fakes = [Fake("kmnist", seed) for seed in range(5)]
    fakes[4].lay(tmp_path, "plain.gz")
    assert fakes[4].is_what_was_read(find("kmnist", tmp_path))
    fakes[3].lay(tmp_path, "plain")
    assert fakes[3].is_what_was_read(find("kmnist", tmp_path))
    fakes[2].lay(tmp_path, "raw.gz")
    assert fakes[2].is_what_was_read(find("kmnist", tmp_path))
    fakes[1].lay(tmp_path, "raw")
    assert fakes[1].is_what_was_read(find("kmnist", tmp_path))
    fakes[0].lay_pt(tmp_path)
    assert fakes[0].is_what_was_read(find("kmnist", tmp_path))


def test_packed_and_plain_files_may_lie_side_by_side(tmp_path: Path) -> None:
    fake = Fake("kmnist")
    fake.lay(tmp_path, "plain")
    file = fake.known.files[0]
    (tmp_path / f"{file}.gz").write_bytes(gzip.compress((tmp_path / file).read_bytes()))
    (tmp_path / file).unlink()
    assert fake.is_what_was_read(find("kmnist", tmp_path))


@pytest.mark.parametrize("root", ["empty", "nowhere/at/all", "x" * 300])
def test_where_no_file_of_a_set_is_there_is_none(tmp_path: Path, root: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README").write_text("other")
    assert [name for name in KNOWN if find(name, tmp_path / root)] == []


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("index", range(4))
def test_one_missing_file_of_four_is_named(tmp_path: Path, layout: str, index: int) -> None:
    fake = Fake("kmnist")
    missing = fake.known.files[index]
    fake.lay(tmp_path, layout, leave_out=missing)
    path = fake.folder(tmp_path, layout) / missing
    assert refusal(lambda: find("kmnist", tmp_path)) == (f"{path}: no such file")


@pytest.mark.parametrize("index", [0, 1])
def test_one_missing_file_of_the_tutorials_two_is_named(tmp_path: Path, index: int) -> None:
    missing = Fake("kmnist").lay_pt(tmp_path)[index]
    missing.unlink()
    assert refusal(lambda: find("kmnist", tmp_path)).startswith(f"{missing}: no such file")


@pytest.mark.parametrize("claimed", ["mnist", "kmnist"])
def test_the_files_of_another_set_are_refused_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, claimed: str
) -> None:
    clothes = Fake("fashion_mnist", seed=1).publish(monkeypatch)
    clothes.lay(tmp_path, "plain")
    message = refusal(lambda: find(claimed, tmp_path))
    file = clothes.known.files[0]
    assert message == (f"{tmp_path / file}: expected {claimed}, found {file} of fashion_mnist")


@pytest.mark.parametrize("index", range(4))
def test_one_changed_byte_in_a_set_of_known_contents_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    fake = Fake("mnist").publish(monkeypatch)
    fake.lay(tmp_path, "raw")
    path = tmp_path / "MNIST" / "raw" / fake.known.files[index]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    message = refusal(lambda: find("mnist", tmp_path))
    assert message.startswith(f"{path}: expected mnist's {path.name} (SHA-256 ")
    assert digest(bytes(content))[:12] in message


def test_other_images_in_the_tutorials_layout_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Fake("mnist").publish(monkeypatch)
    _, test = Fake("mnist").lay_pt(tmp_path)
    images, labels = torch.load(test, weights_only=True)
    torch.save((images, labels.roll(1)), test)
    message = refusal(lambda: find("mnist", tmp_path))
    assert message.startswith(f"{test}: expected mnist's t10k-labels-idx1-ubyte")


@pytest.mark.parametrize(
    ("pair", "expected"),
    [
        ((torch.zeros(3, 4, 4), torch.zeros(3).long()), "images as uint8"),
        ((torch.zeros(3, 4, 4).byte(), torch.zeros(3)), "labels as integers"),
        ((torch.zeros(3, 4, 4).byte(), torch.zeros(2).long()), "as many labels as images"),
        ((torch.zeros(0, 4, 4).byte(), torch.zeros(0).long()), "at least one image"),
        ((torch.zeros(3, 4, 4).byte(), torch.zeros(3, 0).long()), "labels as integers"),
    ],
)
def test_a_tutorial_file_of_the_wrong_things_is_named(
    tmp_path: Path, pair: tuple[torch.Tensor, torch.Tensor], expected: str
) -> None:
    _, test = Fake("mnist").lay_pt(tmp_path)
    torch.save(pair, test)
    assert refusal(lambda: find("mnist", tmp_path)).startswith(f"{test}: expected {expected}")


def test_a_truncated_file_and_counts_that_differ_are_named(tmp_path: Path) -> None:
    fake = Fake("kmnist")
    fake.lay(tmp_path, "plain")
    images = tmp_path / fake.known.files[2]
    whole = images.read_bytes()
    images.write_bytes(whole[:-1])
    assert refusal(lambda: find("kmnist", tmp_path)).startswith(f"{images}: expected 150 bytes")
    fewer = np.zeros((TEST - 1, SIDE, SIDE), np.uint8)
    images.write_bytes(idx_bytes(fewer))
    message = refusal(lambda: find("kmnist", tmp_path))
    assert message.startswith(f"{images}: ")
    assert message.endswith("found 5 images and 6 labels")


def test_the_splits_of_emnist_have_the_published_numbers_of_classes() -> None:
    assert {split: len(classes) for split, classes in EMNIST_SPLITS.items()} == {
        "balanced": 47,
        "byclass": 62,
        "bymerge": 47,
        "letters": 26,
        "digits": 10,
        "mnist": 10,
    }
    assert all(len(set(known.classes)) == len(known.classes) for known in KNOWN.values())


@pytest.mark.slow
def test_mnist_itself_is_found(mnist_root: Path) -> None:
    raw = find("mnist", mnist_root)
    assert raw is not None
    assert (raw.train[0].shape, raw.test[0].shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert raw.test[1][:8].tolist() == [7, 2, 1, 0, 4, 1, 4, 9]  # the tutorial prints these
    message = refusal(lambda: find("kmnist", mnist_root))
    assert message.endswith("expected kmnist, found train-images-idx3-ubyte of mnist")


def test_the_embedded_digits_are_real_and_drawn_in_the_middle() -> None:
    first, second = sources.embedded_digits(), sources.embedded_digits()
    assert [len(labels) for _, labels in (first.train, first.test)] == [1437, 360]
    for (images, labels), (images2, labels2) in (
        (first.train, second.train),
        (first.test, second.test),
    ):
        assert images.equal(images2)
        assert labels.equal(labels2)
        assert images.shape[1:] == (28, 28)
        assert images.max() == 255
        assert images[:, :4].max() == images[:, -4:].max() == 0
        assert images[..., :4].max() == images[..., -4:].max() == 0
        assert (labels.bincount(minlength=10) > len(labels) // 20).all()
    assert first.classes == DIGITS


# ---- download --------------------------------------------------------------------------------

Answer = bytes | int | str  # a body, an HTTP status, or "cut": the connection ends in the middle


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        answer = self.server.answers.get(self.path, 404)
        body = b"x" * 500 if isinstance(answer, str | int) else answer
        self.send_response(answer if isinstance(answer, int) else 200)
        self.send_header("Content-Length", str(len(body) * (2 if answer == "cut" else 1)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def packed_files(fake: Fake) -> dict[str, bytes]:
    return {f"{file}.gz": gzip.compress(content) for file, content in fake.files.items()}


def zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def serve(
    server: Server, fake: Fake, monkeypatch: pytest.MonkeyPatch, folders: tuple[str, ...] = ("a",)
) -> dict[str, bytes]:
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
def test_a_set_is_fetched_into_torchvisions_layout_and_only_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    server: Server,
    name: str,
) -> None:
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

    family, _, split = name.partition("_") if name.startswith("emnist") else (name, "", "")
    asked = list(server.asked)
    arguments = [family, "--root", str(root), *(["--split", split] if split else [])]
    assert lenet(["data", *arguments]) == 0
    assert server.asked == asked
    assert capsys.readouterr().out.startswith(f"{name} from {raw.where}\n")


def test_a_mirror_of_ones_own_is_asked_first_and_alone_where_it_has_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    fake = Fake("qmnist")
    packed = serve(server, fake, monkeypatch)
    server.answers |= {f"/own/deep/{file}": body for file, body in packed.items()}
    raw = download("qmnist", tmp_path, mirror=f"{server.url}/own/deep")
    assert fake.is_what_was_read(raw)
    assert server.asked == [f"/own/deep/{file}" for file in packed]


@pytest.mark.parametrize("mirror", ["nonsense", "ftp://127.0.0.1/x", "http://127.0.0.1:99999/"])
def test_a_mirror_that_is_no_address_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, mirror: str
) -> None:
    fake = Fake("mnist").publish(monkeypatch)
    serve(server, fake, monkeypatch)
    assert fake.is_what_was_read(download("mnist", tmp_path, mirror))


def damaged(packed: bytes) -> bytes:
    """A gzip file whose deflated data is invalid from its first block on."""
    return packed[:10] + b"\xff" * (len(packed) - 10)


FAULTS: dict[str, Callable[[bytes], Answer]] = {
    "403": lambda _: 403,
    "404": lambda _: 404,
    "500": lambda _: 500,
    "the connection ends in the middle": lambda _: "cut",
    "a web page": lambda _: b"<html>Please log in</html>",
    "nothing": lambda _: b"",
    "half a file": lambda packed: packed[: len(packed) // 2],
    "damaged data": damaged,
    "other contents": lambda packed: gzip.compress(gzip.decompress(packed)[:-1] + b"\xee"),
    "not packed": gzip.decompress,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["mnist", "kmnist"])  # checked by SHA-256, by MD5
def test_after_a_mirror_that_fails_the_next_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, name: str, fault: str
) -> None:
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
    [
        (name, fault)
        for name in ONE_OF_EACH_KIND
        for fault in FAULTS
        if (name, fault) != ("emnist_letters", "not packed")  # a zip archive is no gzip file
    ],
)
def test_where_the_last_file_can_be_had_nowhere_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, name: str, fault: str
) -> None:
    fake = Fake(name).publish(monkeypatch)
    packed = serve(server, fake, monkeypatch)
    file = list(packed)[-1]
    make: Callable[[bytes], Answer] = FAULTS[fault]
    if name == "emnist_letters" and fault == "other contents":
        make = zipped({}).__add__
    server.answers[f"/a/{file}"] = make(packed[file])
    before = tree(tmp_path)
    message = refusal(lambda: download(name, tmp_path / "deep" / "root"))
    assert message.startswith(f"{file} could not be downloaded (127.0.0.1:{server.server_port}: ")
    assert tree(tmp_path) == before == {}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("403", "HTTP 403"),
        ("500", "HTTP 500"),
        ("the connection ends in the middle", "ChunkedEncodingError"),
        ("a web page", "a damaged archive"),
        ("damaged data", "a damaged archive"),
        ("other contents", "other contents than expected"),
    ],
)
def test_why_each_mirror_was_of_no_use_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, fault: str, reason: str
) -> None:
    packed = serve(server, Fake("mnist").publish(monkeypatch), monkeypatch, ("a", "b"))
    first = next(iter(packed))
    server.answers[f"/a/{first}"] = FAULTS[fault](packed[first])
    server.answers[f"/b/{first}"] = 404
    host = f"127.0.0.1:{server.server_port}"
    assert refusal(lambda: download("mnist", tmp_path)) == (
        f"{first} could not be downloaded ({host}: {reason}; {host}: HTTP 404)"
    )


@pytest.mark.parametrize(
    "archive", [b"no zip at all", zipped({}), zipped({"gzip/other": b""}), zipped({"a": b"b"})[:50]]
)
def test_an_archive_without_the_splits_files_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, archive: bytes
) -> None:
    serve(server, Fake("emnist_balanced"), monkeypatch)
    server.answers["/a/gzip.zip"] = archive
    monkeypatch.setattr(torchvision.datasets.EMNIST, "md5", digest(archive, "md5"))
    message = refusal(lambda: download("emnist_balanced", tmp_path))
    assert "a damaged archive" in message
    assert tree(tmp_path) == {}


def test_a_set_under_another_sets_address_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    clothes = Fake("fashion_mnist", seed=1).publish(monkeypatch)
    impostor = Fake("kmnist")
    impostor.files = clothes.files
    serve(server, impostor, monkeypatch)
    assert "of fashion_mnist" in refusal(lambda: download("kmnist", tmp_path))
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("when", range(4))
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interrupted_download_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    server: Server,
    when: int,
    error: type[BaseException],
) -> None:
    serve(server, Fake("mnist").publish(monkeypatch), monkeypatch)
    fetch = pooch.HTTPDownloader.__call__
    calls = []

    def interrupted(self: Any, url: str, output: Any, *rest: Any, **options: Any) -> Any:
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


def test_what_lay_there_before_is_left_by_a_failed_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    packed = serve(server, Fake("mnist").publish(monkeypatch), monkeypatch)
    server.answers[f"/a/{list(packed)[3]}"] = 500
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    (tmp_path / "MNIST" / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    refusal(lambda: download("mnist", tmp_path))
    assert tree(tmp_path) == before


def test_a_root_that_is_a_file_is_refused_before_the_network_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    serve(server, Fake("mnist").publish(monkeypatch), monkeypatch)
    root = tmp_path / "root"
    root.write_text("a file")
    message = refusal(lambda: download("mnist", root))
    assert message.startswith(f"{root}: mnist cannot be stored there (")
    assert tree(tmp_path) == {"root": b"a file"}
    assert server.asked == []


def test_a_root_whose_name_is_too_long_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    serve(server, Fake("mnist").publish(monkeypatch), monkeypatch)
    root = tmp_path / ("x" * 300)
    assert refusal(lambda: download("mnist", root)).startswith(f"{root}: mnist cannot be stored")
    assert server.asked == []


def test_a_full_disk_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    serve(server, Fake("mnist").publish(monkeypatch), monkeypatch)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    assert "No space left on device" in refusal(lambda: download("mnist", tmp_path))
    assert tree(tmp_path) == {}


@pytest.mark.slow
def test_mnist_itself_is_fetched_from_a_folder_served_over_http(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Server, mnist_root: Path
) -> None:
    server.answers = {f"/{path.name}": path.read_bytes() for path in mnist_root.glob("*.gz")}
    raw = download("mnist", tmp_path, mirror=server.url)
    assert len(server.asked) == 4
    found = find("mnist", mnist_root)
    assert found is not None
    assert raw.train[0].equal(found.train[0])
    assert (tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte").stat().st_size == 47_040_016
