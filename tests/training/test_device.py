"""Which device is taken, on how many threads, and what is said where there is none."""

import importlib
import os

import pytest
import torch

from lenet.training.device import DeviceError, select

CORES = os.cpu_count() or 1


@pytest.fixture(autouse=True)
def _torch_as_it_was(monkeypatch):
    """`select` sets what holds for the whole process; a test must leave nothing of it."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    yield
    # select() sets the variable by itself, which monkeypatch does not know of.
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)
    if torch.are_deterministic_algorithms_enabled():
        torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark
    torch.set_num_threads(threads)


@pytest.fixture
def machine(monkeypatch):
    # Turning on deterministic algorithms imports this, which must not meet the faked functions.
    importlib.import_module("torch._dynamo")

    def has(cuda=False, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    has()
    return has


def test_auto_is_the_cpu_where_there_is_nothing_else(machine):
    assert select() == torch.device("cpu")
    assert select("auto") == torch.device("cpu")


def test_auto_is_cuda_where_it_is(machine):
    machine(cuda=True, mps=True)
    assert select("auto") == torch.device("cuda")


def test_auto_never_takes_mps(machine):
    machine(mps=True)
    assert select("auto") == torch.device("cpu")


@pytest.mark.parametrize("type", ["cpu", "cuda", "mps"])
def test_a_device_that_is_there_is_taken(machine, type):
    machine(cuda=True, mps=True)
    assert select(type) == torch.device(type)


def test_the_cpu_is_taken_where_cuda_is_there_too(machine):
    machine(cuda=True)
    assert select("cpu") == torch.device("cpu")
    assert not torch.are_deterministic_algorithms_enabled()


def test_cuda_is_made_to_repeat_itself(machine):
    machine(cuda=True)
    torch.backends.cudnn.benchmark = True
    select("cuda")
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_a_workspace_of_the_users_own_is_kept(machine, monkeypatch):
    machine(cuda=True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    select("auto")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


@pytest.mark.parametrize("type", ["cuda", "mps"])
def test_a_device_that_is_missing_is_one_line(machine, type):
    with pytest.raises(DeviceError) as caught:
        select(type)
    assert str(caught.value) == f"device={type}: this machine has none; expected auto, cpu"


def test_the_line_names_what_the_machine_has(machine):
    machine(mps=True)
    with pytest.raises(DeviceError, match=r"expected auto, cpu, mps$"):
        select("cuda")


@pytest.mark.parametrize("type", ["tpu", "", "CPU", "cuda:9"])
def test_an_unknown_device_is_one_line(machine, type):
    with pytest.raises(DeviceError) as caught:
        select(type)
    expected = f"device={type}: there is no such device; expected auto, cpu"
    assert str(caught.value) == expected


def test_threads_are_set(machine):
    for threads in {CORES, 1}:
        select("cpu", threads)
        assert torch.get_num_threads() == threads


def test_no_threads_given_leaves_torchs_own(machine):
    torch.set_num_threads(1)
    select("cpu", None)
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("threads", [0, -1, CORES + 1])
def test_threads_beyond_the_cores_are_refused_and_not_set(machine, threads):
    torch.set_num_threads(1)
    with pytest.raises(DeviceError) as caught:
        select("cpu", threads)
    expected = f"device.threads={threads}: expected 1 to {CORES}, this machine's cores"
    assert str(caught.value) == expected
    assert torch.get_num_threads() == 1


def test_a_refused_device_leaves_the_threads(machine):
    torch.set_num_threads(1)
    with pytest.raises(DeviceError):
        select("cuda", CORES)
    assert torch.get_num_threads() == 1
