"""Registered models: each run is a version, and only a better score makes it the champion."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest

from lenet.__main__ import main as lenet
from lenet.commands.demo.network import open_network
from lenet.config.check import check
from lenet.config.errors import ConfigError
from lenet.tracking.client import connect
from lenet.tracking.names import TrackingError
from lenet.tracking.read import resolve_run
from lenet.tracking.registry import register
from tests.conftest import LIMIT, copy_store
from tests.support.lab import Bench
from tests.support.servers import free_port

SMALL = ("data=digits", "data.val_size=100", "tracking.pictures=false")


@pytest.fixture
def client(empty_store, tmp_path):
    return connect(copy_store(empty_store, tmp_path))


def register_new(client, accuracy, loss=0.1, images="a"):
    """Registers a new run's model. Returns: the printed line, and the arguments of `register`."""
    run_id = client.create_run("0").info.run_id
    model_id = client.create_logged_model("0", "model", run_id).model_id
    facts = {"val/accuracy": str(accuracy), "val/loss": str(loss)}
    facts |= {"lenet.dataset.sha256": images, "lenet.dataset.val_sha256": "v"}
    arguments = (client, "digits", run_id, model_id, facts)
    return register(*arguments), arguments


def champion(client):
    return str(client.get_model_version_by_alias("digits", "champion").version)


def test_the_first_version_is_champion_until_a_better_one_comes(client):
    scores = ((0.98,), (0.97,), (0.98,), (0.98, 0.2), (0.98, 0.05), (0.981, 0.5))
    lines = [register_new(client, *each)[0] for each in scores]
    assert lines[0] == (
        "Registered as digits, version 1, now its champion (98.00% of the validation images)"
    )
    stays = "the champion stays version 1 (98.00% of the validation images, here 97.00%)"
    assert lines[1] == f"Registered as digits, version 2; {stays}"
    assert all("the champion stays version 1" in line for line in lines[1:4])
    assert "version 5, now its champion (98.00%" in lines[4]  # equal accuracy, lower loss
    assert "version 6, now its champion (98.10%" in lines[5]
    assert champion(client) == "6"


def test_scores_on_other_images_are_not_compared(client):
    register_new(client, 0.9)
    line, _ = register_new(client, 0.99, images="b")
    assert line.endswith("the champion stays version 1, of other images")
    assert champion(client) == "1"


def test_registering_a_model_twice_makes_one_version(client):
    line, arguments = register_new(client, 0.9)
    assert register(*arguments) == line
    assert len(client.search_model_versions("name = 'digits'")) == 1
    assert champion(client) == "1"


def test_a_version_leads_to_its_run(client):
    _, (_, _, run_id, _, _) = register_new(client, 0.9)
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
    ],
)
def test_the_name_of_no_version_is_refused_in_one_line(client, text, message):
    register_new(client, 0.9)
    with pytest.raises(TrackingError, match=message) as caught:
        resolve_run(text, client.tracking_uri)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tracking.register_as=digits"], "set data.val_size"),
        (["tracking.register_as=digits", "data.val_size=9", "tracking.model=false"], "model=true"),
        (["tracking.register_as=a/b", "data.val_size=9"], r"tracking\.register_as=a/b"),
    ],
)
def test_settings_without_a_model_to_register_are_refused(composed, overrides, message):
    with pytest.raises(ConfigError, match=message):
        check(composed("data=digits", *overrides))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Two runs that registered their models, the better one first."""
    bench = Bench(tmp_path_factory.mktemp("registry"))
    bench.out, _ = bench.run(*SMALL, "epochs=8", "tracking.register_as=digits")
    bench.run(*SMALL, "epochs=1", "tracking.register_as=digits")
    return bench


@pytest.mark.slow
def test_a_run_registers_its_model_and_says_so(lab):
    assert "Registered as digits, version 1, now its champion" in lab.out
    first, second = lab.runs()
    versions = lab.client.search_model_versions("name = 'digits'")
    found = {str(each.version): each.run_id for each in versions}
    assert found == {"1": first.info.run_id, "2": second.info.run_id}
    assert champion(lab.client) == "1"
    version = lab.client.get_model_version("digits", "1")
    accuracies = {name: first.data.metrics[f"{name}/accuracy"] for name in ("val", "test")}
    assert float(version.tags["val/accuracy"]) == accuracies["val"]
    assert version.description == (
        f"Right on {accuracies['val']:.2%} of 100 validation images and "
        f"{accuracies['test']:.2%} of 360 test images of digits. "
        "Made by `python run.py data=digits data.val_size=100 tracking.pictures=false epochs=8 "
        "tracking.register_as=digits`. "
        f"`python run.py rerun={first.info.run_id}` makes it again."
    )


@pytest.mark.slow
def test_a_logged_model_has_the_name_of_its_run(lab):
    run = lab.runs()[0]
    model = lab.client.get_logged_model(run.outputs.model_outputs[0].model_id)
    assert model.name == run.info.run_name == "data=digits val_size=100 epochs=8"


@pytest.mark.slow
def test_commands_accept_the_champion(lab, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", lab.uri)
    assert lenet(["evaluate", "models:/digits@champion"]) == 0
    assert "Unchanged test set: accuracy " in capsys.readouterr().out
    assert lenet(["predict", "models:/digits@champion", "nothing.png"]) == 2
    assert "nothing.png" in capsys.readouterr().err
    network = open_network("models:/digits@champion")
    assert network.run_id == lab.runs()[0].info.run_id


@pytest.mark.slow
def test_a_registered_model_is_kept_when_its_run_is_extended(lab):
    run_id = lab.last()
    lab.run(f"resume={run_id}", "epochs=2")
    versions = lab.client.search_model_versions(f"run_id = '{run_id}'")
    assert len(versions) == 2
    for version in versions:
        model_id = version.tags["lenet.model_id"]
        assert lab.client.get_logged_model(model_id).status == "READY"


@pytest.mark.slow
def test_mlflow_serves_the_champion_over_http(lab):
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    server = subprocess.Popen(
        [*command, "-m", "models:/digits@champion", "-p", str(port)],
        env=os.environ | {"MLFLOW_TRACKING_URI": lab.uri},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        for _ in range(2 * LIMIT):
            try:
                urllib.request.urlopen(f"{address}/ping", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.5)
        body = json.dumps({"inputs": [[[[0.0] * 32] * 32]] * 3}).encode()
        header = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{address}/invocations", body, header)
        answer = json.load(urllib.request.urlopen(request, timeout=LIMIT))
        assert [len(row) for row in answer["predictions"]] == [10, 10, 10]
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
