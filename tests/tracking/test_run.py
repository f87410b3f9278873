"""A run's records: nothing that fails among them ends it, and its status is true."""

import time

import pytest

from lenet.config.check import check
from lenet.tracking import run as tracking
from lenet.tracking.client import TrackingError, connect
from lenet.tracking.settings import Settings
from lenet.tracking.trained import load_trained
from lenet.training.progress import Epoch
from tests.conftest import copy_store


@pytest.fixture
def run(tmp_path, composed, empty_store, monkeypatch):
    monkeypatch.setattr(tracking, "START_SECONDS", 120.0)  # for a busy machine
    uri = copy_store(empty_store, tmp_path)
    folder = str(tmp_path / "waiting")
    return tracking.Run(
        Settings(check(composed("data=digits")), [], time.time()), uri=uri, folder=folder
    )


def found(run):
    client = connect(run.uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    return client.search_runs(experiments)


def statuses(run):
    return [one.info.status for one in found(run)]


def test_a_record_that_fails_costs_a_warning(run, capsys):
    with run:
        run.log_training(None, 0.0)
    error = "'NoneType' object has no attribute 'state_dict'"
    assert capsys.readouterr().err == f"Warning: log_training failed ({error})\n"
    assert statuses(run) == ["FINISHED"]


def test_a_disk_that_is_full_at_the_start_leaves_nothing(run, monkeypatch, tmp_path):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lenet.tracking.logbook.Logbook.text", full)
    with pytest.raises(ValueError, match="No space left on device"), run:
        pytest.fail("entered")
    assert list((tmp_path / "waiting").iterdir()) == []


def test_what_was_sent_leaves_no_folder(run, tmp_path):
    with run:
        run.log.text("text", "name.txt")
        assert len(list((tmp_path / "waiting").iterdir())) == 1
    assert list((tmp_path / "waiting").iterdir()) == []


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (ValueError("bad"), "FAILED"),
        (MemoryError(), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
    ],
)
def test_the_status_tells_how_it_ended(run, error, status):
    try:
        with run:
            if error:
                raise error
    except BaseException as raised:
        assert raised is error
    (one,) = found(run)
    assert one.info.status == status
    assert ("error" in one.data.tags) == bool(error)


def test_the_same_point_is_there_once(run):
    with run:
        for loss in (1.0, 2.0):
            run.log_epoch(Epoch(loss, 1, 1, 3, [], 0.1, 1.0, None, True))
    (one,) = found(run)
    history = connect(run.uri).get_metric_history(one.info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(3, 1.0)]


def test_nothing_is_made_where_there_is_nothing_to_read(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(TrackingError, match="no such database"):
        load_trained("0" * 32, uri)
    assert list(tmp_path.iterdir()) == []
