"""The benchmark measures what it says: same work, same rounds, parts that sum, nothing left."""

import json
import multiprocessing
import subprocess
import sys
from contextlib import contextmanager
from itertools import islice, pairwise
from types import SimpleNamespace

import pytest
import torch
import yaml
from matplotlib.text import Text
from torch.utils.flop_counter import FlopCounterMode

import lenet.commands.benchmark as benchmark
import lenet.commands.benchmark.startup as benchmark_startup
import lenet.commands.benchmark.steps as benchmark_steps
from lenet import native
from lenet.__main__ import main
from lenet.commands.benchmark.plot import COLORS, LABEL, _apart, overview
from lenet.commands.benchmark.report import (
    FLOP,
    FLOP_NEEDED,
    MULTIPLY_ADDS,
    PARTS,
    VARIANTS,
    Cell,
    Report,
    Split,
    markdown,
    ratio,
)
from lenet.commands.benchmark.split import Clock, measure_splits, split_step
from lenet.commands.benchmark.startup import StartupError, startup
from lenet.commands.benchmark.steps import (
    HEAD_START,
    WORKERS,
    Fitted,
    Pictures,
    Stretch,
    Tutorial,
    turns,
    whole_batches,
)
from lenet.data import sets
from lenet.model.lenet5 import LeNet5
from tests.conftest import ROOT
from tests.training.test_plots import labels_beyond_the_limits

MACHINE = {"cpu": "A CPU", "cores": 2, "logical": 4, "simd": "AVX2", "torch": "2", "os": "An OS"}


@pytest.fixture(scope="module")
def digits():
    return sets.load("digits", "unused")


@pytest.fixture(autouse=True)
def small(monkeypatch, digits):
    """No network, no large matrices, and the number of threads as it was."""
    monkeypatch.setattr(sets, "load", lambda name, root: digits)
    monkeypatch.setattr(benchmark_steps, "SGEMM_SIZE", 64)
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run(*options):
    tiny = ["--batches", "16", "--threads", "1", "--rounds", "1", "--seconds", "0.02"]
    return main(["benchmark", *tiny, "--no-startup", *options])


def equipping(name, why="because", seen=None):
    """A stand-in for lenet.native.equip that ends up with the kernels `name`."""

    def equip(model, device, kernels):
        if seen is not None:
            seen.append(kernels)
        return SimpleNamespace(name=name, why=why)

    return equip


def stopping(convolutions, dense, seen=None):
    """A stand-in for lenet.native.stopwatch that saw so many seconds in the C++."""

    @contextmanager
    def stopwatch():
        seconds = {}
        if seen:
            seen()
        yield seconds
        seconds |= {"convolutions": convolutions, "dense": dense}

    return stopwatch


def parts_of(step, **parts):
    return {**dict.fromkeys(PARTS, 0.0), **parts, "step": step}


def report_of(threads=(1, 2), batches=(16, 64), variants=tuple(VARIANTS), splits=True, rounds=3):
    """Speeds that lie close to each other, so that their labels would meet."""
    base = {v: 40_000.0 if v == "native" else 9_000.0 + 60 * i for i, v in enumerate(variants)}
    speeds = {v: [speed + 10 * r for r in range(rounds)] for v, speed in base.items()}
    cells = [
        Cell(t, b, [50.0 * t] * rounds, speeds, dict.fromkeys(speeds, 5))
        for t in threads
        for b in batches
    ]
    parts = parts_of(90.0, convolutions=60.0, dense=20.0, rest=10.0)
    places = [b for b in batches if b in benchmark.SPLIT_BATCHES]
    found = [Split(v, max(threads), b, [parts]) for b in places for v in ("eager", "native")]
    started = {"first_step": [5.0, 6.0, 7.0], "imports": [3.0, 4.0, 5.0]}
    return Report(
        dict(MACHINE),
        "digits",
        rounds,
        0.4,
        cells,
        found if splits else [],
        started if splits else {},
        {},
    )


