"""The benchmark measures the same work for each variant, in the same rounds."""

import os
import re
import subprocess
import sys

import pandas as pd
import pytest
import torch

from lenet.commands.benchmark.plots import plot
from lenet.commands.benchmark.training import full_batches, measure, table, training_step
from lenet.data import sets
from lenet.model.lenet5 import LeNet5
from tests.conftest import ROOT

SPEEDS = pd.DataFrame(
    [
        {"threads": threads, "batch": 16, "variant": variant, "speed": speed, "times_eager": times}
        for threads, variant, speed, times in (
            *((1, "eager", 10.0, 1.0), (1, "native", 40.0, 4.0)),
            *((1, "eager", 20.0, 1.0), (1, "native", 60.0, 3.0)),
            *((1, "eager", 30.0, 1.0), (1, "native", 30.0, 1.0)),
            (2, "native", 2000.0, float("nan")),
        )
    ]
)


@pytest.fixture(scope="module")
def digits():
    return sets.load("digits", "unused")


def test_every_batch_is_full_even_from_a_smaller_set(digits):
    for size in (64, 2000):
        batches = full_batches(digits.train, size)
        assert {len(labels) for _, (_, labels) in zip(range(40), batches, strict=False)} == {size}


@pytest.mark.parametrize("variant", ["channels_last", "native"])
def test_each_variant_takes_the_steps_that_eager_takes(variant, digits):
    weights = []
    for name in ("eager", variant):
        torch.manual_seed(0)
        model = LeNet5()
        take_step = training_step(model, name, full_batches(digits.train, 32))
        for _ in range(3):
            take_step()
        weights.append(model.state_dict())
    for name, weight in weights[0].items():
        assert torch.allclose(weight, weights[1][name], atol=1e-5), name


def test_every_variant_is_measured_once_a_round(digits):
    before = torch.get_num_threads()
    rows, missing = measure(digits, 16, 1, ["eager", "channels_last"], 3, 0.005)
    assert [row["variant"] for row in rows] == ["eager", "channels_last"] * 3
    assert (missing, torch.get_num_threads()) == ({}, before)


def test_the_table_has_the_medians_of_the_rounds():
    assert [line.split() for line in table(SPEEDS).splitlines()] == [
        ["threads", "batch", "variant", "median", "lowest", "highest", "times_eager"],
        ["1", "16", "eager", "20", "10", "30", "1.0"],
        ["1", "16", "native", "40", "30", "60", "3.0"],
        ["2", "16", "native", "2,000", "2,000", "2,000"],
    ]


def test_the_picture_has_a_panel_for_each_number_of_threads():
    figure = plot(SPEEDS)
    assert [axes.get_title() for axes in figure.axes] == ["1 thread", "2 threads"]


def test_the_command_writes_its_table_and_picture_and_names_what_could_not_run(tmp_path):
    command = f"{sys.executable} -m lenet benchmark --batches 16 --threads 1 --rounds 1"
    command += f" --seconds 0.005 --variants eager,native --root {tmp_path} --output {tmp_path}"
    nothing = {"LENET_CACHE": str(tmp_path), "CXX": "false"}  # no kernels, no MNIST, no network
    env = os.environ | nothing | dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        command.split(), cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    assert re.search(r"1 +16 +eager +[\d,]+ ", done.stdout)
    assert "\nnot measured: native (device.kernels=native: " in done.stdout
    assert (tmp_path / "benchmark.txt").read_text() == done.stdout
    assert (tmp_path / "benchmark.png").stat().st_size > 10_000
