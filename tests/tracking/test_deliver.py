"""What MLflow gets from a journal, and that nothing is doubled when it comes twice."""

import contextlib
import os
import re

import pytest
from mlflow.entities import LoggedModelStatus
from mlflow.models import Model

from lenet.tracking.client import connect
from lenet.tracking.deliver import delete_twins, deliver, start_run
from lenet.tracking.names import ID_TAG, TrackingError, Unreachable
from lenet.tracking.turns import check_run
from tests.conftest import copy_store
from tests.tracking.test_journal import journal, point

__all__ = ["journal"]


@pytest.fixture
def client(empty_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return connect(copy_store(empty_store, tmp_path))


class AnswersLost:
    """A client that carries every call out, and loses the answer to the first of its kind."""

    def __init__(self, client):
        self.client, self.tracking_uri, self.lost = client, client.tracking_uri, set()

    @staticmethod
    def kind_of(value):
        """An argument without what is new in each try."""
        if isinstance(value, str) and os.path.isdir(value):
            return str(os.listdir(value))
        return re.sub("m-[0-9a-f]{32}", "a model", str(value).rpartition("/")[2])

    def __getattr__(self, name):
        def call(*args, **kwargs):
            answer = getattr(self.client, name)(*args, **kwargs)
            key = name, *(self.kind_of(value) for value in (*args, *kwargs.values()))
            if key not in self.lost:
                self.lost.add(key)
                raise ConnectionError("the answer is lost")
            return answer

        return call


def append_a_whole_run(journal):
    """Entries of every kind."""
    journal.append("params", {f"param{n}": str(n) for n in range(130)})
    journal.append("tags", {"a": "1", "gone": "1"})
    journal.append("tags", {"a": "2", "gone": None})
    journal.append("data", {"name": "digits", "digest": "1", "source_type": "local", "source": "s"})
    for first in (0, 750):  # together they are more than one request takes
        journal.append("metrics", [point(step) for step in range(first, first + 750)])
    journal.append("metrics", [point(1500, float("nan")), point(1500, 1.0, "test/loss")])
    journal.write(journal.file("pictures/a.txt"), lambda path: path.write_text("text"))
    journal.append("artifact", "pictures/a.txt")
    journal.append("artifact", "not-there.txt")
    journal.write(journal.folder / "checkpoints" / "1.pt", lambda path: path.write_text("state"))
    journal.append("checkpoint", "0.pt")
    journal.append("checkpoint", "1.pt")
    model = Model(flavors={"python_function": {"loader_module": "none"}})
    journal.write(journal.folder / "model" / "MLmodel", lambda path: model.save(str(path)))
    journal.append("model", 1500)
    journal.append("status", ["RUNNING", None])
    journal.append("status", ["FINISHED", 2000])


def contents_of(client):
    """What is in a store, without the ids and times that it gives."""
    (experiment,) = [e for e in client.search_experiments() if e.name == "lenet5"]
    (run,) = client.search_runs([experiment.experiment_id])
    run_id, models = run.info.run_id, client.search_logged_models([experiment.experiment_id])
    artifacts = [
        each for folder in ("", "pictures") for each in client.list_artifacts(run_id, folder)
    ]
    points = [
        (point.key, point.step, repr(point.value), point.timestamp)
        for name in run.data.metrics
        for point in client.get_metric_history(run_id, name)
    ]
    return {
        "params": run.data.params,
        "tags": {k: v for k, v in run.data.tags.items() if k != ID_TAG},
        "points": sorted(points),
        "artifacts": [each.path for each in artifacts],
        "models": [(m.status, len(m.params), sorted(p.key for p in m.metrics)) for m in models],
        "outputs": [output.step for output in run.outputs.model_outputs],
        "data sets": len(run.inputs.dataset_inputs),
        "end": (run.info.status, run.info.end_time),
    }


def deliver_all(client, journal):
    """Repeats each request until it is answered."""
    run_id, at = None, 0
    while at < len(journal.entries):
        with contextlib.suppress(ConnectionError):
            if run_id is None:
                run_id = start_run(client, journal, may_exist=True)
                journal.describe(run_id=run_id)
            at += deliver(client, journal, journal.entries[at:])


@pytest.fixture
def once(client, journal):
    """What the store has after a whole run was delivered."""
    append_a_whole_run(journal)
    deliver_all(client, journal)
    return contents_of(client)


def test_a_whole_run_is_there(once):
    assert len(once["params"]) == 130
    assert once["tags"]["a"] == "2"
    assert "gone" not in once["tags"]
    assert len(once["points"]) == 1502
    files = ["checkpoint.previous.pt", "checkpoint.pt", "pictures", "pictures/a.txt"]
    assert once["artifacts"] == files
    assert once["models"] == [(LoggedModelStatus.READY, 130, ["test/loss", "train/loss"])]
    assert once["outputs"] == [1500]
    assert once["data sets"] == 1
    assert once["end"] == ("FINISHED", 2000)


def test_what_comes_twice_changes_nothing(client, journal, once):
    deliver_all(client, journal)
    assert contents_of(client) == once


def test_records_arrive_once_over_a_connection_that_loses_answers(
    tmp_path, journal, once, empty_store
):
    other = tmp_path / "other"
    other.mkdir()
    lossy = AnswersLost(connect(copy_store(empty_store, other)))
    deliver_all(lossy, journal)
    assert contents_of(lossy.client) == once


def test_an_empty_run_that_a_slow_server_creates_late_is_deleted(client, journal):
    tries = [start_run(client, journal, may_exist=False) for _ in range(3)]
    client.log_param(tries[2], "lenet.turn.2", "another process")  # so it is not empty
    journal.describe(run_id=tries[0])
    delete_twins(client, journal)
    stages = [client.get_run(each).info.lifecycle_stage for each in tries]
    assert stages == ["active", "deleted", "active"]


def test_a_resumed_run_replaces_the_model_of_its_first_end(client, journal, once):
    journal.append("model", 1600)
    deliver_all(client, journal)
    run = client.get_run(journal.facts.run_id)
    (model,) = client.search_logged_models([run.info.experiment_id])
    steps = {output.model_id: output.step for output in run.outputs.model_outputs}
    assert steps[model.model_id] == 1600


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_a_deleted_run_is_noticed(client, journal, what):
    run_id = start_run(client, journal, False)
    journal.describe(run_id=run_id)
    check_run(client, journal.facts)
    if what == "run":
        client.delete_run(run_id)
    else:
        client.delete_experiment(client.get_run(run_id).info.experiment_id)
    with pytest.raises(TrackingError, match="is deleted there"):
        check_run(client, journal.facts)


def test_an_error_of_connecting_shows_no_password():
    with pytest.raises(Unreachable) as caught:
        connect("http://me:secret@127.0.0.1:9/x")
    assert "secret" not in str(caught.value)
    assert "127.0.0.1:9" in str(caught.value)