# ---- Numbers


@pytest.mark.parametrize(("image_gradient", "expected"), [(True, FLOP), (False, FLOP_NEEDED)])
def test_the_flop_count_is_torchs_own(image_gradient, expected):
    model, image = LeNet5(), torch.randn(1, 1, 32, 32, requires_grad=image_gradient)
    with FlopCounterMode(display=False) as forward:
        logits = model(image)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert forward.get_total_flops() == 2 * MULTIPLY_ADDS == FLOP / 3
    assert forward.get_total_flops() + backward.get_total_flops() == expected


def test_a_ratio_is_the_median_of_the_rounds_ratios():
    # By round 1, 0.75 and 3; the medians themselves are 30 and 20.
    assert ratio([10.0, 30.0, 60.0], [10.0, 40.0, 20.0]) == 1


def test_a_ratio_of_other_numbers_of_rounds_is_refused():
    with pytest.raises(ValueError, match="argument"):
        ratio([1.0, 2.0], [1.0])


def row_of(page, *begin):
    found = [line for line in page.splitlines() if line.startswith(f"| {' | '.join(begin)} |")]
    assert len(found) == 1, page
    return [cell.strip() for cell in found[0].strip("|").split("|")]


def test_a_row_has_median_spread_epoch_rate_and_both_ratios_by_round():
    speeds = {"eager": [10_000.0, 40_000.0, 20_000.0], "native": [20_000.0, 40_000.0, 60_000.0]}
    rates = [s * FLOP / 1e9 for s in (80_000, 80_000, 240_000)]  # native: 1/4, 1/2, 1/4 of it
    cell = Cell(2, 64, rates, speeds, {"eager": 3, "native": 3})
    page = markdown(Report(MACHINE, "digits", 3, 0.4, [cell], [], {}, {}))
    assert row_of(page, "2", "64", "native")[3:] == [
        "40,000 (20,000–60,000)",
        "1.50",
        "100.0",
        "25.0%",
        "2.00",
    ]
    assert row_of(page, "2", "64", "eager")[-1] == "1.00"


def test_without_eager_there_is_no_ratio_to_it_and_the_table_keeps_its_columns():
    page = markdown(report_of(variants=("tutorial", "native")))
    assert row_of(page, "1", "16", "native")[-1] == ""
    rows = [line for line in page.partition("\n* ")[0].splitlines() if line.startswith("|")]
    assert {row.count("|") for row in rows} == {9}
    assert len(rows) == 2 + 4 * 3


def test_the_page_says_what_the_count_includes_and_what_was_left_out():
    report = report_of()
    report.missing["native"] = "no C++ compiler"
    page = markdown(report)
    assert "416,520 multiply-adds" in page
    assert "2.50 MFLOP" in page
    assert "2.26" in page
    assert page.endswith("\nLeft out: native (no C++ compiler).\n")


def test_the_page_says_how_long_threads_spin_where_that_was_set():
    report = report_of()
    assert "GOMP_SPINCOUNT" not in markdown(report)
    report.machine["spin"] = "1000"
    assert "GOMP_SPINCOUNT=1000 for every variant" in markdown(report)


def test_a_typical_round_is_a_whole_one_that_was_measured():
    rounds = [parts_of(step, rest=step) for step in (7.0, 3.0, 9.0, 5.0)]
    assert Split("eager", 1, 64, rounds).typical is rounds[3]


# ---- The ways to train


def test_the_recipe_is_the_default_optimizers():
    arguments = yaml.safe_load((ROOT / "conf" / "optimizer" / "sgd.yaml").read_text())
    defaults = yaml.safe_load((ROOT / "conf" / "config.yaml").read_text())["defaults"]
    assert {"optimizer": "sgd"} in defaults
    assert arguments.pop("_target_") == "torch.optim.SGD"
    batches = sets.Batches(torch.zeros(2, 1, 32, 32), torch.zeros(2).long(), 1)
    group = Fitted(batches).optimizer.param_groups[0]
    assert {key: group[key] for key in arguments if key in group} == {
        key: value for key, value in arguments.items() if not key.startswith("_")
    }


