"""Results compared with published numbers: which runs count, and what is printed."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from lenet.config.check import check
from lenet.config.errors import ConfigError
from lenet.report.findings import analyze
from lenet.report.publish import write_files
from lenet.report.published import compare_published
from lenet.report.text import published_rows, report_lines
from lenet.tracking import client as store
from tests.conftest import copy_store
from tests.support.sweeps import grid, make_sweep

PRINTED = [
    {"optimizer.momentum": 0.5, "test/accuracy": 0.98},
    {"optimizer.momentum": 0.9, "test/accuracy": 0.99},
]


def frame(*rows):
    columns = ["model", "augment", "seed", "status", "test/accuracy"]
    return pd.DataFrame([dict(zip(columns, row, strict=True)) for row in rows])


RUNS = frame(
    ("lenet1", "none", 0, "FINISHED", 0.98),
    ("lenet1", "none", 1, "FINISHED", 0.97),
    ("lenet1", "affine", 0, "FINISHED", 0.5),
    ("lenet1", "none", 2, "FAILED", math.nan),
    ("lenet4", "none", 0, "FINISHED", 0.99),
)


def test_an_entry_counts_only_finished_runs_of_its_setting():
    entry = {"model": "lenet1", "augment": "none", "test/accuracy": 0.983}
    (found,) = compare_published(RUNS, [entry])
    assert (found.label, found.n) == ("model=lenet1, augment=none", 2)
    assert found.mean == pytest.approx(0.975)
    assert found.sd == pytest.approx(np.std([0.98, 0.97], ddof=1))
    assert found.low < 0.975 < found.high
    assert found.published == 0.983


def test_accuracies_are_printed_as_errors_like_in_papers():
    compared = compare_published(
        RUNS, [{"model": "lenet1", "augment": "none", "test/accuracy": 0.983}]
    )
    head, row = published_rows(compared)
    assert head[2:] == ("n", "test/error", "sd", "published", "difference")
    assert row[1:] == ("model=lenet1, augment=none", "2", "2.50%", "0.71%", "1.70%", "+0.80")


def test_one_run_has_no_spread():
    (found,) = compare_published(RUNS, [{"model": "lenet4", "test/accuracy": 0.989}])
    assert (found.n, found.mean) == (1, 0.99)
    assert math.isnan(found.sd)
    assert published_rows([found])[1][4] == "-"


@pytest.mark.parametrize(
    "entry",
    [
        {"model": "lenet9", "test/accuracy": 0.9},  # no such run
        {"nothing": 1, "test/accuracy": 0.9},  # no such column
        {"model": "lenet1", "test/nothing": 0.9},
    ],
    ids=str,
)
def test_an_entry_without_runs_is_left_out(entry):
    good = {"model": "lenet4", "test/accuracy": 0.989}
    assert [each.label for each in compare_published(RUNS, [entry, good])] == ["model=lenet4"]


@pytest.mark.parametrize("entry", ["{model: lenet1}", "5", "{test/accuracy: true}", "[1]"])
def test_a_wrong_entry_is_one_line(composed, entry):
    with pytest.raises(ConfigError, match=r"^sweep\.published=.*and one metric, as \{"):
        check(composed(f"sweep.published=[{entry}]"))


@pytest.fixture
def sweep(empty_store, tmp_path):
    uri = copy_store(empty_store, tmp_path)
    jobs = grid(optimizer__momentum=[0.5, 0.9], seed=[0, 1, 2])
    run_id = make_sweep(uri, jobs, artifacts=str(tmp_path / "artifacts"))
    tag = json.dumps(PRINTED)
    store.connect(uri).set_tag(run_id, "lenet.sweep.published", tag)
    return run_id, uri


def test_the_newest_run_of_a_seed_is_compared(empty_store, tmp_path):
    uri = copy_store(empty_store, tmp_path)
    run_id = make_sweep(uri, grid(optimizer__momentum=[0.5, 0.9], seed=[0, 1]) * 2)
    tag = json.dumps([{"optimizer.momentum": 0.9, "test/accuracy": 0.99}])
    store.connect(uri).set_tag(run_id, "lenet.sweep.published", tag)
    assert [each.n for each in analyze(run_id, uri).compared] == [2]


def test_terminal_page_and_data_have_the_published_numbers(sweep, tmp_path):
    found = analyze(*sweep)
    text = "\n".join(report_lines(found))
    assert "Compared with published numbers:" in text
    assert "optimizer" not in text.split("Compared with published numbers:")[1].splitlines()[2]
    assert "momentum=0.9  3" in text
    write_files(found, tmp_path, sweep[1])
    page = (tmp_path / "report.html").read_text()
    assert page.count("Compared with published numbers") == 1
    data = json.loads((tmp_path / "verdict.json").read_text())
    assert [each["published"] for each in data["published"]] == [0.98, 0.99]
    assert data["published"][0]["n"] == 3
