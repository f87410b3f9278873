"""The profiler records what runs inside it, and nothing where it is off."""

import json

import torch

from lenet.model.lenet5 import LeNet5
from lenet.training.profiling import profiled, save_trace, table


def test_the_table_and_the_trace_have_the_convolution(tmp_path):
    with profiled(True) as recording:
        LeNet5()(torch.randn(2, 1, 32, 32)).sum().backward()
    assert "convolution_backward" in table(recording)
    slowest = max(recording.key_averages(), key=lambda event: event.self_cpu_time_total)
    assert slowest.key[:20] in table(recording, rows=1)
    save_trace(recording, tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert any("conv" in str(event.get("name")) for event in events)


def test_the_profiler_is_on_inside_alone_and_only_where_enabled():
    is_on = lambda: torch.autograd.profiler._is_profiler_enabled  # noqa: E731
    with profiled(False) as nothing:
        assert not is_on()
    assert nothing is None
    with profiled(True):
        assert is_on()
    assert not is_on()
