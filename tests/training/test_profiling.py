"""The profiler records what runs inside it, and nothing is recorded that wasn't asked for."""

import json

import pytest
import torch

from lenet.model.lenet5 import LeNet5
from lenet.training.profiling import profiled, save_trace, table


@pytest.fixture(scope="module")
def recording():
    model, images = LeNet5(), torch.randn(2, 1, 32, 32)
    with profiled(True) as recording:
        model(images).sum().backward()
    return recording


def test_disabled_gives_none_and_records_nothing():
    with profiled(False) as nothing:
        assert not torch.autograd.profiler._is_profiler_enabled
        torch.ones(2).sum()
    assert nothing is None


def test_enabled_records_inside_alone():
    with profiled(True):
        assert torch.autograd.profiler._is_profiler_enabled
    assert not torch.autograd.profiler._is_profiler_enabled


def test_the_table_has_a_row_for_the_convolution(recording):
    text = table(recording)
    assert "aten::conv2d" in text or "convolution" in text
    assert "convolution_backward" in text
    assert "Self CPU" in text


def test_the_table_is_as_long_as_asked_with_the_slowest_first(recording):
    def rows(text):  # between the second rule and the third: rule, heading, rule, rows, rule
        lines = text.splitlines()
        rules = [number for number, line in enumerate(lines) if set(line) <= {"-", " "} and line]
        return lines[rules[1] + 1 : rules[2]]

    assert len(rows(table(recording, rows=3))) == 3
    assert rows(table(recording, rows=6))[:3] == rows(table(recording, rows=3))
    events = sorted(recording.key_averages(), key=lambda e: -e.self_cpu_time_total)
    assert events[0].key[:20] in table(recording, rows=1)


def test_the_trace_is_json_with_the_events(recording, tmp_path):
    path = tmp_path / "trace.json"
    save_trace(recording, path)
    events = json.loads(path.read_text())["traceEvents"]
    assert any("conv" in str(event.get("name")) for event in events)


def test_an_error_inside_stops_the_profiler():
    with pytest.raises(ZeroDivisionError), profiled(True):
        raise ZeroDivisionError
    assert not torch.autograd.profiler._is_profiler_enabled