@pytest.mark.parametrize("size", [16, 1000, 1024])
def test_every_batch_is_full_however_few_the_images(digits, size):
    batches = whole_batches(digits.train, size)
    assert len(batches) == 60_000 // size
    assert {len(labels) for _, labels in islice(batches, 3)} == {size}
    assert batches.count % size == 0


def test_stretches_go_on_where_the_last_ended(digits):
    batches = whole_batches(digits.train, 64)
    expected = [labels for _, labels in islice(batches, 5)]
    feed = benchmark_steps._endless(whole_batches(digits.train, 64))
    got = [labels for steps in (2, 3) for _, labels in Stretch(feed, steps)]
    assert torch.equal(torch.stack(got), torch.stack(expected))


def test_a_stretch_trains_its_steps_and_no_more(digits):
    trainer = Fitted(whole_batches(digits.train, 16))
    images, seconds = trainer.train(3)
    assert images == 48
    assert seconds > 0
    assert int(trainer.optimizer.state_dict()["state"][0]["momentum_buffer"].abs().sum() > 0)


def test_the_tutorials_pictures_are_the_same_inputs(digits):
    images = digits.train.images[:4]
    pictures = Pictures(
        images[:, 0, 2:30, 2:30], digits.train.labels, digits.inputs.mean, digits.inputs.std
    )
    inputs = torch.stack([pictures[i][0] for i in range(4)])
    torch.testing.assert_close(inputs, digits.train.transform(images))
    assert len(pictures) == digits.train.count


@pytest.mark.parametrize(("asked", "counted"), [(1, 4), (4, 4), (5, 6)])
def test_the_tutorial_counts_whole_rounds_of_its_workers_and_leaves_none(
    digits, recwarn, asked, counted
):
    trainer = Tutorial(whole_batches(digits.train, 16), digits.inputs.mean, digits.inputs.std)
    before = trainer.model.conv1.weight.detach().clone()
    images, seconds = trainer.train(asked)
    assert images == counted * 16
    assert seconds > 0
    assert not multiprocessing.active_children()
    assert not recwarn.list
    assert not torch.equal(before, trainer.model.conv1.weight)


@pytest.mark.parametrize(("ahead", "first"), [(0, 4), (3, 6), (5, 8), (20, 8)])
def test_the_tutorials_clock_starts_when_its_loop_waits_for_the_workers(
    monkeypatch, digits, ahead, first
):
    """A loader of batches that are there at once, `ahead` of them, and of late ones."""
    now, steps = [0.0], []
    batch = torch.zeros(16, 1, 32, 32), torch.zeros(16).long()

    class Loader:
        def __len__(self):
            return 30

        def __iter__(self):
            for number in range(30):
                if number < WORKERS or number >= WORKERS + ahead:
                    now[0] += 10
                yield batch

    def step(inputs, labels):
        now[0] += 1
        steps.append(now[0])

    trainer = Tutorial(whole_batches(digits.train, 16), digits.inputs.mean, digits.inputs.std)
    trainer.loader = Loader()
    monkeypatch.setattr(trainer, "_step", step)
    monkeypatch.setattr(benchmark_steps.time, "perf_counter", lambda: now[0])
    images, seconds = trainer.train(6)
    assert images == 6 * 16
    assert len(steps) == first + 6
    assert seconds == steps[-1] - steps[first - 1]


def test_the_tutorials_stretch_ends_with_its_epoch(digits):
    trainer = Tutorial(whole_batches(digits.train, 4096), digits.inputs.mean, digits.inputs.std)
    few = torch.utils.data.Subset(trainer.loader.dataset, range(14))
    trainer.loader = torch.utils.data.DataLoader(few, 1, num_workers=WORKERS)
    assert trainer.train(50)[0] == 14 - HEAD_START


