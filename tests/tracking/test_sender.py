"""A run's journal and its way into the store: nothing lost, nothing twice, nobody waits."""

import errno
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import pytest
import requests
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from lenet.__main__ import main as lenet
from lenet.config.record import masked
from lenet.tracking import sender as send
from lenet.tracking import store
from lenet.tracking.journal import FILES, RECORDS, Journal, JournalError, left
from lenet.tracking.store import TrackingError, Unreachable
from tests.conftest import ROOT

FACTS = {
    "uri": "http://127.0.0.1:9",
    "experiment": "lenet5",
    "name": "a run",
    "start_time": 1,
    "process": "host 1 1",
    "tags": {"idea": "wide"},
}


@pytest.fixture
def journal(tmp_path):
    journal = Journal.create(tmp_path / "runs", FACTS)
    yield journal
    journal.close()


def point(step, value=0.5, key="train/loss"):
    return [key, value, 1000 + step, step]


class Fake:
    """In the place of a store: keeps what is delivered, and fails where a test says so."""

    def __init__(self, monkeypatch):
        self.got, self.made = [], 0
        self.connecting = self.starting = lambda: None
        self.delivering = lambda kind, value: None
        self.run_is_there = True
        for name in ("connect", "start_run", "deliver", "check_run"):
            monkeypatch.setattr(store, name, getattr(self, name))
        monkeypatch.setattr(store, "mend_orphans", lambda client, but: [])
        monkeypatch.setattr(send, "FIRST_PAUSE", 0.01)
        monkeypatch.setattr(send, "BETWEEN", 0.01)

    def connect(self, uri):
        self.connecting()
        return SimpleNamespace(tracking_uri=uri)

    def start_run(self, client, journal, again):
        self.starting()
        self.made += 1
        return "f" * 32

    def deliver(self, client, journal, entries):
        self.delivering(*entries[0])
        self.got.append(entries[0])
        return 1

    def check_run(self, client, run_id):
        if not self.run_is_there:
            raise TrackingError("deleted")


@pytest.fixture
def fake(monkeypatch):
    return Fake(monkeypatch)


def sent_by(journal, seconds=20):
    sender = send.Sender(journal, FACTS["uri"])
    sender.start()
    return sender.finish(seconds), sender


def failing(times, error):
    left = [error] * times

    def fail(*_):
        if left:
            raise left.pop()

    return fail


# ---- The journal on disk ---------------------------------------------------------------------


def reopened(journal):
    journal.close()
    return Journal.open(journal.folder)


def test_what_was_written_is_read_again_in_order(journal):
    journal.append("metrics", [point(1), point(2, float("inf"))])
    journal.append("artifact", "a.txt")
    journal.append("tags", {"name": "é\n"})
    journal.mark_sent(RECORDS, 1)
    again = reopened(journal)
    assert again.entries == journal.entries
    assert again.sent == [1, 0]
    assert again.waiting == 2
    assert again.points == {("train/loss", 1), ("train/loss", 2)}
    again.close()


@pytest.mark.parametrize("end", [b"", b"\n"], ids=["torn", "whole"])
def test_each_cut_of_the_journal_leaves_the_lines_before_it(journal, end):
    for step in (1, 2):
        journal.append("metrics", [point(step)])
    path = journal.folder / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for length in range(0, len(lines[1]), 7):
        path.write_bytes(lines[0] + lines[1][:length] + (end if length else b""))
        again = reopened(journal)
        assert again.entries == [("metrics", [point(1)])], length
        again.append("metrics", [point(3)])
        again = reopened(again)
        assert [value[0][3] for _, value in again.entries] == [1, 3]
        again.close()


