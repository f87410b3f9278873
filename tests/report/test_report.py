"""The verdict on a sweep, compared with one computed by hand, and the report about it."""

import json
import math
import re
import shlex
import subprocess

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Metric
from scipy import special

from lenet.__main__ import main as lenet
from lenet.report import plots
from lenet.report.effects import class_differences, main_effects
from lenet.report.findings import ReportError, analyze
from lenet.report.publish import write_files
from lenet.report.results import load_curves, load_sweep
from lenet.report.text import format_difference, format_number, report_lines
from lenet.report.verdict import BEST, NO_RUN, UNKNOWN, WORSE, interval, judge
from lenet.tracking import client as store
from lenet.tracking.client import TrackingError
from tests.conftest import copy_store
from tests.support.sweeps import EPOCHS, grid, make_sweep, points_of

METRIC = "val/accuracy"


def runs_of(values, seeds=None, status="FINISHED", axis="optimizer.lr"):
    """`values` maps each setting to its measures."""
    rows = []
    for setting, measures in values.items():
        own = range(len(measures)) if seeds is None else seeds[setting]
        for seed, measure in zip(own, measures, strict=True):
            rows.append({axis: setting, "seed": seed, METRIC: measure})
    frame = pd.DataFrame(rows)
    frame["run_id"] = [f"{i:032x}" for i in range(len(frame))]
    frame["start"] = pd.to_datetime(range(len(frame)), unit="s", utc=True)
    return frame.assign(status=status, seconds=10.0, name="run", error="", pruned=False)


def judged(values, seeds=None, maximize=True):
    return judge(runs_of(values, seeds), ["optimizer.lr", "seed"], METRIC, maximize)


def row(verdict, setting):
    (found,) = verdict.settings[verdict.settings["optimizer.lr"] == setting].to_dict("records")
    return found


# ---- By hand ---------------------------------------------------------------------------------


def t_quantile(p, degrees):
    return float(special.stdtrit(degrees, p))


def two_sided_p(t, degrees):
    """From the incomplete beta function, not from what the package calls."""
    return float(special.betainc(degrees / 2, 0.5, degrees / (degrees + t * t)))


def test_the_interval_of_a_share_is_students_on_the_logit_scale():
    values = [0.981, 0.984, 0.979, 0.985]
    found = row(judged({0.1: values, 0.2: [0.5, 0.6]}), 0.1)
    mean, sd = sum(values) / 4, math.sqrt(sum((v - sum(values) / 4) ** 2 for v in values) / 3)
    half = t_quantile(0.975, 3) * sd / (mean * (1 - mean)) / 2
    ends = [1 / (1 + math.exp(-(math.log(mean / (1 - mean)) + s * half))) for s in (-1, 1)]
    assert (found["n"], found["mean"]) == (4, pytest.approx(mean))
    assert [found["low"], found["high"]] == pytest.approx(ends)


@pytest.mark.parametrize("values", [[0.43, 0.57], [0.999, 0.2], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
def test_an_interval_of_accuracies_stays_between_none_and_all(values):
    found = row(judged({1: values, 2: [0.1, 0.2]}), 1)
    assert 0 <= found["low"] <= found["mean"] <= found["high"] <= 1
    other = row(judged({1: values, 2: [0.1, 0.2]}), 2)
    if not math.isnan(other["difference_low"]):
        assert -1 <= other["difference_low"] <= other["difference_high"] <= 1


def test_the_interval_of_a_loss_is_students():
    low, high = interval(4, 0.5, 0.1, share=False)
    half = t_quantile(0.975, 3) * 0.1 / 2
    assert (float(low), float(high)) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))


def test_shared_seeds_are_compared_pair_by_pair():
    best, other = [0.98, 0.99, 0.97, 0.985], [0.978, 0.985, 0.966, 0.981]
    found = row(judged({1: best, 2: other, 3: [0.5, 0.51, 0.52, 0.53]}), 2)
    gaps = [a - b for a, b in zip(best, other, strict=True)]
    mean = sum(gaps) / 4
    sd = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / 3)
    p = two_sided_p(mean / (sd / 2), 3)
    assert found["test"] == "paired t, 4 seeds"
    assert found["difference"] == pytest.approx(mean)
    assert (found["p"], found["p_corrected"]) == (pytest.approx(p), pytest.approx(2 * p))
    half = t_quantile(1 - 0.05 / 2 / 2, 3) * sd / 2
    assert found["difference_low"] == pytest.approx(mean - half)


