"""How long a job will take, by runs of sweeps and of their own."""

import pytest

from lenet.tracking import client as store
from lenet.tracking.durations import expected_seconds, seconds_of
from lenet.tracking.read import Summary
from tests.conftest import copy_store


def run(start, process, total, **tags):
    tags = {"lenet.process": process, **{k.replace("_", "."): v for k, v in tags.items()}}
    return Summary("id", "", "FINISHED", start, None, {}, tags, {"seconds/total": total})


def test_a_job_takes_until_the_next_one_of_its_worker_starts():
    sweep = {"mlflow_parentRunId": "1"}
    runs = [run(0, "a", 8.0, **sweep), run(10_000, "a", 9.0, **sweep), run(500, "b", 7.0, **sweep)]
    assert sorted(seconds for _, seconds in seconds_of(runs)) == [7, 9, 10]


def test_a_run_outside_of_a_sweep_counts_where_there_is_no_other():
    alone = run(0, "c", 20.0)
    assert seconds_of([alone]) == [(alone, 20)]
    assert [s for _, s in seconds_of([alone, run(0, "a", 3.0, mlflow_parentRunId="1")])] == [3]


def test_a_job_is_expected_to_take_as_long_as_the_runs_most_like_it(tmp_path, empty_store):
    client = store.connect(copy_store(empty_store, tmp_path))
    experiment = store.experiment_id_of(client, "durations")
    for size, seconds in [(16, 9.0), (16, 11.0), (64, 3.0)]:
        one = client.create_run(experiment, tags={"mlflow.parentRunId": "1"}).info.run_id
        for key, value in {"epochs": 1, "data.batch_size": size, "optimizer.lr": 0.1}.items():
            client.log_param(one, key, value)
        client.log_metric(one, "seconds/total", seconds)
        client.set_terminated(one)
    where, like = (client, "durations"), {"epochs": "1"}
    small = {"epochs": "1", "data.batch_size": "16", "optimizer.lr": "0.5"}
    large = {**small, "data.batch_size": "64"}
    assert expected_seconds(*where, like, [small]) == 10
    assert expected_seconds(*where, like, [small, large]) == pytest.approx(6.5)
    assert str(expected_seconds(*where, {"epochs": "2"}, [small])) == "nan"
