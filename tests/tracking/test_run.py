"""A run's records: nothing that fails among them ends it, and its status is true."""

import time

import pytest

from lenet.config.check import check
from lenet.tracking import Run
from lenet.tracking.client import connect
from lenet.tracking.journal import JournalError
from lenet.tracking.names import TrackingError
from lenet.tracking.sender.base import Sending
from lenet.tracking.sender.thread import Sender
from lenet.tracking.settings import Settings
from lenet.tracking.trained import load_trained
from lenet.training.progress import Epoch
from tests.conftest import copy_store


@pytest.fixture
def run(tmp_path, composed, empty_store):
    settings = Settings(check(composed("data=digits")), [], time.time())
    return Run(settings, uri=copy_store(empty_store, tmp_path), folder=str(tmp_path / "waiting"))


def stored(run):
    """The only run in the store."""
    client = connect(run.uri)
    (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return found


def test_a_record_that_fails_costs_a_warning(run, capsys):
    with run:
        run.log_epoch(None)
    error = "'NoneType' object has no attribute 'steps'"
    assert f"Warning: log_epoch failed ({error})\n" in capsys.readouterr().err
    assert stored(run).info.status == "FINISHED"


def test_a_folder_that_cannot_be_written_is_one_line(run, tmp_path):
    (tmp_path / "waiting").write_text("a file")
    with pytest.raises(JournalError, match=r"^tracking\.folder=.*: cannot be written"), run:
        pytest.fail("entered")


def test_a_run_that_is_interrupted_before_its_training_is_killed(run, tmp_path, monkeypatch):
    def wait_and_interrupt(sender, seconds):
        assert Sending.wait_for_run(sender, seconds)
        raise SystemExit(143)

    monkeypatch.setattr(Sender, "wait_for_run", wait_and_interrupt)
    with pytest.raises(SystemExit), run:
        pytest.fail("entered")
    assert stored(run).info.status == "KILLED"
    assert list((tmp_path / "waiting").iterdir()) == []


def test_what_was_sent_leaves_no_folder(run, tmp_path):
    with run:
        run.journal.log_text("text", "name.txt")
        assert len(list((tmp_path / "waiting").iterdir())) == 1
    assert list((tmp_path / "waiting").iterdir()) == []


def test_records_that_neither_the_store_nor_the_disk_takes_fail_the_run(run, tmp_path):
    def end_badly():
        with run:
            (tmp_path / "mlflow.db").write_text("no database")
            (run.folder / "journal.jsonl").unlink()
            (run.folder / "journal.jsonl").mkdir()  # nothing can be appended to it
            run.journal.log_tags({"mine": "lost"})

    run.wait = 0.0
    with pytest.raises(TrackingError, match=r"^records of run \w+ are lost"):
        end_badly()


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (ValueError("bad"), "FAILED"),
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
    assert stored(run).info.status == status
    assert ("lenet.error" in stored(run).data.tags) == bool(error)


def test_the_same_point_is_there_once(run):
    with run:
        for loss in (1.0, 2.0):
            run.log_epoch(Epoch(loss, 1, 1, 3, [], 0.1, 1.0, None, True))
    history = connect(run.uri).get_metric_history(run.id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(3, 1.0)]


def test_nothing_is_made_where_there_is_nothing_to_read(tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(TrackingError, match="no such database"):
        load_trained("0" * 32, uri)
    assert list(tmp_path.iterdir()) == []
