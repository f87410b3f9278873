"""The profiler records what runs inside it, and nothing where it is off."""

import torch

from lenet.model.lenet5 import LeNet5
from lenet.training.profiling import profiled


def test_the_profiler_is_on_inside_alone_and_only_where_enabled():
    with profiled(False) as nothing:
        assert not torch.autograd.profiler._is_profiler_enabled
    assert nothing is None
    with profiled(True) as recording:
        LeNet5()(torch.randn(2, 1, 32, 32)).sum().backward()
    assert "convolution_backward" in recording.key_averages().table()
    assert not torch.autograd.profiler._is_profiler_enabled
