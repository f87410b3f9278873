"""Which device and how many threads are used, and the message where there is none."""

import os

import pytest
import torch

from lenet.training.device import DeviceError, select

HAS_GPU = torch.cuda.is_available()
HAS = ", ".join(["cpu"] + ["cuda"] * HAS_GPU + ["mps"] * torch.backends.mps.is_available())
CORES = os.cpu_count() or 1


@pytest.fixture(autouse=True)
def settings(monkeypatch):
    """Puts back what `select` sets for the process."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    del os.environ["CUBLAS_WORKSPACE_CONFIG"]
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark
    torch.set_num_threads(threads)


def test_auto_takes_cuda_and_else_the_cpu():
    assert select() == select("auto") == torch.device("cuda" if HAS_GPU else "cpu")
    assert select("cpu") == torch.device("cpu")


@pytest.mark.skipif(not HAS_GPU, reason="needs a GPU")
def test_cuda_is_made_to_repeat_itself():
    torch.backends.cudnn.benchmark = True
    assert select("cuda") == torch.device("cuda")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["xpu"], f"device=xpu: this machine has none; expected auto, {HAS}"),
        (["cpu", 99_999], f"device.threads=99999: expected 1 to {CORES}, this machine's cores"),
    ],
)
def test_what_cannot_be_had_is_one_line_and_changes_nothing(arguments, line):
    threads = torch.get_num_threads()
    with pytest.raises(DeviceError) as caught:
        select(*arguments)
    assert str(caught.value) == line
    assert torch.get_num_threads() == threads


def test_threads_are_set_where_given():
    select("cpu", 1)
    assert torch.get_num_threads() == 1
    select("cpu", None)
    assert torch.get_num_threads() == 1
