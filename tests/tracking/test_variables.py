"""MLflow's own variables mean what they mean in every program that logs to MLflow."""

import time

import pytest

from lenet.config.check import check
from lenet.tracking import Run
from lenet.tracking.client import connect
from lenet.tracking.names import TrackingError
from lenet.tracking.settings import Settings
from tests.conftest import LIMIT, copy_store


@pytest.fixture
def uri(empty_store, tmp_path):
    return copy_store(empty_store, tmp_path)


@pytest.fixture
def start(uri, tmp_path, composed):
    """A function that makes a run, with these settings of the group `tracking`."""

    def start(*overrides, **options):
        settings = Settings(check(composed("data=digits", *overrides)), [], time.time())
        return Run(settings, uri=uri, folder=str(tmp_path / "waiting"), **options)

    return start


def stored(uri, run):
    return connect(uri).get_run(run.id)


def test_the_experiment_is_the_one_that_the_variables_name(start, uri, monkeypatch):
    client = connect(uri)
    by_id = client.create_experiment("by id")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", by_id)
    with start() as run:
        pass
    assert stored(uri, run).info.experiment_id == by_id
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "by name")
    with start() as run:
        pass
    assert client.get_experiment(stored(uri, run).info.experiment_id).name == "by name"
    with start(experiment="given") as run:
        pass
    assert client.get_experiment(stored(uri, run).info.experiment_id).name == "given"


def test_an_experiments_id_that_does_not_exist_is_refused(start, monkeypatch):
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "1998")
    with pytest.raises(TrackingError, match=r"experiment=1998: no experiment has this id"), start():
        pytest.fail("entered")


def test_the_run_that_mlflow_run_made_is_used_and_keeps_its_tags(start, uri, monkeypatch):
    client = connect(uri)
    theirs = {"mlflow.source.type": "PROJECT", "mlflow.source.git.commit": "c0ffee"}
    tags = {**theirs, "mlflow.note.content": "theirs", "team": "theirs"}
    made = client.create_run("0", tags=tags, run_name="a project").info.run_id
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    with start(tags={"team": "mine", "idea": "wide"}) as run:
        pass
    found = stored(uri, run)
    assert found.info.run_id == made
    assert found.info.run_name == "a project"
    assert found.info.status == "FINISHED"
    assert found.data.params["epochs"] == "10"
    assert {key: found.data.tags[key] for key in tags} == tags
    assert found.data.tags["idea"] == "wide"
    taken = rf"^MLFLOW_RUN_ID={made}: another training or sweep has this run; unset MLFLOW_RUN_ID$"
    with pytest.raises(TrackingError, match=taken), start():
        pytest.fail("entered")


def test_system_metrics_are_logged_where_mlflow_is_asked_for_them(start, uri, monkeypatch):
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with start() as run:
        end = time.monotonic() + LIMIT
        while time.monotonic() < end and not stored(uri, run).data.metrics:
            time.sleep(0.1)
    assert "system/cpu_utilization_percentage" in stored(uri, run).data.metrics
    monkeypatch.delenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING")
    with start() as run:
        time.sleep(0.3)
    assert stored(uri, run).data.metrics == {}


def test_tags_of_a_user_are_the_users(start, uri):
    mine = {"dataset": "mine", "model": "mine", "error": "none", "mlflow.user": "somebody"}
    mine |= {"mlflow.source.git.commit": "c0ffee", "mlflow.note.content": "mine"}
    with start(tags=mine) as run:
        pass
    tags = stored(uri, run).data.tags
    assert {key: tags[key] for key in mine} == mine
    ours = {key for key in tags if key not in mine and not key.startswith("mlflow.")}
    assert ours
    assert all(key.startswith("lenet.") for key in ours)
    assert tags["mlflow.source.type"] == "LOCAL"
    assert tags["mlflow.source.name"]
