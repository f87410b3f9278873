"""The report on a sweep: its text, its page, its effects."""

import base64
import hashlib
import json
import math
import re
import shlex
import subprocess
import time

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Metric

from lenet.__main__ import main as lenet
from lenet.report import plots
from lenet.report.effects import class_differences, main_effects
from lenet.report.findings import ReportError, analyze
from lenet.report.publish import write_files
from lenet.report.results import load_curves, read_sweep
from lenet.report.text import format_difference, format_number, report_lines
from lenet.report.verdict import judge
from lenet.tracking import client as store
from lenet.tracking.names import TrackingError
from tests.conftest import copy_store
from tests.support.sweeps import EPOCHS, grid, make_sweep, points_of, runs_of

METRIC = "val/accuracy"


def judged(values, maximize=True):
    return judge(runs_of(values), ["optimizer.lr", "seed"], METRIC, maximize)


# ---- Effects ---------------------------------------------------------------------------------


def test_a_main_effect_is_the_mean_over_all_the_rest_and_its_share_of_the_squares():
    measures = np.array([0.9, 0.9001, 0.901, 0.9011, 0.92, 0.9201, 0.921, 0.9211])
    runs = runs_of({0: measures[:4], 1: measures[4:]}, {0: [0, 1, 0, 1], 1: [0, 1, 0, 1]})
    runs["b"] = [0, 0, 1, 1] * 2
    verdict = judge(runs, ["optimizer.lr", "b", "seed"], METRIC, True)
    first, second = main_effects(verdict)
    assert (first.name, second.name) == ("lr", "b")
    assert list(first.levels["mean"]) == pytest.approx([measures[:4].mean(), measures[4:].mean()])
    total = ((measures - measures.mean()) ** 2).sum()
    assert first.share == pytest.approx(8 * 0.01**2 / total)
    assert list(first.levels["n"]) == [4, 4]


def test_a_number_with_many_values_is_a_trend():
    verdict = judged({k / 100: [k / 100] for k in range(1, 31)})
    (effect,) = main_effects(verdict)
    assert effect.rho == pytest.approx(1.0)
    assert effect.levels.empty


def test_words_lists_and_nothing_are_levels_too():
    verdict = judged({"[6, 16]": [0.9, 0.91], None: [0.8, 0.81]})
    (effect,) = main_effects(verdict)
    assert sorted(effect.levels["text"]) == ["[6, 16]", "not set"]


def test_classes_are_compared_with_the_best_setting():
    runs = runs_of({1: [0.9, 0.91], 2: [0.8, 0.81]})
    runs["test/class_accuracy/0"] = [0.9, 0.8, 0.7, 0.6]
    runs["test/class_accuracy/10"] = [0.5, 0.5, 0.6, 0.6]
    runs["test/class_accuracy/2"] = 0.5
    table = class_differences(judge(runs, ["optimizer.lr", "seed"], METRIC, True))
    assert list(table.index) == ["0", "2", "10"]
    assert list(table["lr=1"]) == pytest.approx([0.85, 0.5, 0.5])
    assert list(table["lr=2"]) == pytest.approx([-0.2, 0.0, 0.1])


