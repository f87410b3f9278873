"""The server of the demo page: what it answers, and what it refuses."""

import io
import re
import socket
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import requests
import torch
import uvicorn
from PIL import Image

from lenet.__main__ import main
from lenet.commands.demo import HOST, server
from lenet.commands.demo import network as demo_network
from lenet.commands.demo.network import Network, look, open_network
from lenet.commands.demo.walk import Walk
from lenet.commands.demo.wiring import layers_of
from lenet.commands.predict import Classifier
from lenet.data.inputs import Inputs
from lenet.model.lenet5 import ACTIVATIONS, POOLINGS, LeNet5
from lenet.training.evaluate import Score
from tests.conftest import lenet5_1998
from tests.support.drawings import drawn

DIGITS = tuple("0123456789")


def served(model, image_size=32, classes=DIGITS, name="net"):
    classifier = Classifier(model.eval(), Inputs(classes, 0.1307, 0.3081, image_size))
    return Network(name, None, classifier, layers_of(model, image_size))


def made(**options):
    torch.manual_seed(1)
    return LeNet5(**options)


# ---- What the page gets about a network --------------------------------------------------------


NETWORKS = {
    "the default": (made, 32),
    "relu and max": (
        lambda: made(activation=ACTIVATIONS["relu"], pooling=POOLINGS["max"]),
        32,
    ),
    "the paper's": (lenet5_1998, 32),
    "table I alone": (lambda: made(connections="table_i"), 32),
    "small images": (lambda: made(image_size=28), 28),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_number_can_be_computed_from_the_wiring_that_the_page_gets(name):
    make, size = NETWORKS[name]
    net = served(make(), size)
    image = (torch.rand(28, 28, generator=torch.Generator().manual_seed(3)) * 255).byte()
    found = look(net, image)
    shapes = {"input": (1, size, size)} | {layer.name: layer.shape for layer in net.layers}
    stages = {key: np.array(values).reshape(shapes[key]) for key, values in found["stages"].items()}
    assert list(stages) == ["input", "C1", "S2", "C3", "S4", "C5", "F6", "output"]
    activation = net.classifier.module.activation
    for layer in net.wiring()["layers"]:
        layer = SimpleNamespace(**layer)
        x, y = stages[layer.source], stages[layer.name]
        for k, row, column in random_places(layer.shape):
            top, left, size_ = row * layer.stride, column * layer.stride, layer.size
            block = x[layer.feeding[k], top : top + size_, left : left + size_].flatten()
            if layer.rule == "largest":
                expected = block.max()
            elif layer.rule == "distance":
                expected = -((block - layer.weights[k]) ** 2).sum()
            else:
                expected = layer.bias[k] + block @ np.array(layer.weights[k])
                if layer.function:
                    expected = float(activation(torch.tensor(expected)))
            # Four digits after the point are sent, of the values and of the weights.
            assert y[k, row, column] == pytest.approx(expected, abs=0.02, rel=0.005), layer.name


def random_places(shape, count=20):
    generator = np.random.default_rng(0)
    return [tuple(int(generator.integers(0, n)) for n in shape) for _ in range(count)]


def test_another_network_has_probabilities_but_no_layers():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10))
    net = served(model)
    assert net.wiring()["layers"] == []
    found = look(net, torch.zeros(28, 28, dtype=torch.uint8))
    assert list(found["stages"]) == ["input"]
    assert sum(found["probabilities"]) == pytest.approx(1, abs=1e-4)


def test_a_network_for_colour_images_is_refused_when_it_is_opened(tmp_path, monkeypatch):
    colour = Classifier(LeNet5(in_channels=3).eval(), Inputs(DIGITS, 0.1, 0.3))
    monkeypatch.setattr(demo_network, "load_classifier", lambda *_: colour)
    with pytest.raises(ValueError, match=r"^model: expected one that takes \[1, 1, 32, 32\]"):
        open_network(str(tmp_path / "colour.pth"))