def test_other_seeds_are_compared_by_welch():
    best, other = [0.98, 0.99, 0.97], [0.95, 0.96, 0.955, 0.94]
    found = row(judged({1: best, 2: other}, {1: [0, 1, 2], 2: [7, 8, 9, 10]}), 2)
    (m1, v1, n1), (m2, v2, n2) = (
        (sum(x) / len(x), sum((a - sum(x) / len(x)) ** 2 for a in x) / (len(x) - 1), len(x))
        for x in (best, other)
    )
    error = v1 / n1 + v2 / n2
    degrees = error**2 / ((v1 / n1) ** 2 / (n1 - 1) + (v2 / n2) ** 2 / (n2 - 1))
    assert found["test"] == "Welch's t, 3 and 4 runs"
    assert found["p"] == pytest.approx(two_sided_p((m1 - m2) / math.sqrt(error), degrees))
    assert found["verdict"] == WORSE


@pytest.mark.slow
def test_the_truly_best_setting_is_seldom_ruled_out():
    """The best by next to nothing: in at most 5 % of sweeps, plus the error of 100 sweeps."""
    rng = np.random.default_rng(1)
    wrong = 0
    for _ in range(100):
        seeds = rng.normal(0, 1, 5)
        values = {k: list(seeds + rng.normal(1e-9 * (k == 0), 1, 5)) for k in range(8)}
        wrong += row(judged(values), 0)["verdict"] == WORSE
    assert wrong / 100 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 100)


def test_a_loss_is_better_when_it_is_lower():
    verdict = judged({1: [0.1, 0.11, 0.1], 2: [0.3, 0.31, 0.32]}, maximize=False)
    assert (row(verdict, 1)["verdict"], row(verdict, 2)["verdict"]) == (BEST, WORSE)
    assert row(verdict, 2)["difference"] > 0


# ---- Where there is little to go on ----------------------------------------------------------


def test_one_run_a_setting_gives_no_verdict():
    verdict = judged({1: [0.9], 2: [0.8]})
    assert verdict.best is None
    assert set(verdict.settings["verdict"]) == {UNKNOWN}
    assert verdict.settings["low"].isna().all()


def test_values_without_spread_give_no_verdict():
    verdict = judged({1: [0.9, 0.9, 0.9], 2: [0.8, 0.8, 0.8]})
    assert row(verdict, 2)["verdict"] == UNKNOWN
    assert "no spread" in row(verdict, 2)["test"]
    assert row(verdict, 1)["low"] == row(verdict, 1)["high"] == 0.9


def test_only_finished_runs_with_a_finite_value_count():
    runs = runs_of({1: [0.9, 0.91, math.nan, math.inf], 2: [0.8, 0.81, 0.82, 0.83]})
    runs.loc[7, "status"] = "FAILED"
    verdict = judge(runs, ["optimizer.lr", "seed"], METRIC, True)
    assert (row(verdict, 1)["n"], row(verdict, 2)["n"]) == (2, 3)
    assert (row(verdict, 1)["unfinished"], row(verdict, 2)["unfinished"]) == (2, 1)


def test_the_newest_run_of_a_seed_counts():
    runs = runs_of({1: [0.1, 0.9, 0.91], 2: [0.8, 0.81, 0.82]}, {1: [0, 0, 1], 2: [0, 1, 2]})
    verdict = judge(runs, ["optimizer.lr", "seed"], METRIC, True)
    assert row(verdict, 1)["mean"] == pytest.approx(0.905)


def test_a_setting_without_a_finished_run_comes_last():
    runs = runs_of({1: [0.9, 0.91], 2: [0.8, 0.81]})
    runs.loc[runs["optimizer.lr"] == 2, "status"] = "KILLED"
    verdict = judge(runs, ["optimizer.lr", "seed"], METRIC, True)
    assert list(verdict.settings["verdict"]) == [BEST, NO_RUN]


def test_the_order_of_rows_makes_no_difference():
    rng = np.random.default_rng(2)
    runs = runs_of({k: list(rng.normal(0.9, 0.01, 4)) for k in range(5)})
    one = judge(runs, ["optimizer.lr", "seed"], METRIC, True).settings
    other = judge(runs.sample(frac=1, random_state=3), ["optimizer.lr", "seed"], METRIC, True)
    pd.testing.assert_frame_equal(one, other.settings)


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
    frame = load_sweep(parent, uri)
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
    assert (
        "paired t-test by seed, two-sided, 5%; p values multiplied by 3 comparisons (Bonferroni)"
        in out
    )
    assert "\x1b" not in out
    place = re.search(r"Page: (.*)/report.html", out)[1]
    frame = pd.read_csv(f"{place}/runs.csv")
    assert len(frame) == len(JOBS)
    with open(f"{place}/verdict.json") as file:
        data = json.load(file, parse_constant=pytest.fail)
    assert data["best"] == "lr=0.01, momentum=0.9"
    assert [len(data["settings"]), data["metric"], len(data["failed"])] == [4, METRIC, 1]