def test_channels_last_reaches_the_kernels(digits):
    trainer = benchmark_steps.build("channels_last", whole_batches(digits.train, 16), digits)
    inputs, _ = next(trainer.feed)
    channels = torch.channels_last
    assert inputs.stride() == (1024, 1, 32, 1)
    assert trainer.model.conv1.weight.stride() == (25, 1, 5, 1)
    assert trainer.model.conv2.weight.is_contiguous(memory_format=channels)
    assert trainer.model.conv1(inputs).is_contiguous(memory_format=channels)
    eager = benchmark_steps.build("eager", whole_batches(digits.train, 16), digits)
    torch.testing.assert_close(eager.model(inputs), trainer.model(inputs))
    assert next(eager.feed)[0].stride() == (1024, 1024, 32, 1)


def test_every_name_is_measured_once_a_round_and_each_is_first_in_turn():
    names = ["a", "b", "c"]
    order = list(turns(names, 4))
    rounds = [order[i : i + 3] for i in range(0, 12, 3)]
    assert all(sorted(found) == names for found in rounds)
    assert [found[0] for found in rounds] == ["a", "b", "c", "a"]
    assert list(turns([], 3)) == []


@pytest.mark.parametrize("variant", ["compile", "native"])
def test_kernels_are_asked_for_by_name(monkeypatch, digits, variant):
    seen = []
    monkeypatch.setattr(native, "equip", equipping(variant, seen=seen), raising=False)
    benchmark_steps.build(variant, whole_batches(digits.train, 16), digits)
    assert seen == [variant]


def test_a_compiler_that_fails_costs_its_own_row_alone(monkeypatch, digits):
    def fails(*anything):
        raise OSError("no g++\nand a long story")

    monkeypatch.setattr(native, "equip", fails, raising=False)
    missing = {}
    cell = benchmark_steps.measure(digits, 16, ["eager", "compile"], 2, 0.01, missing)
    assert missing == {"compile": "no g++"}
    assert list(cell.speeds) == ["eager"]
    assert len(cell.speeds["eager"]) == len(cell.sgemm) == 2


@pytest.mark.parametrize(("a_step", "calls"), [(0.01, [1, 4, 40]), (0.2, [1, 4])])
def test_the_warm_up_is_a_stretch_and_what_was_compiled_before_does_not_count(a_step, calls):
    class Trainer:
        def __init__(self):
            self.calls = []

        def train(self, steps):
            self.calls.append(steps)
            return steps, steps * a_step + (30 if len(self.calls) == 1 else 0)

    trainer = Trainer()
    assert benchmark_steps.warm_up(trainer, 0.4) == round(0.4 / a_step)
    assert trainer.calls == calls


def test_sgemm_counts_two_flop_a_multiply_add_of_every_product_in_its_time(monkeypatch):
    ticks = iter(range(100))
    monkeypatch.setattr(benchmark_steps.time, "perf_counter", lambda: next(ticks))
    assert benchmark_steps.sgemm(3.0) == pytest.approx(2 * 64**3 / 1e9)
    assert next(ticks) == 4  # looked at once before and after each of three products


def test_an_error_of_eager_is_not_taken_for_a_missing_variant(monkeypatch, digits):
    def broken(*anything, **options):
        raise RuntimeError("broken")

    monkeypatch.setattr(benchmark_steps, "fit", broken)
    with pytest.raises(RuntimeError, match="broken"):
        benchmark_steps.measure(digits, 16, ["eager"], 1, 0.01, {})


# ---- Where a step goes


def test_eagers_parts_are_all_there_and_sum_to_the_step(digits):
    [split] = measure_splits(digits, 16, ["eager", "tutorial"], 2, 0.02)
    assert (split.variant, split.batch, len(split.rounds)) == ("eager", 16, 2)
    for parts in split.rounds:
        assert all(parts[name] > 0 for name in PARTS)
        assert sum(parts[name] for name in PARTS) == pytest.approx(parts["step"])
        assert parts["convolutions"] > parts["indexing"]


