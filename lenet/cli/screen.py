"""What a terminal shows, drawn by rich: tables and bars of its width. A pipe gets whole lines.

rich is imported late: it takes a tenth of a second, and most mistakes are answered without it.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, ProgressColumn

Ready = Callable[[], None]
PIPE_WIDTH = 10_000  # of a table where no terminal limits it


def console(stderr: bool = False) -> "Console":
    """A stream as rich sees it: text is shown as it is; in a pipe no line is too long."""
    from rich.console import Console

    stream = Console(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not (stream.is_terminal or stream.is_jupyter):
        stream.width = PIPE_WIDTH
    return stream


def aligned(
    rows: Sequence[Sequence[str]],
    right: Collection[int] = (),
    indent: int = 0,
    header: bool = True,
) -> list[str]:
    """The lines of a table that fits the terminal: a cell too wide for it goes on in a next line.
    The text in the columns `right` ends at their right edge; the first row is the `header`.
    """
    from rich.padding import Padding
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=header)
    names = rows[0] if header else [""] * len(rows[0])
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number in right else "left", overflow="fold")
    for row in rows[header:]:
        table.add_row(*row)
    stream = console()
    stream.is_jupyter = False  # it would show an empty table each time
    with stream.capture() as captured:
        stream.print(Padding(table, (0, 0, 0, indent)))
    return [line.rstrip() for line in captured.get().splitlines()]


def progress_bar(*columns: "str | ProgressColumn") -> "Progress":
    """A line at the end of a terminal, or at the top of a notebook's cell, that goes when the work
    is done; nothing in a pipe.
    """
    from rich.progress import Progress

    stream = console(stderr=True)
    is_terminal = stream.file.isatty()  # whatever FORCE_COLOR says, as in a notebook's workers
    bar = Progress(
        *columns,
        console=stream,
        transient=True,
        redirect_stdout=False,  # it may be a file
        disable=not (is_terminal or stream.is_jupyter),
    )
    if stream.is_jupyter:
        from lenet.cli.cell import CellLive

        bar.live = CellLive(bar)
    return bar


@contextmanager
def getting_ready(what: str = "Getting ready: network, data, MLflow") -> Iterator[Ready]:
    """A line that moves while a person waits, until the yielded function is called."""
    from rich.progress import SpinnerColumn

    with progress_bar(SpinnerColumn("line"), "{task.description}") as bar:
        bar.add_task(what, total=None)
        yield bar.stop
