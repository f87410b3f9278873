"""The benchmark measures the same work for each variant, in the same rounds."""

import pytest
import torch

from lenet.__main__ import main
from lenet.commands.benchmark import VARIANTS, training
from lenet.commands.benchmark.plots import COLORS, speeds
from lenet.commands.benchmark.training import Cell, Trainer, full_batches, measure, table
from lenet.data import sets

CELLS = [
    Cell(1, 16, {"eager": [10.0, 20.0, 30.0], "native": [40.0, 60.0, 30.0]}),
    Cell(2, 1024, {"native": [2000.0, 1000.0, 3000.0]}),
]


@pytest.fixture(scope="module")
def digits():
    return sets.load("digits", "unused")


@pytest.fixture(autouse=True)
def _keep_threads():
    before = torch.get_num_threads()
    yield
    assert torch.get_num_threads() == before


def test_every_batch_is_full_even_from_a_smaller_set(digits):
    for size in (64, 2000):
        batches = full_batches(digits.train, size)
        assert {len(labels) for _, (_, labels) in zip(range(40), batches, strict=False)} == {size}


@pytest.mark.parametrize("variant", ["channels_last", "native"])
def test_each_variant_takes_the_steps_that_eager_takes(variant, digits):
    trainers = [Trainer(name, digits, 32) for name in ("eager", variant)]
    for trainer in trainers:
        for _ in range(3):
            trainer.take_step()
    one, other = (trainer.step.model.state_dict() for trainer in trainers)
    for name, weight in one.items():
        assert torch.allclose(weight, other[name], atol=1e-5), name


def test_every_variant_is_measured_once_a_round(digits):
    missing = {}
    cell = measure(digits, 16, 1, ["eager", "channels_last"], 3, 0.005, missing)
    assert {name: len(speeds) for name, speeds in cell.speeds.items()} == {
        "eager": 3,
        "channels_last": 3,
    }
    assert missing == {}


def test_a_variant_that_cannot_run_is_left_out_with_the_reason(digits, monkeypatch):
    def refuse(*_):
        raise training.KernelError("no compiler")

    monkeypatch.setattr(training, "equip", refuse)
    missing = {}
    cell = measure(digits, 16, 1, ["native", "eager"], 1, 0.005, missing)
    assert list(cell.speeds) == ["eager"]
    assert missing == {"native": "no compiler"}


def test_the_ratio_is_the_median_of_the_rounds_ratios():
    assert CELLS[0].times_eager("native") == 3
    assert table(CELLS)[2:] == [
        "| 1 | 16 | eager | 20 (10–30) | 3000.00 | 1.00 |",
        "| 1 | 16 | native | 40 (30–60) | 1500.00 | 3.00 |",
        "| 2 | 1024 | native | 2,000 (1,000–3,000) | 30.00 |  |",
    ]


def test_the_picture_has_a_panel_for_each_number_of_threads():
    figure = speeds(CELLS, "A CPU")
    assert [axes.get_title() for axes in figure.axes] == ["1 thread", "2 threads"]
    assert list(COLORS) == list(VARIANTS)
    assert "A CPU" in figure.get_suptitle()


def test_the_command_prints_a_table_and_writes_it_with_the_picture(
    tmp_path, capsys, monkeypatch, digits
):
    monkeypatch.setattr(sets, "load", lambda name, root: digits)  # no network
    tiny = ["--batches", "16", "--threads", "1", "--rounds", "1", "--seconds", "0.005"]
    options = [*tiny, "--variants", "eager"]
    output = tmp_path / "bench"
    assert main(["benchmark", *options, "--output", str(output)]) == 0
    out, err = capsys.readouterr()
    assert "| 1 | 16 | eager | " in out
    assert "threads 1, batch 16: eager " in err
    assert (output / "benchmark.md").read_text() == out
    assert (output / "benchmark.png").stat().st_size > 10_000
