"""The server of the demo page: what it answers, and what it refuses."""

import contextlib
import io
import re
import socket
import threading
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import requests
import torch
import uvicorn
from PIL import Image

from lenet.__main__ import main
from lenet.commands.demo import HOST, server
from lenet.commands.demo.answers import Answers
from lenet.commands.demo.network import Network, open_network
from lenet.commands.demo.wiring import layers_of
from lenet.data.inputs import Inputs
from lenet.model.lenet5 import ACTIVATIONS, POOLINGS, LeNet5
from tests.conftest import LIMIT, lenet5_1998
from tests.support.drawings import drawn


def network_of(model, image_size=32):
    channels = next(model.parameters()).shape[1] if isinstance(model, LeNet5) else 1
    inputs = Inputs(tuple("0123456789"), 0.1307, 0.3081, image_size, channels)
    return Network("net", None, model.eval(), inputs, layers_of(model, image_size))


def lenet5(**options):
    torch.manual_seed(1)
    return LeNet5(**options)


# ---- What the page gets about a network --------------------------------------------------------


NETWORKS = {
    "the default": (lenet5, 32),
    "relu and max": (lambda: lenet5(activation=ACTIVATIONS["relu"], pooling=POOLINGS["max"]), 32),
    "the paper's": (lenet5_1998, 32),
    "small images": (lambda: lenet5(image_size=28), 28),
    "colours": (lambda: lenet5(in_channels=3), 32),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_number_can_be_computed_from_the_wiring_that_the_page_gets(name):
    make, size = NETWORKS[name]
    net = network_of(make(), size)
    channels = net.inputs.in_channels
    image = (torch.rand(channels, 28, 28, generator=torch.Generator().manual_seed(3)) * 255).byte()
    found = net.look(image if channels > 1 else image[0])
    shapes = {"input": (channels, size, size)} | {layer.name: layer.shape for layer in net.layers}
    stages = {key: np.array(values).reshape(shapes[key]) for key, values in found["stages"].items()}
    assert list(stages) == ["input", "C1", "S2", "C3", "S4", "C5", "F6", "output"]
    activation = net.model.activation
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
    net = network_of(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 10)))
    assert net.wiring()["layers"] == []
    found = net.look(torch.zeros(28, 28, dtype=torch.uint8))
    assert list(found["stages"]) == ["input"]
    assert sum(found["probabilities"]) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("filters", "order", "indices"),
    [
        ({"right": False}, "surest", [4, 3, 1]),
        ({"right": False}, "least", [1, 3, 4]),
        ({"right": None}, "set", [0, 1, 2, 3, 4, 5]),
        ({"truth": 5, "guess": 3}, "surest", [4, 3]),
        ({"guess": 3, "right": True}, "surest", [0]),
        ({"truth": 9}, "surest", []),
    ],
)
def test_the_test_set_is_filtered_and_ordered(filters, order, indices):
    rows = pd.DataFrame({"truth": [3, 3, 5, 5, 5, 7], "guess": [3, 5, 5, 3, 3, 7]})
    rows["right"], rows["confidence"] = rows.truth == rows.guess, [0.9, 0.6, 0.5, 0.8, 0.99, 0.7]
    answers = Answers(torch.zeros(6, 1, 32, 32), rows)
    assert answers.select(filters, order).index.tolist() == indices


# ---- Over HTTP ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url():
    with serving(network_of(lenet5()), network_of(lenet5_1998())) as address:
        yield address


@contextlib.contextmanager
def serving(*networks):
    running = uvicorn.Server(uvicorn.Config(server.make_app(networks), log_level="error"))
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


