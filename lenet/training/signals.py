"""Ctrl-C, SIGTERM, a closed terminal: the first asks the training to end at a step, the second ends
the process.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any


class Interrupt:
    """Takes over these signals while it is entered; SIGHUP not where nohup has it ignored.

    Calling it says whether a stop was asked for. Inside `deferred()` the first signal only asks;
    a second one, and any outside, raises SystemExit with `exit_status`. Off the main thread, where
    Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            numbers = [signal.SIGINT, signal.SIGTERM]
            hangup = getattr(signal, "SIGHUP", None)  # Windows has none
            if hangup and signal.getsignal(hangup) is not signal.SIG_IGN:
                numbers.append(hangup)
            for number in numbers:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """What a shell expects of a process that a signal ended: 130, 143 or 129."""
        return 128 + (self.signal or signal.SIGINT)

    def exit_if_asked(self) -> None:
        """Raises: SystemExit with `exit_status` where a stop was asked for."""
        if self():
            raise SystemExit(self.exit_status)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.signal is not None
        self.signal = number
        if again or not self._deferred:
            raise SystemExit(self.exit_status)
        # Not print: a handler that comes in the middle of a print may not start another.
        with suppress(OSError):
            os.write(2, b"\nStopping after this step; once more to stop at once.\n")