# ---- The test set -------------------------------------------------------------------------------


def a_walk():
    labels = torch.tensor([3, 3, 5, 5, 5, 7])
    predicted = torch.tensor([3, 5, 5, 3, 3, 7])
    confidence = torch.tensor([0.9, 0.6, 0.5, 0.8, 0.99, 0.7])
    images = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 1, 32, 32)
    return Walk(images, Score(0.0, 3, 6, labels, predicted, confidence, 10))


@pytest.mark.parametrize(
    ("question", "indices"),
    [
        ((None, None, False, "surest"), [4, 3, 1]),
        ((None, None, False, "least"), [1, 3, 4]),
        ((None, None, None, "set"), [0, 1, 2, 3, 4, 5]),
        ((5, None, None, "surest"), [4, 3, 2]),
        ((5, 3, None, "surest"), [4, 3]),
        ((None, 3, True, "surest"), [0]),
        ((9, None, None, "surest"), []),
    ],
)
def test_the_test_set_is_filtered_and_ordered(question, indices):
    assert a_walk().select(*question).tolist() == indices


# ---- Over HTTP ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url():
    app = server.make_app([served(made()), served(lenet5_1998(), name="paper")])
    running = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    listening = socket.create_server((HOST, 0))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    yield f"http://{HOST}:{listening.getsockname()[1]}"
    running.should_exit = True
    thread.join(10)
    listening.close()


def png():
    file = io.BytesIO()
    drawn().save(file, "PNG")
    return file.getvalue()


def ink():
    return (255 - np.asarray(drawn((240, 240)))).tobytes()


def test_each_network_reads_a_drawing_as_it_reads_its_picture(url):
    body = ink()
    asked = f"{url}/api/look/drawing?network=1&network=0"
    found = requests.post(asked, data=body, timeout=30).json()
    assert [each["network"] for each in found["looks"]] == [1, 0]
    assert np.array(found["image"]).shape == (28, 28)
    for each in found["looks"]:
        assert each["class"] == int(np.argmax(each["probabilities"]))
    picture = requests.post(f"{url}/api/look/picture?network=0", data=png(), timeout=30).json()
    apart = np.array(picture["image"]) - np.array(found["image"])
    assert np.abs(apart).max() <= 40  # of another height: pixels of the edge may differ


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("drawing?network=0", bytes(100), 400, "drawing: expected a digit, found none"),
        ("drawing?network=0", b"\xff" * 99, 400, "drawing: expected a square of bytes, found 99"),
        ("drawing?network=0", b"", 400, "drawing: expected a square of bytes, found 0"),
        ("drawing?network=0", bytes(1001**2), 413, "expected at most 1,000,000 bytes"),
        ("drawing?network=2", b"\xff" * 100, 404, "expected a network from 0 to 1"),
        ("drawing?network=x", b"\xff" * 100, 422, "network.0: Input should be a valid integer"),
        ("drawing", b"\xff" * 100, 422, "network: Field required"),
        ("picture?network=0", b"no picture", 400, "picture: expected a picture (PNG"),
        ("picture?network=0", b"", 400, "picture: expected a picture (PNG"),
        ("picture?network=0", png()[:200], 400, "picture: cannot be read as a picture"),
        ("picture?network=0", b"<svg/>", 400, "found none of these"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(url, path, body, status, message):
    answer = requests.post(f"{url}/api/look/{path}", data=body, timeout=30)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert requests.get(f"{url}/api/networks", timeout=30).ok  # the server still runs


def test_a_picture_above_the_size_limit_is_refused(url, monkeypatch):
    monkeypatch.setattr(server, "MOST_BYTES", 1000)
    answer = requests.post(f"{url}/api/look/picture?network=0", data=bytes(2000), timeout=30)
    assert (answer.status_code, answer.json()["error"][-28:]) == (
        413,
        "expected at most 1,000 bytes",
    )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "elsewhere.example"}, 400),
        ({"Host": "localhost.elsewhere.example"}, 400),
        ({"Host": ""}, 400),
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Host": "localhost:8000"}, 200),
    ],
)
def test_pages_of_other_sites_get_no_answer(url, headers, status):
    answer = requests.get(f"{url}/api/networks", headers=headers, timeout=30)
    assert answer.status_code == status
    assert ("error" in answer.json()) == (status != 200)