def test_the_clock_meets_the_parts_of_a_step_forward_and_back(monkeypatch, digits):
    taken = []
    monkeypatch.setattr(Clock, "take", lambda clock, part: taken.append(part))
    split_step(Fitted(whole_batches(digits.train, 16)), 2, fused=False)
    forward = ["convolutions", "dense", "loss"]
    assert taken == 2 * ["indexing", "update", *forward, *reversed(forward), "update"]


def test_natives_layers_are_what_its_stopwatch_says_and_the_calls_are_the_rest(monkeypatch, digits):
    hooks = []

    def seen():
        hooks.extend(hook for layer in trainer.model.children() for hook in layer._forward_hooks)

    monkeypatch.setattr(native, "equip", equipping("native"), raising=False)
    monkeypatch.setattr(native, "stopwatch", stopping(4e-6, 2e-6, seen), raising=False)
    trainer = benchmark_steps.build("native", whole_batches(digits.train, 16), digits)
    parts = split_step(trainer, 2, fused=True)
    assert hooks == []  # a layer with a hook is computed eagerly
    assert (parts["convolutions"], parts["dense"]) == pytest.approx((2.0, 1.0))
    assert not trainer.model._forward_hooks
    assert sum(parts[name] for name in PARTS) == pytest.approx(parts["step"])
    assert parts["rest"] > parts["step"] / 2


def test_the_clocks_are_taken_off_even_after_an_error(monkeypatch, digits):
    trainer = Fitted(whole_batches(digits.train, 16))
    monkeypatch.setattr(trainer, "feed", iter([(torch.zeros(1, 2, 3, 4), torch.zeros(1).long())]))
    with pytest.raises(RuntimeError):
        split_step(trainer, 1, fused=False)
    modules = (trainer.model, trainer.model.pool2)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)


# ---- The command


def test_a_tiny_run_prints_the_table_and_writes_three_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in ROOT.iterdir())
    assert run("--variants", "eager,channels_last", "--output", "out/of/it") == 0
    out, err = capsys.readouterr()
    folder = tmp_path / "out" / "of" / "it"
    names = ["benchmark.json", "benchmark.md", "benchmark.png"]
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == names
    assert (folder / "benchmark.md").read_text() == out
    for variant in ("eager", "channels_last"):
        assert row_of(out, "1", "16", variant)[3]
    assert "| eager | 1 | 16 |" in out
    assert benchmark.describe_machine()["cpu"] in out
    assert "threads 1, batch 16: eager " in err
    content = json.loads((folder / "benchmark.json").read_text())
    [cell] = content["cells"]
    assert [len(cell["speeds"][v]) for v in ("eager", "channels_last")] == [1, 1]
    assert cell["images"]["eager"] % 16 == 0
    assert content["flop_per_image"] == FLOP
    assert content["splits"][0]["rounds"][0]["step"] > 0
    assert (folder / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in ROOT.iterdir()) == before


def test_without_an_output_nothing_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run("--variants", "eager") == 0
    assert list(tmp_path.iterdir()) == []


def refusing(*anything):
    raise native.KernelError("no C++ compiler")


@pytest.mark.parametrize(
    ("equip", "stopwatch", "why"),
    [
        (refusing, None, "no C++ compiler"),
        (lambda *anything: 1 / 0, None, "division by zero"),
        (equipping("native"), stopping(0.0, 0.0), "the kernels were there and not used"),
    ],
    ids=["refused", "fails", "unused"],
)
def test_missing_kernels_leave_a_line_and_the_other_rows(
    monkeypatch, capsys, equip, stopwatch, why
):
    for name, value in (("equip", equip), ("stopwatch", stopwatch)):
        if value:
            monkeypatch.setattr(native, name, value)
    assert run("--variants", "eager,native") == 0
    out = capsys.readouterr().out
    assert out.endswith(f"\nLeft out: native ({why}).\n")
    assert row_of(out, "1", "16", "eager")
    assert "| native |" not in out


