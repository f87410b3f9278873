"""The kernels' threads take work, and nobody waits for one that is put aside."""

import shutil

import pytest
import torch
import torch.nn.functional as F

from lenet.model import LeNet5
from lenet.native import build
from lenet.training.fused_step import whole_step
from tests.native.networks import equipped, gradients, needs_kernels

pytestmark = needs_kernels

# Runs eight tasks. Whoever is not the caller stays in its first one until it is released.
STUCK_CPP = """
#include "team.h"
static std::atomic<bool> is_stuck{true}, has_begun{false};
static std::atomic<int> results[8];
extern "C" int64_t run_with_a_stuck_helper() {
    const auto caller = std::this_thread::get_id();
    return team.run(8, 2, [=](int64_t i) {
        if (std::this_thread::get_id() != caller) {
            has_begun = true;
            while (is_stuck) std::this_thread::yield();
        } else {
            while (!has_begun) std::this_thread::yield();
        }
        results[i] = i + 1;
    });
}
extern "C" int sum() {
    int sum = 0;
    for (auto& result : results) sum += result;
    return sum;
}
extern "C" int64_t late_jobs() { return team.late_jobs(); }
extern "C" void release() { is_stuck = false; }
"""


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def test_the_caller_does_the_work_of_a_helper_that_is_stuck(tmp_path, monkeypatch):
    monkeypatch.setenv("LENET_CACHE", str(tmp_path / "cache"))
    for name in ("team.h", "vector.h"):
        shutil.copy(build.HERE / name, tmp_path)
    (tmp_path / "stuck.cpp").write_text(STUCK_CPP)
    c = build.library(tmp_path).cdll
    c.run_with_a_stuck_helper.restype = c.late_jobs.restype = build.ctypes.c_int64
    late = c.run_with_a_stuck_helper()
    assert c.sum() == 36
    assert late
    assert c.late_jobs() & late  # what the helper works on must be kept
    c.release()
    while c.late_jobs():
        pass


def noisy_batch(count, seed=0):
    """Numbers whose sums depend on their order."""
    generator = torch.Generator().manual_seed(1000 * seed + count)
    images = torch.randn(count, 1, 32, 32, generator=generator)
    return images, torch.randint(10, (count,), generator=generator)


@pytest.mark.parametrize("count", [1, 16, 17, 64, 100])
def test_gradients_are_the_same_bits_on_any_number_of_threads(threads, count):
    found = []
    for number in (1, 2, 3):
        threads(number)
        torch.manual_seed(0)
        found.append(gradients(equipped(LeNet5()), *noisy_batch(count)))
    for outputs, grads in found[1:]:
        assert torch.equal(outputs, found[0][0])
        assert all(torch.equal(grads[name], grad) for name, grad in found[0][1].items())


@pytest.mark.parametrize("count", [2, 40, 64])
def test_steps_are_the_same_bits_on_any_number_of_threads(threads, count):
    found = []
    for number in (1, 2, 3):
        threads(number)
        torch.manual_seed(0)
        model = equipped(LeNet5())
        step = whole_step(model, F.cross_entropy, torch.optim.SGD(model.parameters(), lr=0.1))
        losses = [step(*noisy_batch(count, seed))[0].item() for seed in range(20)]
        found.append((losses, [p.detach() for p in model.parameters()]))
    for losses, weights in found[1:]:
        assert losses == found[0][0]
        assert all(map(torch.equal, weights, found[0][1]))
