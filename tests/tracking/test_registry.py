"""Registered models: a version a run, a champion that only a better validation replaces."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from lenet.__main__ import main as lenet
from lenet.commands.demo.network import open_network
from lenet.config.check import check
from lenet.config.errors import ConfigError
from lenet.tracking import registry
from lenet.tracking.client import TrackingError, connect
from lenet.tracking.read import resolve_run
from tests.conftest import copy_store
from tests.support.lab import Bench

SMALL = ("data=digits", "data.val_size=100", "tracking.pictures=false")


def facts(accuracy, loss=0.1, images="a"):
    scores = {"val/accuracy": str(accuracy), "val/loss": str(loss)}
    return scores | {"dataset.sha256": images, "dataset.val_sha256": "v"}


@pytest.fixture
def client(empty_store, tmp_path):
    return connect(copy_store(empty_store, tmp_path))


def logged(client):
    """A run with a logged model, as a store has them."""
    run_id = client.create_run("0").info.run_id
    return run_id, client.create_logged_model("0", "model", run_id).model_id


def champion(client, name="digits"):
    return str(client.get_model_version_by_alias(name, "champion").version)


def test_the_first_is_champion_and_only_a_better_one_after_it(client):
    told = [
        registry.register(client, "digits", *logged(client), facts(*scores))
        for scores in ((0.98,), (0.97,), (0.98,), (0.98, 0.2), (0.981, 0.5))
    ]
    assert (
        told[0]
        == "Registered as digits, version 1, now its champion (98.00% of the validation images)"
    )
    stays = "the champion stays version 1 (98.00% of the validation images, here 97.00%)"
    assert told[1] == f"Registered as digits, version 2; {stays}"
    assert all("the champion stays version 1" in line for line in told[1:4])
    assert "now its champion (98.10%" in told[4]
    assert champion(client) == "5"


def test_of_equal_accuracies_the_lower_loss_is_better(client):
    registry.register(client, "digits", *logged(client), facts(0.98, 0.2))
    registry.register(client, "digits", *logged(client), facts(0.98, 0.1))
    assert champion(client) == "2"


def test_scores_on_other_images_are_not_compared(client):
    registry.register(client, "digits", *logged(client), facts(0.9))
    told = registry.register(client, "digits", *logged(client), facts(0.99, images="b"))
    assert told.endswith("the champion stays version 1, of other images")
    assert champion(client) == "1"


def test_twice_is_once(client):
    own = logged(client)
    first = registry.register(client, "digits", *own, facts(0.9))
    assert registry.register(client, "digits", *own, facts(0.9)).startswith(first[:31])
    assert len(client.search_model_versions("name = 'digits'")) == 1
    assert champion(client) == "1"


def test_a_version_leads_to_its_run(client):
    run_id, model_id = logged(client)
    registry.register(client, "digits", run_id, model_id, facts(0.9))
    for text in ("models:/digits@champion", "models:/digits/1"):
        assert resolve_run(text, client.tracking_uri) == run_id


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("models:/digits@best", "no such registered model"),
        ("models:/digits/2", "no such registered model"),
        ("models:/nothing@champion", "no such registered model"),
        ("models:/digits", "expected models:/NAME@ALIAS"),
        ("models:/../../etc@champion", "expected models:/NAME@ALIAS"),
        ("models:/a@b@c", "expected models:/NAME@ALIAS"),
    ],
)
def test_what_is_no_version_is_one_line(client, text, message):
    registry.register(client, "digits", *logged(client), facts(0.9))
    with pytest.raises(TrackingError, match=message) as caught:
        resolve_run(text, client.tracking_uri)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tracking.register_as=digits"], "set data.val_size"),
        (["tracking.register_as=digits", "data.val_size=9", "tracking.model=false"], "model=true"),
        (["tracking.register_as=a/b", "data.val_size=9"], r"tracking\.register_as=a/b"),
        (["tracking.register_as=''", "data.val_size=9"], r"tracking\.register_as="),
    ],
)
def test_what_can_t_be_registered_is_one_line(composed, overrides, message):
    with pytest.raises(ConfigError, match=message):
        check(composed("data=digits", *overrides))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Two runs of one name, of which the first is better, and one that is gone on with."""
    bench = Bench(tmp_path_factory.mktemp("registry"))
    bench.out, _ = bench.run(*SMALL, "epochs=8", "tracking.register_as=digits")
    bench.run(*SMALL, "epochs=1", "tracking.register_as=digits")
    return bench


@pytest.mark.slow
def test_a_run_registers_its_model_and_says_so(lab):
    first, second = lab.runs()
    assert "Registered as digits, version 1, now its champion" in lab.out
    versions = lab.client.search_model_versions("name = 'digits'")
    assert {v.version: v.run_id for v in versions} == {
        "1": first.info.run_id,
        "2": second.info.run_id,
    } or {int(v.version): v.run_id for v in versions} == {
        1: first.info.run_id,
        2: second.info.run_id,
    }
    assert champion(lab.client) == "1"
    tags = lab.client.get_model_version("digits", "1").tags
    assert float(tags["val/accuracy"]) == first.data.metrics["val/accuracy"]


@pytest.mark.slow
def test_commands_take_the_champion(lab, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", lab.uri)
    assert lenet(["evaluate", "models:/digits@champion"]) == 0
    assert "Test set of 360 images" in capsys.readouterr().out
    assert lenet(["predict", "models:/digits@champion", "nothing.png"]) == 2
    shown = open_network("models:/digits@champion")
    assert shown.run_id == lab.runs()[0].info.run_id
    assert [layer.name for layer in shown.layers] == ["C1", "S2", "C3", "S4", "C5", "F6", "output"]
    assert "nothing.png" in capsys.readouterr().err


@pytest.mark.slow
def test_a_registered_model_outlives_a_run_that_is_gone_on_with(lab):
    run = lab.runs()[-1]
    lab.run(f"resume={run.info.run_id}", "epochs=2")
    versions = lab.client.search_model_versions(f"run_id = '{run.info.run_id}'")
    assert len(versions) == 2
    for version in versions:
        model_id = version.tags["lenet.model_id"]
        assert lab.client.get_logged_model(model_id).status == "READY"


@pytest.mark.slow
def test_mlflow_serves_the_champion_to_http(lab):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    server = subprocess.Popen(
        [*command, "-m", "models:/digits@champion", "-p", str(port)],
        # MLflow starts uvicorn by its name, as it is found where an environment is activated.
        env=os.environ
        | {"MLFLOW_TRACKING_URI": lab.uri}
        | {"PATH": f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=5)
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.5)
        images = [[[[0.0] * 32] * 32]] * 3
        body = json.dumps({"inputs": images}).encode()
        asked = urllib.request.Request(
            f"{address}/invocations", body, {"Content-Type": "application/json"}
        )
        answer = json.load(urllib.request.urlopen(asked, timeout=30))
        assert [len(row) for row in answer["predictions"]] == [10, 10, 10]
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
