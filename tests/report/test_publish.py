"""What a report leaves on the sweep's own run in MLflow."""

import pytest

from lenet.report.publish import publish
from lenet.tracking import client as store
from tests.conftest import copy_store
from tests.support.sweeps import accuracy_of, grid, make_sweep

JOBS = grid(optimizer__momentum=[0.5, 0.9], seed=[0, 1, 2])
BEST = [accuracy_of(job) for job in JOBS if job["optimizer.momentum"] == 0.9]
NOTE = "mlflow.note.content"


@pytest.fixture
def parent(empty_store, tmp_path):
    """A client, and a sweep's run with two settings and three seeds."""
    uri = copy_store(empty_store, tmp_path)
    run_id = make_sweep(uri, JOBS, artifacts=(tmp_path / "artifacts").as_uri())
    return store.connect(uri), run_id


def report(parent, metric=None):
    """What is printed, and the sweep's run."""
    client, run_id = parent
    text = publish(run_id, client.tracking_uri, metric)
    return text, client.get_run(run_id).data


def test_the_sweeps_run_has_the_best_setting_as_params_and_its_means_as_metrics(parent):
    _, found = report(parent)
    assert found.params == {"optimizer.momentum": "0.9"}
    assert found.metrics["val/accuracy"] == pytest.approx(sum(BEST) / len(BEST))
    assert found.metrics.keys() == {"val/accuracy", "val/loss", "test/accuracy", "test/loss"}


def test_its_description_is_the_verdict_with_a_table_of_the_settings(parent):
    text = report(parent)[1].tags[NOTE]
    assert text.startswith("**Verdict.** Best: momentum=0.9.")
    assert "\nval/accuracy of 6 finished runs, 2 settings\n\n| " in text
    assert "| 1 | momentum=0.9 | 3 | " in text


def test_a_later_report_replaces_the_verdict_but_no_description_of_a_user(parent):
    client, run_id = parent
    report(parent)
    assert "test/accuracy of 6" in report(parent, "test/accuracy")[1].tags[NOTE]
    client.set_tag(run_id, NOTE, "mine")
    assert report(parent)[1].tags[NOTE] == "mine"


def test_parameters_that_hold_an_earlier_best_setting_are_said_to(parent):
    client, run_id = parent
    client.log_param(run_id, "optimizer.momentum", "0.5")
    text, found = report(parent)
    assert text.endswith("keep the best setting of the first report.")
    assert found.params == {"optimizer.momentum": "0.5"}
    assert found.metrics["val/accuracy"] == pytest.approx(sum(BEST) / len(BEST))
