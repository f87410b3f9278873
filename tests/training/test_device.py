"""Which device and how many threads are used, and the message where there is none."""

import importlib
import os

import pytest
import torch

from lenet.training.device import DeviceError, select

CORES = os.cpu_count() or 1


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Says what the machine has. What `select` sets for the process is put back."""
    # Deterministic algorithms import this, which must not meet the faked functions.
    importlib.import_module("torch._dynamo")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    del os.environ["CUBLAS_WORKSPACE_CONFIG"]
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark

    def has(cuda=False, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    has()
    yield has
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark
    torch.set_num_threads(threads)


def test_auto_takes_cuda_and_else_the_cpu(machine):
    assert select() == torch.device("cpu")
    machine(mps=True)
    assert select("auto") == torch.device("cpu")
    machine(cuda=True, mps=True)
    assert select("auto") == torch.device("cuda")


@pytest.mark.parametrize("type", ["cpu", "cuda", "mps"])
def test_a_device_that_is_there_is_taken(machine, type):
    machine(cuda=True, mps=True)
    assert select(type) == torch.device(type)


@pytest.mark.parametrize("workspace", [None, ":16:8"])
def test_cuda_is_made_to_repeat_itself(machine, monkeypatch, workspace):
    machine(cuda=True)
    torch.backends.cudnn.benchmark = True
    if workspace:
        monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", workspace)
    select("cuda")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == (workspace or ":4096:8")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["cuda"], "device=cuda: this machine has none; expected auto, cpu, mps"),
        (["cuda:9"], "device=cuda:9: there is no such device; expected auto, cpu, mps"),
        (["cpu", 0], f"device.threads=0: expected 1 to {CORES}, this machine's cores"),
        (["cpu", 999], f"device.threads=999: expected 1 to {CORES}, this machine's cores"),
        (["cuda", 1], "device=cuda: this machine has none; expected auto, cpu, mps"),
        (
            ["cpu", None, "fast"],
            "device.kernels=fast: expected one of auto, native, eager, compile",
        ),
        (
            ["mps", None, "native"],
            "device.kernels=native: these are for the CPU, the device is mps",
        ),
    ],
)
def test_what_cannot_be_had_is_one_line_and_changes_nothing(machine, arguments, line):
    machine(mps=True)
    torch.set_num_threads(2)
    with pytest.raises(DeviceError) as caught:
        select(*arguments)
    assert str(caught.value) == line
    assert torch.get_num_threads() == 2


def test_threads_are_set_where_given():
    select("cpu", 1)
    assert torch.get_num_threads() == 1
    select("cpu", None)
    assert torch.get_num_threads() == 1
