"""Runs told by their first letters, or as the latest."""

import pytest

from lenet.__main__ import main as lenet
from lenet.tracking import client as store
from lenet.tracking.client import TrackingError
from lenet.tracking.read import resolve_run
from tests.conftest import copy_store
from tests.support.lab import Bench
from tests.support.sweeps import grid, make_sweep


@pytest.fixture(scope="module")
def uri(empty_store, tmp_path_factory):
    return copy_store(empty_store, tmp_path_factory.mktemp("named"))


@pytest.fixture(scope="module")
def runs(uri):
    """A sweep of two runs, and a run of another experiment; the newest is a sweep's own."""
    first = make_sweep(uri, grid(optimizer__lr=[0.1, 0.2]))
    client = store.connect(uri)
    alone = client.create_run(client.create_experiment("other")).info.run_id
    last = make_sweep(uri, [])
    return first, alone, last


def test_an_id_is_itself_without_a_store():
    assert resolve_run("0" * 32, "sqlite:////nowhere/mlflow.db") == "0" * 32


def test_the_latest_run_is_no_sweep_of_any_experiment(uri, runs):
    assert resolve_run("latest", uri) == runs[1]
    assert resolve_run("latest", uri, sweep=True) == runs[2]


def test_the_first_letters_are_enough_where_one_run_has_them(uri, runs):
    for run_id in runs:
        assert resolve_run(run_id[:12], uri) == run_id
        assert resolve_run(run_id[:31], uri, sweep=True) == run_id


def test_letters_that_several_runs_have_are_refused(uri, monkeypatch):
    client = store.connect(uri)
    from mlflow.store.tracking import sqlalchemy_store

    ids = iter(["abcd" + "0" * 28, "abcd" + "1" * 28])

    class Fixed:
        def __init__(self):
            self.hex = next(ids)

    monkeypatch.setattr(sqlalchemy_store.uuid, "uuid4", Fixed)
    experiment = client.get_experiment_by_name("other")
    pair = [client.create_run(experiment.experiment_id).info.run_id for _ in range(2)]
    monkeypatch.undo()
    with pytest.raises(TrackingError, match=r"^abcd: several run ids start with it: abcd"):
        resolve_run("abcd", uri)
    assert resolve_run("abcd1", uri) == pair[1]
    for run_id in pair:
        client.delete_run(run_id)
    with pytest.raises(TrackingError, match=r"^abcd: no run id starts with 'abcd' in"):
        resolve_run("abcd", uri)


@pytest.mark.parametrize("text", ["abc", "LATEST", "abcg", "a" * 33, "ab%d", "ab'o", "", "\x1b[2J"])
def test_what_is_no_name_is_one_line(uri, text):
    with pytest.raises(TrackingError, match="expected a run's id") as caught:
        resolve_run(text, uri)
    assert str(caught.value).isprintable()


def test_without_a_run_the_latest_is_none(empty_store, tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(TrackingError, match="no such database"):
        resolve_run("latest", uri)
    copy_store(empty_store, tmp_path)
    with pytest.raises(TrackingError, match=r"^latest: there is no run yet in sqlite"):
        resolve_run("latest", uri)
    with pytest.raises(TrackingError, match=r"^latest: there is no sweep yet"):
        resolve_run("latest", uri, sweep=True)


@pytest.mark.slow
def test_every_command_takes_them(tmp_path, monkeypatch, capsys):
    bench = Bench(tmp_path)
    small = ("data=digits", "epochs=1", "tracking.pictures=false", "tracking.model=false")
    first = bench.whole(*small)
    out, _ = bench.run("rerun=latest", "tracking.pictures=false")
    assert f"The same bits as run {first}" in out
    out, _ = bench.run(f"resume={first[:10]}", "epochs=2")
    assert f"Going on with run {first} after 1 epochs" in out
    assert "no run id starts with" in bench.refuse("resume=00000000")
    assert "expected a run's id" in bench.refuse("resume=lates")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", bench.uri)
    assert lenet(["evaluate", "latest"]) == 0
    assert lenet(["diff", first[:8], "latest"]) == 1
    assert lenet(["predict", "latest", str(tmp_path / "nothing.png")]) == 2
    assert "nothing.png" in capsys.readouterr().err
    assert lenet(["report", "latest"]) == 2
    assert "there is no sweep yet" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("number", ["1234e567"])
def test_first_letters_that_look_like_a_number_stay_letters(tmp_path, number):
    """Hydra's grammar takes them for one."""
    bench = Bench(tmp_path)
    store.connect(bench.uri)
    assert f"{number}: no run id starts with" in bench.refuse(f"resume={number}")
