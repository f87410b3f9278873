"""Ctrl-C, SIGTERM and a closed terminal: the first signal stops the training after a step, the
second ends the process at once.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from lenet.cli import say_interrupted


class Interrupt:
    """Handles these signals while it is entered. Where nohup ignores SIGHUP, it stays ignored.

    `interrupt()` is true once a signal has come. Inside `deferred()` the first signal does nothing
    else. A second one, and any signal outside, raises SystemExit with `exit_status`. Off the main
    thread there is no handling, because Python allows no handlers there.
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

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def __call__(self) -> bool:
        return self.signal is not None

    @property
    def exit_status(self) -> int:
        """What a shell expects of a process that a signal ended: 130, 143 or 129."""
        return 128 + (self.signal or signal.SIGINT)

    def exit_if_stopped(self) -> None:
        """Raises: SystemExit with `exit_status` where a signal has come."""
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
        is_second = self.signal is not None
        self.signal = number
        if is_second or not self._deferred:
            say_interrupted()
            raise SystemExit(self.exit_status)
        with suppress(OSError):
            os.write(2, b"\nStopping after this step; once more to stop at once.\n")
