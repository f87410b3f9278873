"""Addresses of tracking stores."""

from pathlib import Path

import pytest

from lenet.tracking.client import connect, resolved, sqlite_file, sqlite_uri
from tests.conftest import copy_store


@pytest.mark.parametrize("name", ["plain", "with space", "a%20b", "é", "a?b", "a#b", "100%"])
def test_a_database_lies_where_its_path_says(name, empty_store, tmp_path):
    folder = tmp_path / name
    folder.mkdir()
    copy_store(empty_store, folder)
    uri = sqlite_uri(folder / "mlflow.db")
    connect(uri).create_experiment("here")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]
    assert sqlite_file(uri) == folder / "mlflow.db"


def test_a_database_and_its_folder_are_made_where_they_are_missing(tmp_path):
    connect(sqlite_uri(tmp_path / "new a%20b" / "mlflow.db"))
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.db")] == [
        Path("new a%20b", "mlflow.db")
    ]


def test_percent_codes_of_an_address_are_read_as_sqlalchemy_reads_them(tmp_path):
    (tmp_path / "a b").mkdir()
    assert (
        resolved(f"sqlite:///{tmp_path}/a%20b/mlflow.db") == f"sqlite:///{tmp_path}/a b/mlflow.db"
    )


def test_a_relative_database_is_meant_from_here_and_keeps_its_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = f"sqlite:///{tmp_path}/runs/mlflow.db?timeout=9"
    assert resolved("sqlite:///runs/mlflow.db?timeout=9") == expected


@pytest.mark.parametrize(
    "uri",
    [
        *("http://host:5000", "postgresql://u:p%40@h/db", "databricks", "file:///tmp/mlruns"),
        *("sqlite://", "sqlite:///:memory:", "sqlite:///file:x?uri=true"),
    ],
)
def test_other_addresses_stay_as_they_are(uri):
    assert resolved(uri) == uri
    assert sqlite_file(uri) is None


def test_runs_are_read_back_in_a_folder_with_a_percent_code(empty_store, tmp_path, monkeypatch):
    folder = tmp_path / "a%20b"
    folder.mkdir()
    copy_store(empty_store, folder)
    monkeypatch.chdir(folder)
    client = connect(sqlite_uri(Path("mlflow.db")))
    run_id = client.create_run("0").info.run_id
    client.log_text(run_id, "kept", "note.txt")
    found = client.download_artifacts(run_id, "note.txt", str(tmp_path))
    assert Path(found).read_text() == "kept"
