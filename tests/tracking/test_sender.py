"""The sender: everything arrives once and in order, and nobody waits for it."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from lenet.tracking.journal import FILES, RECORDS, Journal
from lenet.tracking.names import TrackingError, Unreachable
from lenet.tracking.outbox import send_family
from lenet.tracking.sender import thread as sender
from lenet.tracking.sender.thread import Sender
from tests.tracking.test_journal import FACTS, journal, point

__all__ = ["journal"]


class Store:
    """Stands in for a store: keeps what is delivered, and fails where a test says so."""

    def __init__(self, monkeypatch):
        self.got, self.created = [], 0
        self.connecting = self.starting = lambda: None
        self.delivering = lambda kind, value: None
        self.has_run = True
        for name in ("connect", "start_run", "deliver", "check_run"):
            monkeypatch.setattr(sender, name, getattr(self, name))
        monkeypatch.setattr(sender, "mark_dead_runs", lambda client, but: [])
        monkeypatch.setattr(sender, "delete_twins", lambda client, journal: None)
        monkeypatch.setattr(sender, "FIRST_PAUSE", 0.01)
        monkeypatch.setattr(sender, "BETWEEN", 0.01)

    def connect(self, uri, create=True):
        self.connecting()
        return SimpleNamespace(tracking_uri=uri)

    def start_run(self, client, journal, may_exist):
        self.starting()
        self.created += 1
        return "f" * 32

    def deliver(self, client, journal, entries):
        self.delivering(*entries[0])
        self.got.append(entries[0])
        return 1

    def check_run(self, client, facts):
        if not self.has_run:
            raise TrackingError("deleted")
        info = SimpleNamespace(experiment_id="0", run_id="f" * 32, status="RUNNING")
        return SimpleNamespace(info=info)


@pytest.fixture
def store(monkeypatch):
    return Store(monkeypatch)


def started(journal):
    thread = Sender(journal, FACTS.uri)
    thread.start()
    return thread


def failing(times, error):
    errors = [error] * times

    def fail(*_):
        if errors:
            raise errors.pop()

    return fail


REFUSED = MlflowException.invalid_parameter_value("no")


def test_a_store_that_fails_now_and_then_gets_everything_once_and_in_order(journal, store):
    store.connecting = failing(2, Unreachable("down"))
    store.starting = failing(2, ConnectionError("cut"))
    store.delivering = failing(3, MlflowException("500"))
    for step in range(5):
        journal.append("metrics", [point(step)])
    assert started(journal).finish(20)
    assert (store.created, store.got) == (1, journal.entries)
    assert journal.facts.run_id == "f" * 32


def http_error(status):
    return requests.HTTPError(str(status), response=SimpleNamespace(status_code=status))


@pytest.mark.parametrize(("kind", "error"), [("tags", REFUSED), ("artifact", http_error(413))])
def test_a_refused_entry_costs_a_warning_and_the_next_ones_arrive(
    journal, store, capsys, kind, error
):
    store.delivering = failing(1, error)
    journal.append(kind, "bad")
    journal.append(kind, "good")
    assert started(journal).finish(20)
    assert store.got == [(kind, "good")]
    assert f"Warning: MLflow refuses {kind} (" in capsys.readouterr().err


def test_an_entry_that_the_database_does_not_take_now_arrives_later(journal, store, tmp_path):
    text = "(sqlite3.OperationalError) unable to open database file"
    store.delivering = failing(2, MlflowException(text, TEMPORARILY_UNAVAILABLE))
    journal.append("tags", "good")
    sender = Sender(journal, f"sqlite:///{tmp_path}/mlflow.db")
    sender.start()
    assert sender.finish(20)
    assert store.got == [("tags", "good")]


@pytest.mark.parametrize("lane", [RECORDS, FILES], ids=["records", "files"])
def test_failing_files_hold_no_record_back_and_the_other_way_round(journal, store, lane):
    def fail(kind, value):
        if kind == ("tags", "artifact")[lane]:
            raise http_error(503)

    store.delivering = fail
    for n in range(3):
        journal.append("tags", {"n": str(n)})
        journal.append("artifact", f"{n}.txt")
    thread = started(journal)
    assert not thread.finish(0.5)
    assert store.got == journal.lanes[1 - lane]
    store.delivering = lambda *_: None
    assert thread.finish(20)
    assert store.got == journal.lanes[1 - lane] + journal.lanes[lane]


def test_a_run_that_another_process_has_taken_meanwhile_gets_nothing_more(
    journal, store, monkeypatch
):
    monkeypatch.setattr(sender, "BEAT_SECONDS", -1)  # to look before each batch
    journal.append("tags", {"n": "1"})
    thread = started(journal)
    thread.wait_for_run(20)
    while thread.waiting:
        time.sleep(0.01)
    store.has_run = False
    journal.append("tags", {"n": "2"})
    assert not thread.finish(20)
    assert store.got == journal.entries[:1]


def test_a_machine_that_sleeps_between_two_requests_looks_before_the_second(
    journal, store, monkeypatch
):
    def sleep(*_):
        hour_later = time.time() + 3600
        monkeypatch.setattr(sender.time, "time", lambda: hour_later)
        store.has_run = False

    store.delivering = sleep
    journal.append("tags", "sent")
    journal.append("tags", "too late")
    journal.append("checkpoint", "too late")
    thread = started(journal)
    assert not thread.finish(20)
    assert str(thread.refusal) == "deleted"
    assert store.got == [("tags", "sent")]


def test_a_store_that_refuses_the_run_is_reported_at_once(journal, store):
    store.connecting = failing(9, TrackingError("wrong"))
    with pytest.raises(TrackingError, match="wrong"):
        started(journal).wait_for_run(20)


def test_a_refusal_during_the_training_is_not_final(journal, store):
    entered, go = threading.Event(), threading.Event()

    def hang_then_refuse():
        if not entered.is_set():
            entered.set()
            go.wait(20)
            raise TrackingError("403, for a moment")

    store.connecting = hang_then_refuse
    thread = started(journal)
    assert not thread.wait_for_run(0.05)
    assert thread.problem == "no answer in time"
    go.set()
    journal.append("tags", {"n": "1"})
    while not store.got:
        time.sleep(0.01)
    assert thread.finish(20)


def test_a_sweep_sends_what_its_own_jobs_left(tmp_path, store):
    root = tmp_path / "runs"
    for parent in ("a", "b"):
        facts = replace(FACTS, tags={"mlflow.parentRunId": parent * 32})
        journal = Journal.create(root, facts)
        journal.log_status("FINISHED")
        journal.close()
    send_family({"a" * 32}, root, 20)
    (left,) = root.glob("*/run.json")
    assert "b" * 32 in left.read_text()