def test_every_flipped_bit_costs_its_own_line_and_no_other(journal, capsys):
    for step in (1, 2, 3):
        journal.append("metrics", [point(step)])
    path = journal.folder / "journal.jsonl"
    good = path.read_bytes()
    start = good.index(b"\n") + 1
    for at in range(start, good.index(b"\n", start)):
        bad = bytearray(good)
        bad[at] ^= 1 << at % 8
        path.write_bytes(bad)
        again = reopened(journal)
        assert [value[0][3] for _, value in again.entries] == [1, 3], at
        again.close()
    assert "damaged lines are left out" in capsys.readouterr().err


@pytest.mark.parametrize("sent", ["", "0 0", "9 9", "-1 0", "1", "1 x", "1 0 0", "\0\0\0"])
def test_a_count_of_what_was_sent_that_cannot_be_means_nothing_was(journal, fake, sent):
    journal.append("metrics", [point(1)])
    journal.append("artifact", "a.txt")
    (journal.folder / "sent").write_text(sent)
    again = reopened(journal)
    assert again.sent == [0, 0]
    again.append("metrics", [point(2)])
    assert sent_by(again)[0]
    assert len(fake.got) == 3
    again.close()


def test_entries_that_come_are_not_taken_for_lost_ones_that_were_counted(journal, fake):
    for step in (1, 2, 3):
        journal.append("metrics", [point(step)])
    journal.mark_sent(RECORDS, 3)
    path = journal.folder / "journal.jsonl"
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    again = reopened(journal)
    for step in (4, 5):
        again.append("metrics", [point(step)])
    again = reopened(again)
    assert sent_by(again)[0]
    assert [value[0][3] for _, value in fake.got] == [1, 4, 5]
    again.close()


def test_a_journal_that_is_removed_while_its_run_lives_is_written_again(journal):
    journal.append("metrics", [point(1)])
    shutil.rmtree(journal.folder)
    journal.append("metrics", [point(2)])  # no folder: in memory
    journal.folder.mkdir()
    assert journal.save()
    again = reopened(journal)
    assert [value[0][3] for _, value in again.entries] == [1, 2]
    again.close()


def test_a_living_runs_journal_is_nobody_elses(journal):
    with pytest.raises(JournalError, match="still running"):
        Journal.open(journal.folder)


def test_a_folder_that_is_gone_is_not_made_anew(journal):
    journal.close(remove=True)
    with pytest.raises(JournalError, match="no journal of a run"):
        Journal.open(journal.folder)
    assert not journal.folder.exists()


def test_a_removal_that_is_cut_off_leaves_no_half_run(journal, monkeypatch, tmp_path):
    journal.append("status", ["FINISHED", 1])
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: None)
    journal.close(remove=True)
    assert list(left(tmp_path / "runs")) == []


def test_a_full_disk_costs_one_warning_and_no_entry(journal, monkeypatch, capsys):
    write = os.write

    def full(handle, content):
        write(handle, content[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    journal.append("metrics", [point(1)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for step in (2, 3):
            journal.append("metrics", [point(step)])
        again = (journal.folder / "journal.jsonl").read_bytes()
        assert again.count(b"\n") == 1
        assert again.endswith(b"\n")
        assert not journal.save()
    assert capsys.readouterr().err.count("No space left on device") == 1
    journal.append("metrics", [point(4)])
    again = reopened(journal)
    assert [value[0][3] for _, value in again.entries] == [1, 2, 3, 4]
    again.close()


def test_a_short_write_is_a_full_disk(journal, monkeypatch):
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, content: write(handle, content[:5]))
        journal.append("metrics", [point(1)])
    assert (journal.folder / "journal.jsonl").read_bytes() == b""
    assert journal.save()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), RuntimeError("file write failed")]
)
def test_an_artifact_finds_room_on_another_disk(journal, error):
    def write(path):
        path.write_text("half")
        if journal.folder in path.parents:
            raise error
        path.write_text("whole")

    journal.write("artifacts/a/b.txt", write)
    place = journal.place("artifacts/a/b.txt")
    assert place.read_text() == "whole"
    assert not (journal.folder / "artifacts/a/b.txt").exists()
    assert journal.save()
    assert (journal.folder / "artifacts/a/b.txt").read_text() == "whole"
    journal.close()
    assert not place.exists()


