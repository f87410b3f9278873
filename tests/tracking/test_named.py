"""Runs named by their first letters, or as the latest."""

import sqlite3
from contextlib import closing

import pytest

from lenet.__main__ import main as lenet
from lenet.tracking import client as store
from lenet.tracking.names import ID_TAG, TrackingError
from lenet.tracking.read import resolve_run
from tests.conftest import copy_store
from tests.support.lab import BASE, PLAIN, Bench
from tests.support.sweeps import grid, make_sweep


@pytest.fixture(scope="module")
def uri(empty_store, tmp_path_factory):
    return copy_store(empty_store, tmp_path_factory.mktemp("named"))


@pytest.fixture(scope="module")
def runs(uri):
    """A sweep of two runs, a run of another experiment, an empty sweep, and the newest, a run that
    another project made.
    """
    first = make_sweep(uri, grid(optimizer__lr=[0.1, 0.2]))
    client = store.connect(uri)
    other = client.create_experiment("other")
    alone = client.create_run(other, tags={ID_TAG: "1"}).info.run_id
    last = make_sweep(uri, [])
    client.create_run(other)
    return first, alone, last


def test_an_id_is_itself_without_a_store():
    assert resolve_run("0" * 32, "sqlite:////nowhere/mlflow.db") == "0" * 32


def test_the_latest_run_is_the_labs_own_and_no_sweep(uri, runs):
    assert resolve_run("latest", uri) == runs[1]
    assert resolve_run("latest", uri, sweep=True) == runs[2]


def test_the_first_letters_are_enough_where_one_run_has_them(uri, runs):
    for run_id in runs:
        assert resolve_run(run_id[:12], uri) == run_id
        assert resolve_run(run_id[:31], uri, sweep=True) == run_id


def test_letters_that_several_runs_have_are_refused(uri, runs):
    client, experiment = store.connect(uri), store.connect(uri).get_experiment_by_name("other")
    ids = ["abcd" + "0" * 28, "abcd" + "1" * 28]
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database, database:
        for run_id in ids:
            made = client.create_run(experiment.experiment_id).info.run_id
            database.execute("update runs set run_uuid = ? where run_uuid = ?", (run_id, made))
            database.commit()
    with pytest.raises(TrackingError, match=r"^abcd: several run ids start with it: abcd"):
        resolve_run("abcd", uri)
    assert resolve_run("abcd1", uri) == ids[1]
    for run_id in ids:
        client.delete_run(run_id)
    with pytest.raises(TrackingError, match=r"^abcd: no run id starts with 'abcd' in"):
        resolve_run("abcd", uri)


def test_a_sweep_where_a_run_is_wanted_is_refused_with_the_command_that_lists_its_runs(
    uri, runs, monkeypatch, capsys
):
    sweep = runs[0]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for command in ("explain", "export --onnx a.onnx", "predict seven.png"):
        words = command.split()
        assert lenet([words[0], sweep, *words[1:]]) == 2
        assert f"{sweep}: this is a sweep; take one of its runs, which python -m lenet runs " in (
            capsys.readouterr().err
        )
    assert lenet(["runs", "--sweep", sweep[:8]]) == 0


@pytest.mark.parametrize("text", ["abc", "LATEST", "a" * 33, "ab'o", "", "\x1b[2J"])
def test_what_names_no_run_is_refused_in_one_line(uri, text):
    with pytest.raises(TrackingError, match="expected a run's id") as caught:
        resolve_run(text, uri)
    assert str(caught.value).isprintable()


def test_without_a_run_there_is_no_latest(empty_store, tmp_path):
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
    first = bench.whole(*BASE, *PLAIN, "epochs=1")
    out, _ = bench.run("rerun=latest", "tracking.pictures=false")
    assert f"The same bits as run {first}" in out
    out, _ = bench.run(f"resume={first[:10]}", "epochs=2")
    assert f"Going on with run {first} after 1 epochs" in out
    assert "1234e567: no run id starts with" in bench.refuse("resume=1234e567")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", bench.uri)
    assert lenet(["evaluate", "latest"]) == 0
    assert lenet(["diff", first[:8], "latest"]) == 1
    assert lenet(["predict", "latest", str(tmp_path / "nothing.png")]) == 2
    assert "nothing.png" in capsys.readouterr().err
    assert lenet(["report", "latest"]) == 2
    assert "there is no sweep yet" in capsys.readouterr().err
