"""The store fails at the worst moments: a run never stays RUNNING and never dies of it."""

import time

import pytest

from lenet import tracking
from lenet.config import check


@pytest.fixture
def run(tmp_path, composed):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    return tracking.Run(check(composed("data=digits")), [], time.time(), uri=uri)


def statuses(run):
    client = tracking.MlflowClient(run.uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    return [found.info.status for found in client.search_runs(experiments)]


def test_a_start_that_fails_halfway_leaves_a_run_that_failed(run, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(tracking.mlflow, "log_text", full)
    with pytest.raises(OSError, match="No space left"), run:
        pytest.fail("entered")
    assert statuses(run) == ["FAILED"]


def test_a_record_that_fails_costs_a_warning(run, monkeypatch, capsys):
    with run:
        monkeypatch.setattr(tracking.mlflow, "log_text", lambda *args: 1 / 0)
        run.log_text("text", "name.txt")
    assert capsys.readouterr().err == "Warning: log_text failed (division by zero)\n"
    assert statuses(run) == ["FINISHED"]


def test_nothing_is_made_where_there_is_nothing_to_read(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(tracking.TrackingError, match="no such database"):
        tracking.load_run_model("0" * 32, uri)
    assert list(tmp_path.iterdir()) == []
