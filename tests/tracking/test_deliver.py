"""What MLflow gets from a journal, and that nothing is doubled when it comes twice."""

import errno
import os
import re
import sqlite3

import pytest
from mlflow.entities import LoggedModelStatus
from mlflow.models import Model

from lenet.config.record import masked
from lenet.tracking import client as client_module
from lenet.tracking.client import ID_TAG, TrackingError, Unreachable, connect
from lenet.tracking.deliver import check_run, deliver, start_run
from lenet.tracking.journal import Journal
from tests.conftest import copy_store
from tests.tracking.test_journal import FACTS, journal, point

__all__ = ["journal"]


@pytest.fixture
def client(empty_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return connect(copy_store(empty_store, tmp_path))


class AnswersLost:
    """Carries every call out, and then loses the answer, the first time that it is asked."""

    def __init__(self, client):
        self.client, self.tracking_uri, self.lost = client, client.tracking_uri, set()

    @staticmethod
    def shown(value):
        """Without what is another at the next try."""
        if isinstance(value, str) and os.path.isdir(value):
            return str(os.listdir(value))
        return re.sub("m-[0-9a-f]{32}", "a model", str(value).rpartition("/")[2])

    def __getattr__(self, name):
        def call(*args, **kwargs):
            answer = getattr(self.client, name)(*args, **kwargs)
            key = name, *(self.shown(value) for value in (*args, *kwargs.values()))
            if key not in self.lost:
                self.lost.add(key)
                raise ConnectionError("the answer is lost")
            return answer

        return call


def a_whole_run(journal):
    """An entry of each kind, and those that another follows."""
    journal.append("params", {f"param{n}": str(n) for n in range(130)})
    journal.append("tags", {"a": "1", "gone": "1"})
    journal.append("tags", {"a": "2", "gone": None})
    journal.append("data", {"name": "digits", "digest": "1", "source_type": "local", "source": "s"})
    journal.append("metrics", [point(step) for step in range(1500)])
    journal.append("metrics", [point(1500, float("nan")), point(1500, 1.0, "test/loss")])
    journal.write(journal.file("pictures/a.txt"), lambda path: path.write_text("text"))
    journal.append("artifact", "pictures/a.txt")
    journal.append("artifact", "not-there.txt")
    folder = journal.folder / "checkpoints"
    folder.mkdir()
    (folder / "1.pt").write_text("state")
    journal.append("checkpoint", "0.pt")
    journal.append("checkpoint", "1.pt")
    (journal.folder / "model").mkdir()
    Model(flavors={"python_function": {"loader_module": "none"}}).save(
        str(journal.folder / "model" / "MLmodel")
    )
    journal.append("model", 1500)
    journal.append("status", ["RUNNING", None])
    journal.append("status", ["FINISHED", 2000])


def all_of(client):
    """What is in a store, without the ids and times that it gives."""
    (experiment,) = [e for e in client.search_experiments() if e.name == "lenet5"]
    (run,) = client.search_runs([experiment.experiment_id])
    models = client.search_logged_models([experiment.experiment_id])
    tags = {k: v for k, v in run.data.tags.items() if k != ID_TAG}
    names = [
        item.path
        for folder in ("", "pictures")
        for item in client.list_artifacts(run.info.run_id, folder)
    ]
    points = [
        (p.key, p.step, repr(p.value), p.timestamp)
        for name in run.data.metrics
        for p in client.get_metric_history(run.info.run_id, name)
    ]
    found = [(m.status, len(m.params or {}), sorted(p.key for p in m.metrics)) for m in models]
    ended = (run.info.status, run.info.end_time, len(run.inputs.dataset_inputs))
    outputs = [output.step for output in run.outputs.model_outputs]
    return run.data.params, tags, sorted(points), names, found, outputs, ended


def delivered(client, journal, times=1):
    again = True
    while again:
        try:
            journal.describe(run_id=start_run(client, journal, True))
            again = False
        except ConnectionError:
            pass
    for _ in range(times):
        at = 0
        while at < len(journal.entries):
            try:
                at += deliver(client, journal, journal.entries[at:])
            except ConnectionError:
                continue


@pytest.fixture
def once(client, journal):
    a_whole_run(journal)
    delivered(client, journal)
    return all_of(client)


def test_a_whole_run_is_there(once):
    params, tags, points, names, models, outputs, ended = once
    assert len(params) == 130
    assert tags["a"] == "2"
    assert "gone" not in tags
    assert len(points) == 1502
    assert names == ["checkpoint.previous.pt", "checkpoint.pt", "pictures", "pictures/a.txt"]
    assert models == [(LoggedModelStatus.READY, 130, ["test/loss", "train/loss"])]
    assert outputs == [1500]
    assert ended == ("FINISHED", 2000, 1)


def test_what_comes_twice_changes_nothing(client, journal, once):
    delivered(client, journal, times=2)
    assert all_of(client) == once


def test_records_arrive_once_over_a_connection_that_loses_answers(
    client, tmp_path, once, empty_store
):
    other = tmp_path / "other"
    other.mkdir()
    lossy = AnswersLost(connect(copy_store(empty_store, other)))
    journal = Journal.create(tmp_path / "runs", FACTS)
    a_whole_run(journal)
    delivered(lossy, journal)
    found = all_of(lossy.client)
    assert found == once
    journal.close()


def test_the_model_of_an_earlier_end_goes(client, journal, once):
    journal.append("model", 1600)
    delivered(client, journal)
    run = client.get_run(journal.facts.run_id)
    (model,) = client.search_logged_models([run.info.experiment_id])
    steps = {output.model_id: output.step for output in run.outputs.model_outputs}
    assert steps[model.model_id] == 1600


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_a_run_that_is_deleted_there_is_told_from_one_that_is_not(client, journal, what):
    run_id = start_run(client, journal, False)
    check_run(client, run_id)
    if what == "run":
        client.delete_run(run_id)
    else:
        client.delete_experiment(client.get_run(run_id).info.experiment_id)
    with pytest.raises(TrackingError, match="is deleted there"):
        check_run(client, run_id)


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("http://u:secret@host:5000/x failed", "http://u:***@host:5000/x failed"),
        ("postgresql://u:s/e@c@host/db", "postgresql://u:***@host/db"),
        ("tracking.uri='mysql+x://:secret@h'", "tracking.uri='mysql+x://:***@h'"),
        ("postgresql:///db?user=u&password=secret&x=1", "postgresql:///db?user=u&password=***&x=1"),
        ("http://host:5000/a?b=c", "http://host:5000/a?b=c"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_passwords_are_not_shown(text, safe):
    assert masked(text) == safe


def test_an_error_of_connecting_shows_no_password(monkeypatch):
    with pytest.raises(TrackingError) as caught:
        connect("http://me:secret@127.0.0.1:9/x")
    assert "secret" not in str(caught.value)
    assert "127.0.0.1:9" in str(caught.value)
    assert isinstance(caught.value, Unreachable)


def test_a_first_use_that_fails_leaves_no_half_database(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        connection = sqlite3.connect(next(tmp_path.glob(".mlflow-*")) / "new.db")
        connection.execute("CREATE TABLE half (x)")
        connection.close()
        raise OSError(errno.ENOSPC, "No space left on device")

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with monkeypatch.context() as patch:
        patch.setattr(client_module, "_ask", full)
        with pytest.raises(Unreachable, match="No space left"):
            connect(uri)
    assert list(tmp_path.iterdir()) == []
    connect(uri)