# ---- From a store ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def uri(empty_store, tmp_path_factory):
    return copy_store(empty_store, tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    return tmp_path_factory.mktemp("artifacts").as_uri()


HOSTILE = "</title><script>alert(1)</script>\x1b[31m"
JOBS = grid(optimizer__lr=[0.01, 0.1], optimizer__momentum=[0.0, 0.9], seed=[0, 1, 2])


@pytest.fixture(scope="module")
def parent(uri, artifacts):
    return make_sweep(
        uri,
        JOBS,
        name=HOSTILE,
        error=HOSTILE,
        status=lambda job: "FAILED" if job == JOBS[-1] else "FINISHED",
        artifacts=artifacts,
    )


def test_a_frame_has_a_row_a_run_with_axes_first_and_numbers_as_numbers(uri, parent):
    frame = read_sweep(parent, uri).runs
    assert len(frame) == len(JOBS)
    axes = ["optimizer.lr", "optimizer.momentum", "seed"]
    at = list(frame.columns).index("optimizer.lr")
    assert list(frame.columns[at : at + 3]) == axes
    assert frame[axes].to_dict("records") == JOBS
    assert frame["test/accuracy"].dtype == float
    curves = load_curves(parent, ["val/accuracy"], uri=uri)
    assert len(curves) == (len(JOBS) - 1) * EPOCHS + 1


def test_the_command_prints_and_logs_page_table_and_data(uri, parent, artifacts, capsys):
    assert lenet(["report", parent, "--uri", uri]) == 0
    out = capsys.readouterr().out
    assert "val/accuracy of 11 finished runs, 4 settings, 1 failed" in out
    assert "Best: lr=0.01, momentum=0.9." in out
    assert "\x1b" not in out
    place = re.search(r"Page: (.*)/report.html", out)[1]
    frame = pd.read_csv(f"{place}/runs.csv")
    assert len(frame) == len(JOBS)
    with open(f"{place}/verdict.json") as file:
        data = json.load(file, parse_constant=pytest.fail)
    assert data["best"] == "lr=0.01, momentum=0.9"
    assert [len(data["settings"]), data["metric"], len(data["failed"])] == [4, METRIC, 1]


def page_lines(found, folder, uri):
    write_files(found, folder, uri)
    return (folder / "report.html").read_text()


def test_the_page_needs_no_other_file_and_runs_its_own_script_alone(uri, parent, tmp_path):
    text = page_lines(analyze(parent, uri), tmp_path, uri)
    assert not re.findall("<(link|iframe|object|form|img)|src=|url\\(", text)
    (script,) = re.findall("<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = re.search('Content-Security-Policy" content="(.*?)"', text)[1]
    assert policy == (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )


def test_each_row_of_the_page_leads_to_its_runs_in_mlflow(uri, parent, tmp_path):
    text = page_lines(analyze(parent, uri), tmp_path, uri)
    links = re.findall(
        r'href="http://127\.0\.0\.1:5000/#/experiments/(\w+)/runs/(\w+)\?(.*?)"', text
    )
    experiment = store.connect(uri).get_run(parent).info.experiment_id
    assert {(e, query) for e, _, query in links} == {(experiment, "workflowType=machine_learning")}
    assert {run_id for _, run_id, _ in links} == {parent, *read_sweep(parent, uri).runs["run_id"]}


def test_the_page_begins_with_the_command_the_date_and_the_commit(uri, tmp_path):
    parent, client = make_sweep(uri, grid(seed=[0, 1])), store.connect(uri)
    client.set_tag(parent, "lenet.sweep.command", "python run.py -m 'seed=range(2)' <b>")
    client.set_tag(parent, "mlflow.source.git.commit", "0123456789abcdef")
    text = page_lines(analyze(parent, uri), tmp_path, uri).partition("<h2>")[0]
    assert "<code>python run.py -m &#39;seed=range(2)&#39; &lt;b&gt;</code>" in text
    assert time.strftime("%Y-%m-%d %H:", time.gmtime()) in text
    assert "<dd>0123456789</dd>" in text


def test_no_heading_stands_twice_on_the_page(uri, parent, tmp_path):
    headings = re.findall("<h[123]>(.*?)</h", page_lines(analyze(parent, uri), tmp_path, uri))
    assert len(headings) == len(set(headings)) > 5


def test_a_loss_that_became_infinite_ends_its_curve_and_counts_as_no_result(uri, tmp_path):
    def points(job):
        diverges = job["optimizer.lr"] == 1.0
        values = [0.5, math.inf, math.inf] if diverges else [0.5, 0.4, 0.3]
        return [Metric("val/loss", value, 1, step) for step, value in enumerate(values, 1)]

    jobs = grid(optimizer__lr=[0.1, 1.0], seed=[0, 1])
    jobs.append({"optimizer.lr": 1.0, "seed": 2})
    found = analyze(make_sweep(uri, jobs, points=points, objective="val/loss"), uri)
    assert math.isinf(found.sweep.runs["val/loss"].max())
    assert list(found.verdict.settings["n"]) == [2, 0]
    curves = load_curves(found.sweep.run_id, ["val/loss"], uri=uri)
    assert math.isinf(curves["value"].max())
    verdict = judge(
        found.sweep.runs.assign(**{"val/loss": 0.3}), found.sweep.axes, "val/loss", False
    )
    chart = plots.curves(curves, verdict, "val/loss")
    assert sorted(len(line.points) for line in chart.lines) == [1, 3]
    assert all(0 <= at <= 100 for line in chart.lines for point in line.points for at in point)


def test_every_shape_of_sweep_gets_a_page(uri, tmp_path):
    for jobs in (
        grid(seed=range(4)),
        grid(optimizer__momentum=[0.5, 0.9]),
        grid(model__activation=["x" * 200, "tanh"], a=[1, 2], b=["[1, 2]", None], seed=[0, 1]),
        [{"optimizer.lr": 0.9**k, "optimizer.momentum": 0.9} for k in range(40)],
    ):
        found = analyze(make_sweep(uri, jobs), uri)
        write_files(found, tmp_path, uri)
        assert "\n".join(report_lines(found))
        assert json.loads((tmp_path / "verdict.json").read_text())["settings"]


def test_a_verdict_on_the_test_set_is_exploratory(uri):
    jobs = grid(optimizer__momentum=[0.5, 0.9], seed=[0, 1, 2])
    parent = make_sweep(uri, jobs, points=lambda job: points_of(job, False), objective="none")
    found = analyze(parent, uri)
    assert (found.verdict.metric, found.exploratory) == ("test/accuracy", True)
    (line,) = [line for line in report_lines(found) if line.startswith("Exploratory:")]
    assert "data.val_size=119 objective=val/accuracy" in line  # a twelfth of the training images


@pytest.mark.parametrize(
    ("metric", "direction", "best"),
    [
        ("test/calibration_error", None, "momentum=0.5"),
        ("seconds/total", None, "momentum=0.5"),
        ("mine", "minimize", "momentum=0.5"),
        ("mine", "maximize", "momentum=0.9"),
    ],
)
def test_the_best_has_the_metrics_own_direction_or_the_given_one(uri, metric, direction, best):
    def points(job):
        value = job["optimizer.momentum"] / 10 + 0.001 * job["seed"]
        return [Metric(metric, value, 0, 1)]

    jobs = grid(optimizer__momentum=[0.5, 0.9], seed=[0, 1, 2])
    found = analyze(make_sweep(uri, jobs, points=points), uri, metric, direction)
    assert found.verdict.best == best


def test_a_metric_whose_direction_is_not_known_is_refused_with_what_to_type(uri):
    with pytest.raises(ReportError, match=r"better\? --direction maximize or minimize$"):
        analyze(
            make_sweep(uri, grid(seed=[0]), points=lambda job: [Metric("mine", 1.0, 0, 1)]),
            uri,
            "mine",
        )


def test_a_setting_that_lacks_runs_says_so_and_nothing_is_promised(uri):
    jobs = grid(optimizer__momentum=[0.5, 0.9], seed=[0, 1, 2])

    def text_with(last):
        parent = make_sweep(uri, jobs, status=lambda j: last if j == jobs[-1] else "FINISHED")
        return "\n".join(report_lines(analyze(parent, uri)))

    killed = text_with("KILLED")
    assert "Best: momentum=0.9 (1 of 3 seeds without a result)." in killed
    assert "best; 1 of 3 seeds without a result" in killed
    failed = text_with("FAILED")
    assert (
        "Best: momentum=0.5. No significant difference from it: 0; worse: 0; not compared: 1."
        in failed
    )
    assert "not compared; 1 of 3 seeds failed" in failed
    assert "With 95% confidence" not in killed + failed


def test_a_verdict_that_is_open_says_what_more_seeds_would_find(uri):
    jobs = grid(optimizer__lr=[0.019, 0.02, 0.021], seed=[0, 1, 2])
    text = "\n".join(report_lines(analyze(make_sweep(uri, jobs), uri)))
    found = re.search(
        r"3 seeds find differences above about (0\.\d\d) points here; for (0\.\d\d) run (\d+): "
        r"'seed=range\(\3\)' adds (\d+) runs, ",
        text,
    )
    assert float(found[1]) == pytest.approx(2 * float(found[2]), abs=0.02)
    assert int(found[4]) == 3 * (int(found[3]) - 3)


@pytest.mark.parametrize("state", ["FAILED", "KILLED"])
def test_a_run_that_was_repeated_leaves_no_seed_without_a_result(uri, state):
    jobs = grid(optimizer__momentum=[0.5, 0.9], seed=[0, 1, 2])
    states = iter([state, *["FINISHED"] * 6])
    parent = make_sweep(uri, [jobs[0], *jobs], status=lambda job: next(states))
    head, *lines = report_lines(analyze(parent, uri))
    assert head.endswith("6 finished runs, 2 settings")
    text = "\n".join(lines)
    assert "without a result" not in text
    assert "With 95% confidence" in text


def test_no_test_is_named_where_none_was_made(uri):
    jobs = grid(optimizer__momentum=[0.5, 0.9], seed=[0, 1, 2])
    found = analyze(
        make_sweep(uri, jobs, points=lambda job: [Metric("val/accuracy", 0.9, 0, 1)]), uri
    )
    text = "\n".join(report_lines(found))
    assert "no spread over seeds: 1" in text
    assert "confidence" not in text


def test_the_objective_is_not_replaced_by_the_test_set_where_a_run_lacks_it(uri):
    jobs = grid(optimizer__momentum=[0.5, 0.9], seed=[0, 1])
    parent = make_sweep(uri, jobs, points=lambda job: points_of(job, job != jobs[0]))
    with pytest.raises(ReportError, match=r"have val/accuracy; they have test/accuracy$"):
        analyze(parent, uri)


def test_a_finished_run_whose_result_is_not_a_number_does_not_end_the_report(uri, tmp_path):
    def points(job):
        nan = Metric("val/accuracy", float("nan"), 0, 6)
        return points_of(job) + [nan] * (job["seed"] in broken)

    broken = [2]
    found = analyze(make_sweep(uri, grid(seed=[0, 1, 2]), points=points), uri)
    assert len(found.verdict.runs) == 2
    write_files(found, tmp_path, uri)
    broken = [0, 1, 2]
    with pytest.raises(ReportError, match="val/accuracy is not finite in any run"):
        analyze(make_sweep(uri, grid(seed=[0, 1, 2]), points=points), uri)


def test_settings_that_look_alike_with_six_digits_are_told_apart(uri, tmp_path):
    found = analyze(make_sweep(uri, grid(optimizer__lr=[0.3, 0.1 + 0.2], seed=[0, 1, 2])), uri)
    write_files(found, tmp_path, uri)
    names = {"0.3", "0.30000000000000004"}
    assert set(found.verdict.settings["label"]) == {f"lr={name}" for name in names}
    assert set(found.effects[0].levels["text"]) == names
    assert len(found.classes.columns) == 2


@pytest.mark.parametrize("epochs", [1, 2, 3, 10])
def test_the_axis_of_epochs_has_whole_numbers_alone(epochs):
    ticks = plots.Scale(0.5, epochs + 0.5, "epoch").ticks
    assert ticks
    assert all(text.isdecimal() for _, text in ticks)


@pytest.mark.parametrize("maximize", [True, False])
def test_one_bad_setting_does_not_take_all_the_colours_of_the_table(maximize):
    sign = 1 if maximize else -1
    measures = [sign * (0.9 + 0.001 * i) for i in range(15)] + [sign * -50.0]
    verdict = judged({i: [value, value] for i, value in enumerate(measures)}, maximize=maximize)
    shades = plots.shades(verdict)
    assert (shades.iloc[0], shades.iloc[-1]) == (1.0, 0.0)
    assert 0.3 < shades.iloc[7] < 0.7


def test_the_page_has_class_accuracies_in_percent_and_a_missing_class_as_a_blank(uri, tmp_path):
    def points(job):
        every = points_of(job)
        return [p for p in every if job["model"] == "a" or p.key != "test/class_accuracy/7"]

    found = analyze(make_sweep(uri, grid(model=["a", "b"], seed=[0, 1]), points=points), uri)
    page = page_lines(found, tmp_path, uri)
    table = page.partition("<h2>Classes</h2>")[2].partition("</table>")[0]
    assert re.search(r'<td class="n">9\d\.\d\d%</td>', table)
    assert "0.9" not in table
    data = json.loads((tmp_path / "verdict.json").read_text())
    assert None in [column["7"] for column in data["classes"].values()]


def test_runs_with_a_validation_set_are_not_advised_to_take_one(uri, parent):
    text = "\n".join(report_lines(analyze(parent, uri, "test/accuracy")))
    assert "; --metric val/accuracy judges by the validation set." in text
    assert "data.val_size" not in text


def test_a_training_set_of_unknown_size_gets_no_number_of_validation_images(uri):
    jobs = grid(optimizer__momentum=[0.5, 0.9], seed=[0, 1])
    parent = make_sweep(uri, jobs, points=lambda job: points_of(job, False), objective="none")
    for run_id in read_sweep(parent, uri).runs["run_id"]:
        store.connect(uri).delete_tag(run_id, "lenet.dataset.train")
    (line,) = [x for x in report_lines(analyze(parent, uri)) if x.startswith("Exploratory:")]
    assert "; data.val_size and objective=val/accuracy give a validation set." in line


def test_the_advice_to_repeat_is_a_word_of_a_shell(uri):
    found = analyze(make_sweep(uri, grid(optimizer__momentum=[0.5, 0.9])), uri)
    (line,) = [line for line in report_lines(found) if "repeats them" in line]
    advice = line.partition("luck; ")[2].removesuffix(" repeats them.")
    assert shlex.split(advice) == ["seed=range(5)"]
    assert subprocess.run(["sh", "-c", f"echo {advice}"], check=False).returncode == 0


def test_pruned_and_unfinished_runs_are_counted_apart(uri):
    jobs = grid(optimizer__momentum=[0.5, 0.9], seed=[0, 1, 2])
    states = iter(["FINISHED", "FINISHED", "KILLED", "FINISHED", "RUNNING", "FAILED"])
    found = analyze(make_sweep(uri, jobs, status=lambda job: next(states)), uri)
    assert next(report_lines(found)).endswith("3 finished runs, 2 settings, 1 failed, 2 unfinished")
    found.sweep.runs.loc[2, "pruned"] = True
    assert "1 failed, 1 pruned, 1 unfinished" in next(report_lines(found))


@pytest.mark.parametrize(
    ("run_id", "said"),
    [("no id", "32 hexadecimal digits"), ("0" * 32, "no such run")],
)
def test_a_wrong_id_is_one_line_and_status_2(uri, run_id, said, capsys):
    assert lenet(["report", run_id, "--uri", uri]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_a_run_that_is_no_sweep_or_has_no_result_is_refused(uri, parent):
    child = read_sweep(parent, uri).runs["run_id"][0]
    with pytest.raises(ReportError, match="is not a sweep"):
        analyze(child, uri)
    running = make_sweep(uri, grid(seed=[0, 1]), status=lambda job: "RUNNING")
    with pytest.raises(ReportError, match="none of its 2 runs is finished"):
        analyze(running, uri)
    with pytest.raises(
        ReportError, match="not all finished runs have val/nothing; they have test/accuracy"
    ):
        analyze(parent, uri, "val/nothing")
    with pytest.raises(TrackingError):
        analyze(parent, "sqlite:///no/such.db")


def test_numbers_are_percent_where_they_are_shares():
    assert (format_number(0.98765, METRIC), format_number(0.098765, "val/loss")) == (
        "98.77%",
        "0.09877",
    )
    assert (format_difference(0.0123, METRIC), format_difference(-1e-9, METRIC)) == ("+1.23", "0")
    assert format_number(math.nan, METRIC) == "-"
