"""torch's profiler around a part of a training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, supported_activities


@contextmanager
def profiled(enabled: bool) -> Iterator[profile | None]:
    """Records what runs inside it. Without `enabled` it gives None and costs nothing."""
    if not enabled:
        yield None
        return
    wanted = {ProfilerActivity.CPU, ProfilerActivity.CUDA} & set(supported_activities())
    with profile(activities=wanted, record_shapes=True) as recording:
        yield recording


def table(recording: profile, rows: int = 25) -> str:
    """The operators that took the most time themselves, a line each."""
    return recording.key_averages().table(sort_by="self_cpu_time_total", row_limit=rows)


def save_trace(recording: profile, path: Path) -> None:
    """Writes a trace for chrome://tracing or Perfetto."""
    recording.export_chrome_trace(str(path))
