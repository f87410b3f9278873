"""torch's profiler around a part of a training."""

from collections.abc import Iterator
from contextlib import contextmanager

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