def test_each_network_reads_a_drawing_as_it_reads_its_picture(url):
    ink = (255 - np.asarray(drawn((240, 240)))).tobytes()
    asked = f"{url}/api/look/drawing?network=1&network=0"
    found = requests.post(asked, data=ink, timeout=LIMIT).json()
    assert [each["network"] for each in found["looks"]] == [1, 0]
    for each in found["looks"]:
        assert each["class"] == int(np.argmax(each["probabilities"]))
    picture = requests.post(f"{url}/api/look/picture?network=0", data=png(), timeout=LIMIT).json()
    apart = np.array(picture["ink"]) - np.array(found["ink"])
    assert np.abs(apart).max() <= 40  # of another height: pixels of the edge may differ


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("drawing?network=0", bytes(100), 400, "drawing: expected a digit, found none"),
        ("drawing?network=0", b"\xff" * 99, 400, "drawing: expected a square of bytes, found 99"),
        ("drawing?network=2", b"\xff" * 100, 404, "expected a network from 0 to 1"),
        ("drawing?network=x", b"\xff" * 100, 422, "network.0: Input should be a valid integer"),
        ("drawing", b"\xff" * 100, 422, "network: Field required"),
        ("picture?network=0", b"no picture", 400, "picture: expected a picture (PNG"),
        ("picture?network=0&name=a.png", b"no picture", 400, "a.png: expected a picture (PNG"),
        ("picture?network=0", png()[:200], 400, "picture: cannot be read as a picture"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line(url, path, body, status, message):
    answer = requests.post(f"{url}/api/look/{path}", data=body, timeout=LIMIT)
    assert answer.status_code == status
    assert message in answer.json()["error"]
    assert "\n" not in answer.json()["error"]
    assert requests.get(f"{url}/api/networks", timeout=LIMIT).ok  # the server still runs


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
    answer = requests.get(f"{url}/api/networks", headers=headers, timeout=LIMIT)
    assert answer.status_code == status
    assert ("classes" in answer.text) == (status == 200)


@pytest.mark.parametrize("path", ["/../server.py", "/%2e%2e/server.py", "/..%2fserver.py", "/nix"])
def test_no_file_outside_the_page_is_served(url, path):
    request = requests.Request("GET", url).prepare()
    request.url = url + path
    answer = requests.Session().send(request, timeout=LIMIT)
    assert answer.status_code == 404
    assert answer.json()["error"].endswith("Not Found")


def test_the_page_names_no_other_server_and_may_ask_none(url):
    assert (
        "default-src 'self'" in requests.get(url, timeout=LIMIT).headers["content-security-policy"]
    )
    for path in server.PAGE.iterdir():
        assert requests.get(f"{url}/{path.name}", timeout=LIMIT).content == path.read_bytes()
        assert not re.search(r"(?:https?:)?//[\w-]+\.\w", path.read_text())


def test_only_runs_can_be_added_never_files(url, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    torch.save(lenet5().state_dict(), tmp_path / "lenet5.pth")
    for source, message in [
        (str(tmp_path / "lenet5.pth"), "weights go on the command line"),
        ("abcd1234", "mlflow.db"),
        ("latest\n", "expected a run's id"),
    ]:
        answer = requests.post(f"{url}/api/networks", json={"source": source}, timeout=LIMIT)
        assert answer.status_code in (400, 422)
        assert message in answer.json()["error"], source
    assert len(requests.get(f"{url}/api/networks", timeout=LIMIT).json()) == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "lenet5.pth"]


def test_a_missing_test_set_is_one_line(url, tmp_path, monkeypatch):
    monkeypatch.setenv("LENET_DATA", str(tmp_path))
    answer = requests.get(f"{url}/api/test/0", timeout=LIMIT)
    assert answer.status_code == 400
    assert answer.json()["error"] == f"no mnist under {tmp_path}"


@pytest.mark.slow
def test_the_test_set_of_a_run_is_served_as_rows_pictures_and_answers(latest):
    with serving(open_network("latest")) as url:
        found = requests.get(f"{url}/api/test/0?right=false&limit=2", timeout=LIMIT).json()
        assert found["of"] == 360
        assert found["count"] == round(360 * (1 - found["accuracy"]))
        rows = found["images"]
        assert rows[0]["confidence"] >= rows[1]["confidence"]
        assert all(row["truth"] != row["guess"] for row in rows)
        index = rows[0]["index"]
        picture = requests.get(f"{url}/api/test/0/{index}.png", timeout=LIMIT)
        seen = requests.get(f"{url}/api/look/test/0/{index}?network=0", timeout=LIMIT).json()
        assert np.asarray(Image.open(io.BytesIO(picture.content))).tolist() == seen["ink"]
        assert seen["looks"][0]["class"] == rows[0]["guess"]
        assert requests.get(f"{url}/api/test/0/360.png", timeout=LIMIT).status_code == 404


# ---- The command -------------------------------------------------------------------------------


def test_a_port_in_use_is_one_line(capsys):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["demo", "latest", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert error == (f"error: --port {port}: Address already in use; --port 0 takes a free one\n")