def test_kernels_that_are_there_are_a_row_and_a_split(monkeypatch, capsys):
    monkeypatch.setattr(native, "equip", equipping("native"), raising=False)
    monkeypatch.setattr(native, "stopwatch", stopping(4e-6, 2e-6), raising=False)
    assert run("--variants", "native,eager") == 0
    out = capsys.readouterr().out
    assert "Left out" not in out
    assert float(row_of(out, "1", "16", "native")[-1]) > 0
    assert row_of(out, "native", "1", "16")


def test_threads_are_put_back_after_a_run_and_after_an_error(monkeypatch, capsys):
    torch.set_num_threads(2)
    assert run("--variants", "eager", "--threads", "1") == 0
    assert torch.get_num_threads() == 2
    seen = []

    def broken(*anything):
        seen.append(torch.get_num_threads())
        raise RuntimeError("broken")

    monkeypatch.setattr(benchmark_steps, "measure", broken)
    with pytest.raises(RuntimeError, match="broken"):
        run("--variants", "eager", "--threads", "1")
    assert seen == [1]
    assert torch.get_num_threads() == 2


def test_all_threads_are_those_that_torch_has_and_are_measured_once(monkeypatch, capsys):
    seen = []

    def noted(data, batch, *rest):
        seen.append((torch.get_num_threads(), batch))
        return report_of().cells[0]

    monkeypatch.setattr(benchmark_steps, "measure", noted)
    torch.set_num_threads(1)
    assert run("--variants", "tutorial", "--threads", "all,1", "--batches", "64,16,64") == 0
    assert seen == [(1, 64), (1, 16)]


@pytest.mark.parametrize(
    ("option", "value", "accepted"),
    [
        ("--batches", "0", "expected 1 to 4,096, got '0'"),
        ("--batches", "16,x", "expected 1 to 4,096, got 'x'"),
        ("--batches", "4097", "expected 1 to 4,096, got '4097'"),
        ("--batches", "", "expected 1 to 4,096, got ''"),
        ("--threads", "0", "or all, got '0'"),
        ("--threads", "99999", "or all, got '99999'"),
        ("--variants", "eager,fast", "expected some of tutorial, eager"),
        ("--rounds", "1.5", "expected 1 to 1,000, got '1.5'"),
        ("--seconds", "nan", "expected above 0, up to 60, got 'nan'"),
        ("--seconds", "0", "expected above 0, up to 60, got '0'"),
        ("--seconds", "soon", "got 'soon'"),
        ("--speed", "9", "unrecognized arguments"),
    ],
)
def test_a_bad_option_is_one_line_and_status_2(capsys, option, value, accepted):
    with pytest.raises(SystemExit) as ended:
        run(option, value)
    out, err = capsys.readouterr()
    assert ended.value.code == 2
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert accepted in err


def test_an_output_that_is_a_file_is_refused_before_anything_is_measured(tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("mine")
    assert run("--output", str(path)) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n"), path.read_text()) == ("", 1, "mine")
    assert err.startswith(f"error: {path}: expected a folder")


def test_data_that_cannot_be_used_is_one_line_and_status_2(monkeypatch, capsys):
    def damaged(name, root):
        raise sets.DataError(f"{root}: damaged")

    monkeypatch.setattr(sets, "load", damaged)
    assert run("--root", "there") == 2
    assert capsys.readouterr().err == "error: there: damaged\n"


def test_the_command_does_not_read_in_torch_for_its_options():
    code = "import lenet.commands.benchmark, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# ---- The start


def test_a_start_that_cannot_be_measured_leaves_the_table_and_a_line(monkeypatch, capsys):
    def failing(data, root):
        raise StartupError("no run.py")

    monkeypatch.setattr(benchmark_startup, "startup", failing)
    tiny = ["--batches", "16", "--threads", "1", "--rounds", "1", "--seconds", "0.02"]
    assert main(["benchmark", *tiny, "--variants", "eager"]) == 0
    out = capsys.readouterr().out
    assert row_of(out, "1", "16", "eager")
    assert out.endswith("Left out: the start (no run.py).\n")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("print('done')", "run.py: expected an optimizer step, it ended without one"),
        ("import sys; sys.exit('error: bad key')", "error: bad key"),
    ],
)
def test_a_script_that_makes_no_step_is_one_line(tmp_path, monkeypatch, code, why):
    store = "import sys; open(sys.argv[1].removeprefix('sqlite:///'), 'w')"
    monkeypatch.setattr(benchmark_startup, "STORE", store)
    (tmp_path / "run.py").write_text(code)
    with pytest.raises(StartupError) as caught:
        startup("digits", "unused", script=tmp_path / "run.py")
    assert str(caught.value) == why


