"""What a job came to, as whoever ran it tells."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """How a job ended: `value` is what it returned, `error` is why it failed, in one line; it is
    `lost` where its process was, and couldn't say so. `seconds` is its time where only the job can
    know it, `warnings` are what it said on standard error.
    """

    index: int
    value: Any = None
    error: str | None = None
    seconds: float | None = None
    lost: bool = False
    warnings: tuple[str, ...] = ()
