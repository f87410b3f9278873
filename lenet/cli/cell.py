"""A bar in a notebook. rich itself needs ipywidgets for one; IPython is there in any notebook."""

import functools
from threading import Event, Thread

from IPython.core.getipython import get_ipython
from IPython.display import HTML, DisplayHandle
from rich.live import Live
from rich.progress import Progress

PAUSE = 0.2  # seconds between two pictures of the bar


class CellLive(Live):
    """Shows a bar in the output of the cell that runs, until it is stopped."""

    def __init__(self, bar: Progress) -> None:
        super().__init__(console=bar.console)
        shell = get_ipython()
        assert shell  # rich has found it
        self._bar, self._place = bar, place_in(shell.execution_count)
        self._is_over = Event()
        self._thread = Thread(target=self._show, daemon=True, name="bar")

    def start(self, refresh: bool = False) -> None:
        self._thread.start()

    def _show(self) -> None:
        while True:
            self._place.update(self._bar)
            if self._is_over.wait(PAUSE):
                self._place.update(HTML(""))
                return

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()


@functools.lru_cache(maxsize=1)
def place_in(cell: int) -> DisplayHandle:
    """The place of all bars of a cell, which come one after another: its output has no gaps."""
    place = DisplayHandle()
    place.display(HTML(""))
    return place
