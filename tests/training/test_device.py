"""Which device and how many threads are used, and the message where there is none."""

import os

import pytest
import torch

from lenet.native import get_threads, set_threads
from lenet.training.device import TORCHS_CHOICE, DeviceError, select

HAS_GPU = torch.cuda.is_available()
GPUS = [f"cuda:{k}" for k in range(torch.cuda.device_count())]
HAS = ", ".join(["cpu"] + ["cuda"] * HAS_GPU + GPUS + ["mps"] * torch.backends.mps.is_available())
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
    set_threads(None)


def test_auto_is_cuda_where_there_is_one_and_else_the_cpu():
    assert select() == select("auto") == torch.device("cuda" if HAS_GPU else "cpu")
    assert select("cpu") == torch.device("cpu")


@pytest.mark.skipif(not HAS_GPU, reason="needs a GPU")
def test_cuda_is_made_deterministic():
    torch.backends.cudnn.benchmark = True
    assert select("cuda") == torch.device("cuda")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


@pytest.mark.skipif(not HAS_GPU, reason="needs a GPU")
def test_a_gpu_is_taken_by_its_number():
    assert select("cuda:0") == torch.device("cuda:0")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["xpu"], f"device.type=xpu: this machine has none; expected auto, {HAS}"),
        (["cuda:99"], f"device.type=cuda:99: this machine has none; expected auto, {HAS}"),
        (["cpu", 99_999], f"device.threads=99999: expected 1 to {CORES}, this machine's cores"),
    ],
)
def test_an_unavailable_device_or_core_is_one_line_and_changes_nothing(arguments, line):
    threads = torch.get_num_threads()
    with pytest.raises(DeviceError) as caught:
        select(*arguments)
    assert str(caught.value) == line
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("threads", [None, 1])
def test_pytorchs_own_operators_take_one_thread_unless_more_are_asked_for(threads):
    select("cpu", threads)
    assert torch.get_num_threads() == 1
    assert get_threads() == (threads or TORCHS_CHOICE)


@pytest.mark.skipif(CORES == 1, reason="needs two cores")
def test_threads_that_are_asked_for_are_everybodys():
    select("cpu", 2)
    assert torch.get_num_threads() == get_threads() == 2