def test_a_stores_password_is_for_its_owner_alone(journal):
    assert (journal.folder / "run.json").stat().st_mode & 0o077 == 0


# ---- The sender ------------------------------------------------------------------------------


def test_all_arrives_in_order_once(journal, fake):
    for step in range(50):
        journal.append("metrics", [point(step)])
    done, _ = sent_by(journal)
    assert done
    assert fake.made == 1
    assert fake.got == journal.entries
    assert journal.facts["run_id"] == "f" * 32


def test_a_store_that_fails_now_and_then_gets_all_in_order(journal, fake):
    fake.connecting = failing(2, Unreachable("down"))
    fake.starting = failing(2, ConnectionError("cut"))
    fake.delivering = failing(3, MlflowException("500"))
    for step in range(5):
        journal.append("metrics", [point(step)])
    assert sent_by(journal)[0]
    assert fake.got == journal.entries


def test_a_refused_entry_does_not_stop_those_behind_it(journal, fake, capsys):
    def refuse(kind, value):
        if value == {"bad": "1"}:
            raise (
                MlflowException("no", 3) if False else MlflowException.invalid_parameter_value("no")
            )

    fake.delivering = refuse
    journal.append("tags", {"bad": "1"})
    journal.append("tags", {"good": "1"})
    assert sent_by(journal)[0]
    assert fake.got == [("tags", {"good": "1"})]
    assert capsys.readouterr().err == "Warning: MLflow refuses tags (no)\n"


def test_what_is_refused_once_only_arrives(journal, fake, capsys):
    fake.delivering = failing(1, MlflowException.invalid_parameter_value("two at once"))
    journal.append("data", {"name": "digits"})
    assert sent_by(journal)[0]
    assert fake.got == journal.entries
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("lane", [RECORDS, FILES], ids=["records", "files"])
def test_where_one_of_records_and_files_fails_the_other_goes_out(journal, fake, lane):
    kinds = ("tags", "artifact")
    error = requests.HTTPError("503", response=SimpleNamespace(status_code=503))

    def fail(kind, value):
        if kind == kinds[lane]:
            raise error

    fake.delivering = fail
    for n in range(3):
        journal.append("tags", {"n": str(n)})
        journal.append("artifact", f"{n}.txt")
    done, sender = sent_by(journal, 0.5)
    assert not done
    assert fake.got == journal.lanes[1 - lane]
    fake.delivering = lambda *_: None
    assert sender.finish(20)
    assert fake.got == journal.lanes[1 - lane] + journal.lanes[lane]


def test_a_file_that_is_refused_does_not_stop_those_behind_it(journal, fake, capsys):
    def refuse(kind, value):
        if value == "big":
            raise requests.HTTPError("too large", response=SimpleNamespace(status_code=413))

    fake.delivering = refuse
    for name in ("big", "small"):
        journal.append("artifact", name)
    assert sent_by(journal)[0]
    assert fake.got == [("artifact", "small")]
    assert "MLflow refuses artifact" in capsys.readouterr().err


def test_a_run_that_was_deleted_gets_no_more(journal, fake):
    fake.delivering = failing(9, MlflowException.invalid_parameter_value("not active"))
    fake.run_is_there = False
    journal.append("tags", {"n": "1"})
    done, sender = sent_by(journal)
    assert not done
    assert str(sender.refusal) == "deleted"
    assert journal.waiting == 1


def test_a_store_that_refuses_at_the_start_is_said_at_once(journal, fake):
    fake.connecting = failing(9, TrackingError("wrong"))
    sender = send.Sender(journal, FACTS["uri"])
    sender.start()
    with pytest.raises(TrackingError, match="wrong"):
        sender.wait_for_run(20)