def test_a_package_without_run_py_is_one_line(tmp_path):
    with pytest.raises(StartupError, match=r"expected run\.py beside the package, found none"):
        startup("digits", "unused", script=tmp_path / "run.py")


@pytest.mark.slow
def test_run_py_reaches_its_first_step_and_leaves_nothing_behind(tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    monkeypatch.chdir(tmp_path)

    def state():
        store = ROOT / "mlflow.db"
        others = ("__pycache__", "/.coverage", "/.hypothesis", "/.git/", "_cache/")
        found = map(str, ROOT.rglob("*"))
        names = sorted(name for name in found if not any(word in name for word in others))
        return names, store.stat().st_mtime if store.exists() else None

    before = state()
    found = startup("digits", "unused", count=1)
    assert [len(seconds) for seconds in found.values()] == [1, 1]
    assert 0 < found["imports"][0] < 600
    assert 0 < found["first_step"][0] < 600
    assert state() == before
    assert list(tmp_path.iterdir()) == [temporary]
    assert list(temporary.iterdir()) == []


# ---- The picture

REPORTS = {
    "everything": lambda: report_of((1, 2), (16, 64, 256, 1024)),
    "no native": lambda: report_of(variants=("tutorial", "eager"), splits=False),
    "one of each": lambda: report_of((1,), (16,), ("eager",), splits=False, rounds=1),
    "three numbers of threads": lambda: report_of((1, 2, 4), (64, 256)),
}


@pytest.mark.parametrize("name", REPORTS)
def test_the_picture_is_1600_wide_and_no_text_is_cut_or_meets_another(name, tmp_path):
    figure = overview(REPORTS[name]())
    figure.savefig(tmp_path / "x.png")
    width, height = figure.bbox.width, figure.bbox.height
    assert 1590 <= width <= 1620
    undrawn = labels_beyond_the_limits(figure)
    boxes = [
        text.get_window_extent()
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and text not in undrawn
    ]
    assert len(boxes) > 5
    assert all(-1 <= b.x0 <= b.x1 <= width + 1 for b in boxes)
    assert all(-1 <= b.y0 <= b.y1 <= height + 1 for b in boxes)
    labels = [
        text.get_window_extent()
        for axes in figure.axes
        for text in axes.texts
        if "SGEMM" in text.get_text()
    ]
    for i, box in enumerate(labels):
        assert not any(box.overlaps(other) for other in labels[i + 1 :])


def test_the_picture_names_the_machine_and_every_variant(tmp_path):
    figure = overview(report_of())
    words = " ".join(text.get_text() for text in figure.findobj(Text))
    assert "A CPU, 2 cores (4 hardware threads), AVX2" in words
    assert all(variant in words for variant in VARIANTS)
    assert list(COLORS) == list(VARIANTS)
    assert len(set(COLORS.values())) == len(VARIANTS)


def test_labels_are_pushed_apart_and_keep_their_order():
    places = _apart([0.1, 0.5, 0.5, 0.51, 0.9])
    assert all(upper - lower > 0.999 * LABEL for lower, upper in pairwise(places))
    assert (places[0], places[-1]) == (0.1, 0.9)
