"""Where a run is: nothing is trained for one that is lost, and none moves without being told to."""

import re
import shutil

import pytest

from lenet.tracking.client import connect
from lenet.tracking.journal import Journal
from tests.conftest import copy_store


@pytest.fixture
def other(desk, empty_store):
    """The address of a second store."""
    (desk.folder / "other").mkdir()
    return copy_store(empty_store, desk.folder / "other")


def test_a_mistyped_address_is_refused_before_a_run_is_resumed(desk, other, monkeypatch):
    run_id, folder = desk.died()
    shutil.rmtree(folder)
    typo = f"sqlite:///{desk.folder}/typo.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", typo)
    assert f"tracking.uri={typo}: no such database" in desk.typed(f"resume={run_id}", status=2)
    assert not (desk.folder / "typo.db").exists()
    refused = desk.typed(f"resume={run_id}", f"tracking.uri={other}", status=2)
    assert f"{run_id}: no such run in {other}" in refused
    assert list(desk.waiting.iterdir()) == []
    assert desk.client.get_run(run_id).info.status == "RUNNING"


def test_a_run_s_folder_keeps_its_address(desk, other, monkeypatch):
    run_id, folder = desk.died()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    assert f"; it is in {desk.uri}\n" in desk.typed(f"resume={run_id}")
    assert desk.client.get_run(run_id).info.status == "FINISHED"
    assert not folder.exists()
    assert [run.info.run_id for run in desk.runs()] == [run_id]


def test_a_lost_database_is_not_made_anew_by_a_resume(desk):
    run_id, folder = desk.died()
    (desk.folder / "mlflow.db").unlink()
    assert "no such database" in desk.typed(f"resume={run_id}", status=2)
    assert not (desk.folder / "mlflow.db").exists()
    assert folder.exists()


def test_a_run_that_somebody_deleted_is_not_resumed(desk):
    run_id, folder = desk.died()
    desk.client.delete_run(run_id)
    assert f"run {run_id} is deleted there" in desk.typed(f"resume={run_id}", status=2)
    assert folder.exists()


def test_records_go_to_another_store_only_where_it_is_named(desk, other, monkeypatch):
    run_id, folder = desk.died()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
    out = desk.shell(f"python -m lenet send {folder.name} --uri {other}")
    moved = re.fullmatch(rf"Sent run (\w+) \(.*\); it was {run_id} in {desk.uri}\n", out)
    assert moved
    run = connect(other).get_run(moved[1])
    assert (run.info.status, run.data.params["epochs"]) == ("KILLED", "1")
    assert desk.client.get_run(run_id).info.status == "RUNNING"  # where nobody asked for anything
    assert not folder.exists()


def test_a_folder_that_does_not_know_its_run_s_id_is_found_by_it(desk):
    run_id, folder = desk.died()
    journal = Journal.open(folder)
    journal.describe(run_id=None)  # a full disk, or a kill at that moment
    journal.close()
    desk.typed(f"resume={run_id}")
    assert list(desk.waiting.iterdir()) == []
    assert [run.info.status for run in desk.runs()] == ["FINISHED"]