def test_a_refusal_once_the_training_runs_may_pass(journal, fake):
    entered, go = threading.Event(), threading.Event()

    def hang_then_refuse():
        if not entered.is_set():
            entered.set()
            go.wait(20)
            raise TrackingError("403, for a moment")

    fake.connecting = hang_then_refuse
    sender = send.Sender(journal, FACTS["uri"])
    sender.start()
    assert not sender.wait_for_run(0.05)
    assert sender.problem == "no answer in time"
    go.set()
    journal.append("tags", {"n": "1"})
    while not fake.got:
        time.sleep(0.01)
    assert sender.finish(20)


def test_a_store_that_hangs_holds_up_nobody(journal, fake):
    go = threading.Event()
    fake.delivering = lambda *_: go.wait(60)
    sender = send.Sender(journal, FACTS["uri"])
    start = time.monotonic()
    sender.start()
    sender.wait_for_run(5)
    for step in range(1000):
        journal.append("metrics", [point(step)])
    assert not sender.finish(0.2)
    assert time.monotonic() - start < 5
    go.set()
    assert sender.finish(20)


def test_a_failing_store_is_not_asked_at_each_entry(journal, fake, monkeypatch):
    asked = []
    monkeypatch.setattr(send, "FIRST_PAUSE", 30.0)

    def down():
        asked.append(1)
        raise Unreachable("down")

    fake.connecting = down
    sender = send.Sender(journal, FACTS["uri"])
    sender.start()
    sender.wait_for_run(5)
    for step in range(200):
        journal.append("metrics", [point(step)])
        time.sleep(0.001)
    assert len(asked) == 1
    fake.connecting = lambda: None
    assert sender.finish(20)  # and the end wakes it


# ---- The store: everything may come twice ----------------------------------------------------


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    path = tmp_path_factory.mktemp("database") / "mlflow.db"
    store.connect(f"sqlite:///{path}")
    return path