@pytest.mark.parametrize("path", ["/../server.py", "/%2e%2e/server.py", "/..%2fserver.py", "/nix"])
def test_no_file_outside_the_page_is_served(url, path):
    request = requests.Request("GET", url).prepare()
    request.url = url + path
    answer = requests.Session().send(request, timeout=30)
    assert answer.status_code == 404
    assert answer.json()["error"].endswith("Not Found")


def test_all_files_of_the_page_are_served_and_name_no_other_server(url):
    page = requests.get(url, timeout=30)
    assert "default-src 'self'" in page.headers["content-security-policy"]
    for path in server.PAGE.iterdir():
        answer = requests.get(f"{url}/{path.name}", timeout=30)
        assert answer.content == path.read_bytes()
        kind = {".js": "javascript", ".css": "css", ".html": "html"}[path.suffix]
        assert kind in answer.headers["content-type"]
        assert not re.search(r"(?:https?:)?//[\w-]+\.\w", path.read_text())


def test_only_runs_can_be_added_never_files(url, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    torch.save(made().state_dict(), tmp_path / "lenet5.pth")
    for source, message in [
        (str(tmp_path / "lenet5.pth"), "weights go on the command line"),
        ("abcd1234", "mlflow.db"),
        ("x" * 300, "at most 200 characters"),
        ("", "at least 1 character"),
        ("latest\n", "expected a run's id"),
    ]:
        answer = requests.post(f"{url}/api/networks", json={"source": source}, timeout=60)
        assert answer.status_code in (400, 422)
        assert message in answer.json()["error"], source
    assert len(requests.get(f"{url}/api/networks", timeout=30).json()) == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "lenet5.pth"]


def test_a_missing_test_set_is_one_line(url, tmp_path, monkeypatch):
    monkeypatch.setenv("LENET_DATA", str(tmp_path))
    answer = requests.get(f"{url}/api/test/0", timeout=30)
    assert answer.status_code == 400
    assert answer.json()["error"] == f"no mnist under {tmp_path}"


def test_the_test_set_is_served_as_rows_pictures_and_answers(url, monkeypatch):
    monkeypatch.setattr(server, "walk", lambda _: a_walk())
    found = requests.get(f"{url}/api/test/1?right=false&limit=2", timeout=30).json()
    assert (found["count"], found["of"], found["accuracy"]) == (3, 6, 0.5)
    assert [row["index"] for row in found["images"]] == [4, 3]
    assert {k: found["images"][0][k] for k in ("truth", "guess")} == {"truth": 5, "guess": 3}
    picture = requests.get(f"{url}/api/test/1/4.png", timeout=30)
    assert np.asarray(Image.open(io.BytesIO(picture.content))).tolist() == [[4] * 32] * 32
    seen = requests.get(f"{url}/api/look/test/1/4?network=0", timeout=30).json()
    assert seen["image"] == [[4] * 32] * 32
    assert requests.get(f"{url}/api/look/test/1/6?network=0", timeout=30).status_code == 404


# ---- The command -------------------------------------------------------------------------------


def test_a_port_in_use_is_one_line(capsys):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "latest", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error == (f"error: --port {port}: Address already in use; --port 0 takes a free one\n")


def test_missing_weights_are_one_line(tmp_path, capsys):
    assert main(["demo", str(tmp_path / "nix.pth"), "--port", "0"]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("error: ")
    assert "nix.pth" in error
    assert error.count("\n") == 1
