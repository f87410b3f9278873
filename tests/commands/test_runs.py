"""`python -m lenet runs`: the newest first, filtered, in 80 columns."""

import time

import pytest

from lenet.__main__ import main
from lenet.tracking.client import connect
from lenet.tracking.names import ID_TAG, PARENT_TAG, SWEEP_KIND_TAG

RUNS = (  # experiment, name, tags, status, accuracies on validation and test set
    ("lenet5", "a sweep", {SWEEP_KIND_TAG: "grid"}, "FINISHED", ()),
    (
        "lenet5",
        "job of the sweep",
        {PARENT_TAG: "a sweep", ID_TAG: "1"},
        "FINISHED",
        (0.98, 0.9889),
    ),
    ("other", "x" * 60, {ID_TAG: "2"}, "FAILED", (0.5,)),
    ("lenet5", "alone", {ID_TAG: "3"}, "RUNNING", ()),
    ("lenet5", "another project's", {}, "FINISHED", (0.7,)),
)


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    uri = f"sqlite:///{tmp_path_factory.mktemp('runs')}/mlflow.db"
    client = connect(uri)
    experiments = {name: client.create_experiment(name) for name in ("lenet5", "other")}
    ids, now = {}, int(time.time() * 1000) - 60_000
    for k, (experiment, name, tags, status, scores) in enumerate(RUNS, 1):
        tags = {key: ids.get(value, value) for key, value in tags.items()}
        run = client.create_run(
            experiments[experiment], start_time=now + k, tags=tags, run_name=name
        )
        ids[name] = run.info.run_id
        for part, score in zip(("val", "test"), scores, strict=False):
            client.log_metric(run.info.run_id, f"{part}/accuracy", score)
        client.update_run(run.info.run_id, status)
    return uri


def listed(capsys, uri, *options):
    assert main(["runs", "--uri", uri, *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_the_newest_run_comes_first_and_a_line_fits_80_columns(uri, capsys):
    head, *lines = listed(capsys, uri)
    assert head.split() == ["id", "name", "status", "age", "val", "test"]
    assert [line[10:15].strip() for line in lines] == ["alone", "xxxxx", "job o", "a swe"]
    assert max(map(len, lines)) <= 80
    assert lines[2].split()[-2:] == ["98.00%", "98.89%"]
    assert lines[1].split()[1:3] == ["x" * 29 + "...", "failed"]
    assert lines[1].split()[-2:] == ["50.00%", "-"]


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["-n", "1"], ["alone"]),
        (["--status", "finished"], ["job of the sweep", "a sweep"]),
        (["--experiment", "other"], ["xxx"]),
        (["--sweep", "latest"], ["job of the sweep"]),
        (["--experiment", "lenet5", "--status", "running"], ["alone"]),
    ],
)
def test_filters_choose_among_the_runs(options, names, uri, capsys):
    lines = listed(capsys, uri, *options)[1:]
    assert len(lines) == len(names)
    assert all(line[10:].startswith(name) for line, name in zip(lines, names, strict=True))


def test_without_any_run_there_is_one_line(uri, capsys):
    assert listed(capsys, uri, "--status", "killed") == ["No such runs."]


def test_an_unknown_experiment_gets_the_names_of_all(uri, capsys):
    assert main(["runs", "--uri", uri, "--experiment", "nix"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --experiment nix: expected one of ")
    assert "other" in error