@pytest.fixture
def client(database, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = shutil.copy(database, tmp_path / "mlflow.db")
    return store.connect(f"sqlite:///{path}")


class AnswersLost:
    """Carries every call out, and then loses the answer, the first time that it is asked."""

    def __init__(self, client):
        self.client, self.tracking_uri, self.lost = client, client.tracking_uri, set()

    @staticmethod
    def shown(value):
        """Without what is another at the next try."""
        if isinstance(value, str) and os.path.isdir(value):
            return str(os.listdir(value))
        return str(value).rpartition("/")[2]

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
    journal.file("pictures/a.txt").write_text("text")
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
    tags = {k: v for k, v in run.data.tags.items() if k != store.ID_TAG}
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
            journal.facts["run_id"] = store.start_run(client, journal, True)
            again = False
        except ConnectionError:
            pass
    for _ in range(times):
        at = 0
        while at < len(journal.entries):
            try:
                at += store.deliver(client, journal, journal.entries[at:])
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


def test_what_loses_its_every_answer_comes_once(client, tmp_path, once, database):
    other = tmp_path / "other"
    other.mkdir()
    lossy = AnswersLost(store.connect(f"sqlite:///{shutil.copy(database, other / 'mlflow.db')}"))
    journal = Journal.create(tmp_path / "runs", FACTS)
    a_whole_run(journal)
    delivered(lossy, journal)
    found = all_of(lossy.client)
    assert found == once
    journal.close()


def test_a_line_that_loses_every_third_request_lets_a_model_through(client, journal, once):
    class Lossy(AnswersLost):
        def __getattr__(self, name):
            def call(*args, **kwargs):
                answer = getattr(self.client, name)(*args, **kwargs)
                self.lost.add(len(self.lost))
                if len(self.lost) % 3 == 0:
                    raise ConnectionError("the answer is lost")
                return answer

            return call

    for n in range(9):
        (journal.folder / "model" / f"{n}.txt").write_text(str(n))
    journal.append("model", 1600)
    lossy = Lossy(client)
    lossy.tracking_uri = "http://host"
    for _ in range(9):
        try:
            store.deliver(store.Patient(lossy), journal, [("model", 1600)])
            break
        except (ConnectionError, MlflowException):
            continue
    run = client.get_run(journal.facts["run_id"])
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert model.status == LoggedModelStatus.READY


def test_a_run_that_a_late_request_made_is_deleted(client, journal):
    journal.append("status", ["FINISHED", 2000])
    ours = store.start_run(client, journal, False)
    journal.facts["run_id"] = ours
    twin = store.start_run(client, journal, False)
    assert twin != ours
    store.deliver(client, journal, journal.entries)
    (run,) = client.search_runs([client.get_run(ours).info.experiment_id])
    assert run.info.run_id == ours


def test_the_model_of_an_earlier_end_goes(client, journal, once):
    journal.append("model", 1600)
    delivered(client, journal)
    run = client.get_run(journal.facts["run_id"])
    (model,) = client.search_logged_models([run.info.experiment_id])
    steps = {output.model_id: output.step for output in run.outputs.model_outputs}
    assert steps[model.model_id] == 1600


@pytest.mark.parametrize("what", ["run", "experiment"])
def test_a_run_that_is_deleted_there_is_told_from_one_that_is_not(client, journal, what):
    run_id = store.start_run(client, journal, False)
    store.check_run(client, run_id)
    if what == "run":
        client.delete_run(run_id)
    else:
        client.delete_experiment(client.get_run(run_id).info.experiment_id)
    with pytest.raises(TrackingError, match="is deleted there"):
        store.check_run(client, run_id)


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
        store.connect("http://me:secret@127.0.0.1:9/x")
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
        patch.setattr(store, "_ask", full)
        with pytest.raises(Unreachable, match="No space left"):
            store.connect(uri)
    assert list(tmp_path.iterdir()) == []
    store.connect(uri)


# ---- python -m lenet send -------------------------------------------------------------------


@pytest.fixture
def waiting(journal, tmp_path, monkeypatch):
    """A run that was killed before anything of it was sent."""
    monkeypatch.setenv("LENET_RUNS", str(tmp_path / "runs"))
    journal.append("metrics", [point(1)])
    journal.close()
    return journal.folder


def test_a_killed_run_is_sent_as_killed_and_its_folder_goes(waiting, fake, capsys):
    assert lenet(["send"]) == 0
    assert [kind for kind, _ in fake.got] == ["metrics", "tags", "status"]
    assert fake.got[-1][1][0] == "KILLED"
    assert not waiting.exists()
    assert capsys.readouterr().out == f"Sent 1 records of run {'f' * 32} (a run)\n"
    assert lenet(["send"]) == 0
    assert capsys.readouterr().out.startswith("Nothing waits in ")


@pytest.mark.parametrize("run_id", ["0" * 32, "", "..", "../x", "a\nb", "é", "x" * 5000, "*"])
def test_an_id_that_does_not_wait_is_one_line(waiting, fake, capsys, run_id):
    assert lenet(["send", run_id]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert len(err) < 400
    assert waiting.exists()


def test_a_server_that_is_still_down_leaves_all_as_it_was(waiting, fake, capsys):
    fake.connecting = failing(999, Unreachable("tracking.uri=x: cannot be used (down)"))
    assert lenet(["send", "--wait", "0.2"]) == 2
    assert "not sent (tracking.uri=x: cannot be used (down))" in capsys.readouterr().err
    fake.connecting = lambda: None
    assert lenet(["send", waiting.name]) == 0
    assert [kind for kind, _ in fake.got] == ["metrics", "tags", "status"]


def test_one_that_fails_does_not_stop_those_behind_it(waiting, fake, capsys, tmp_path):
    for name in ("0", "z"):  # before and after it
        bad = tmp_path / "runs" / (name * 32)
        bad.mkdir()
        (bad / "run.json").write_text(json.dumps({"id": bad.name, "run_id": None, "uri": "x"})[:-3])
    lenet(["send"])
    assert not waiting.exists()
    assert capsys.readouterr().err.count("no journal of a run") == 2


def waits(tmp_path, name, **facts):
    """The folder of a run that waits under that id of its own."""
    folder = tmp_path / "runs" / name
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(FACTS | {"id": name, "run_id": None} | facts))
    return folder


def test_the_first_letters_of_either_id_are_enough(waiting, fake, tmp_path, capsys):
    own = waits(tmp_path, "abcd1" + "0" * 27)
    theirs = waits(tmp_path, "e" * 32, run_id="abcd2" + "0" * 27)
    assert lenet(["send", "abcd2"]) == 0
    assert (own.exists(), theirs.exists()) == (True, False)
    assert lenet(["send", "abcd"]) == 0
    assert not own.exists()
    assert waiting.exists()
    assert capsys.readouterr().err == ""


def test_latest_is_the_one_that_started_last(waiting, fake, tmp_path, capsys):
    new, old = waits(tmp_path, "a" * 32, start_time=3), waits(tmp_path, "f" * 32, start_time=2)
    for folder in (new, old, waiting):
        assert folder.exists()
        assert lenet(["send", "latest"]) == 0
        assert not folder.exists()
    assert lenet(["send", "latest"]) == 2
    assert capsys.readouterr().err == f"error: latest: no such run waits in {waiting.parent}\n"


@pytest.mark.parametrize(
    ("run", "why"),
    [
        ("abcd", "several waiting runs have ids that start with it: abcd1000"),
        ("abc", "expected a run's id, its first letters (at least 4), or"),
        ("abcd3", "no such run waits in "),
        ("", "expected a run's id"),
        ("ABCD", "expected a run's id"),
        ("\udcff\n\x1b[31m", "expected a run's id"),
    ],
)
def test_letters_that_tell_no_run_cost_a_line_and_none_of_the_others(
    waiting, fake, tmp_path, capsys, run, why
):
    pair = [waits(tmp_path, f"abcd{n}" + "0" * 27) for n in (1, 2)]
    assert lenet(["send", run, waiting.name[:30]]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {run or repr(run)}: {why}" if run.isalnum() else "error: '")
    assert why in err
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert out.startswith("Sent 1 records")
    assert [folder.exists() for folder in (*pair, waiting)] == [True, True, False]


def test_a_folder_that_is_none_is_not_one_where_nothing_waits(tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    for name, found in (("file", "a file"), ("none", "no such folder")):
        assert lenet(["send", "--folder", str(tmp_path / name)]) == 2
        expected = f"error: {tmp_path / name}: expected a folder of waiting runs, found {found}\n"
        assert capsys.readouterr().err == expected


def test_a_living_run_is_not_sent(waiting, fake, capsys):
    journal = Journal.open(waiting)
    assert lenet(["send", waiting.name]) == 2
    assert "its process is still running" in capsys.readouterr().err
    journal.close()


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "x"])
def test_a_wait_that_is_none_is_refused(value):
    with pytest.raises(SystemExit, match="2"):
        lenet(["send", "--wait", value])


def test_the_printed_command_runs_from_where_the_run_did(waiting, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for env, folder in [(str(waiting.parent), False), ("", True)]:
        monkeypatch.setenv("LENET_RUNS", env)
        line = send.command(waiting)
        assert ("--folder" in line) == folder
        done = subprocess.run(f"{line} --wait 0", shell=True, capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith(f"error: {waiting.name}: not sent ("), done.stderr
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(shutil, "which", lambda name: sys.executable)
    monkeypatch.setenv("LENET_RUNS", str(waiting.parent))
    assert send.command(waiting) == f"python -m lenet send {waiting.name}"
