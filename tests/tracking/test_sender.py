"""The sender: everything arrives once and in order, and nobody waits for it."""

import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import requests
from mlflow.exceptions import MlflowException

from lenet.tracking import sender
from lenet.tracking.client import TrackingError, Unreachable
from lenet.tracking.journal import FILES, RECORDS, Journal, JournalError
from lenet.tracking.outbox import send, send_family
from lenet.tracking.sender import Sender
from tests.tracking.test_journal import FACTS, journal, point

__all__ = ["journal"]


class Store:
    """Stands in for a store: keeps what is delivered, and fails where a test says so."""

    def __init__(self, monkeypatch):
        self.got, self.created = [], 0
        self.connecting = self.starting = lambda: None
        self.delivering = lambda kind, value: None
        self.has_run = True
        for name in ("connect", "start_run", "deliver", "check_run", "take_turn"):
            monkeypatch.setattr(sender, name, getattr(self, name))
        monkeypatch.setattr(sender, "mark_dead_runs", lambda client, but: [])
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

    def take_turn(self, client, facts):
        """Every run is new."""

    def check_run(self, client, facts):
        if not self.has_run:
            raise TrackingError("deleted")


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


def test_a_deleted_run_gets_nothing_more(journal, store):
    store.delivering = failing(9, REFUSED)
    store.has_run = False
    journal.append("tags", {"n": "1"})
    thread = started(journal)
    assert not thread.finish(20)
    assert str(thread.refusal) == "deleted"
    assert thread.waiting == 1


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


def test_nobody_waits_for_a_store_that_hangs(journal, store):
    go = threading.Event()
    store.delivering = lambda *_: go.wait(60)
    start = time.monotonic()
    thread = started(journal)
    thread.wait_for_run(5)
    for step in range(100):
        journal.append("metrics", [point(step)])
    assert not thread.finish(0.2)
    assert time.monotonic() - start < 20
    go.set()
    assert thread.finish(20)


@pytest.fixture
def folder(journal):
    """The folder of a run that was killed before anything of it was sent."""
    journal.append("metrics", [point(1)])
    journal.close()
    return journal.folder


def test_a_killed_run_is_sent_as_killed_and_its_folder_goes(folder, store):
    assert send(folder, 20) == f"Sent run {'f' * 32} (a run)"
    assert [kind for kind, _ in store.got] == ["metrics", "tags", "status"]
    assert store.got[-1][1][0] == "KILLED"
    assert not folder.exists()


def test_while_the_server_is_down_everything_stays(folder, store):
    store.connecting = failing(999, Unreachable("tracking.uri=x: cannot be used (down)"))
    with pytest.raises(TrackingError, match=r"not sent \(tracking\.uri=x: cannot be used"):
        send(folder, 0.2)
    store.connecting = lambda: None
    send(folder, 20)
    assert [kind for kind, _ in store.got] == ["metrics", "tags", "status"]


def test_a_living_run_is_not_sent(folder, store):
    journal = Journal.open(folder)
    with pytest.raises(JournalError, match="its process is still running"):
        send(folder, 1)
    journal.close()


def test_a_sweep_sends_what_its_own_jobs_left(tmp_path, store):
    root = tmp_path / "runs"
    for parent in ("a", "b"):
        facts = replace(FACTS, tags={"mlflow.parentRunId": parent * 32})
        Journal.create(root, facts).close()
    send_family({"a" * 32}, root, 20)
    (left,) = root.glob("*/run.json")
    assert "b" * 32 in left.read_text()