def test_the_page_needs_no_other_file_and_runs_no_script(uri, parent, tmp_path):
    write_files(analyze(parent, uri), tmp_path, uri)
    text = (tmp_path / "report.html").read_text()
    assert not re.findall("<(script|link|iframe|object|form)", text)
    links = re.findall('(?:src|href)="([^"]{1,30})', text)
    assert links
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert "http://" not in text.replace("http-equiv", "")
    assert "https://" not in text


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
    failed = [jobs[-1]]
    found = analyze(
        make_sweep(uri, jobs, status=lambda j: "FAILED" if j in failed else "FINISHED"), uri
    )
    text = "\n".join(report_lines(found))
    assert "Best: momentum=0.9 (1 of 3 seeds without a result)." in text
    assert "best; 1 of 3 seeds without a result" in text
    assert "With 95% confidence" not in text


def test_a_failed_run_that_was_repeated_leaves_no_seed_without_a_result(uri):
    jobs = grid(optimizer__momentum=[0.5, 0.9], seed=[0, 1, 2])
    states = iter(["FAILED", *["FINISHED"] * 6])
    parent = make_sweep(uri, [jobs[0], *jobs], status=lambda job: next(states))
    text = "\n".join(report_lines(analyze(parent, uri)))
    assert "without a result" not in text
    assert "With 95% confidence" in text


def test_no_test_is_named_where_none_was_made(uri):
    jobs = grid(optimizer__momentum=[0.5, 0.9], seed=[0, 1, 2])
    found = analyze(
        make_sweep(uri, jobs, points=lambda job: [Metric("val/accuracy", 0.9, 0, 1)]), uri
    )
    text = "\n".join(report_lines(found))
    assert "too few runs to tell: 1" in text
    assert "t-test" not in text


def test_the_objective_is_not_replaced_by_the_test_set_where_a_run_lacks_it(uri):
    jobs = grid(optimizer__momentum=[0.5, 0.9], seed=[0, 1])
    parent = make_sweep(uri, jobs, points=lambda job: points_of(job, job != jobs[0]))
    with pytest.raises(ReportError, match=r"have val/accuracy; they have test/accuracy$"):
        analyze(parent, uri)


def test_settings_that_look_alike_with_six_digits_are_told_apart(uri, tmp_path):
    found = analyze(make_sweep(uri, grid(optimizer__lr=[0.3, 0.1 + 0.2], seed=[0, 1, 2])), uri)
    write_files(found, tmp_path, uri)
    names = {"0.3", "0.30000000000000004"}
    assert set(found.verdict.settings["label"]) == {f"lr={name}" for name in names}
    assert set(found.effects[0].levels["text"]) == names
    assert len(found.classes.columns) == 2


@pytest.mark.parametrize("maximize", [True, False])
def test_one_bad_corner_does_not_take_all_the_colours_of_the_heat_map(maximize):
    sign = 1 if maximize else -1
    cells = grid(a=range(4), b=range(4))
    values = [sign * (0.9 + 0.001 * i) for i in range(15)] + [sign * -50.0]
    runs = pd.concat(
        runs_of({j["a"]: [v, v]}, axis="a").assign(b=j["b"])
        for j, v in zip(cells, values, strict=True)
    )
    verdict = judge(runs.assign(run_id="x"), ["a", "b", "seed"], METRIC, maximize)
    low, high = plots.heat_map(verdict).axes[0].images[0].get_clim()
    assert high - low < 1


def test_the_page_has_class_accuracies_in_percent_and_a_missing_class_as_a_blank(uri, tmp_path):
    def points(job):
        every = points_of(job)
        return [p for p in every if job["model"] == "a" or p.key != "test/class_accuracy/7"]

    found = analyze(make_sweep(uri, grid(model=["a", "b"], seed=[0, 1]), points=points), uri)
    write_files(found, tmp_path, uri)
    page = (tmp_path / "report.html").read_text()
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
    for run_id in load_sweep(parent, uri)["run_id"]:
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
    child = load_sweep(parent, uri)["run_id"][0]
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
