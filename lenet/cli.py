"""How a command talks to a shell: its options, its exit status, its answer to a mistake."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

MISTAKE, INTERRUPTED = 2, 130  # a shell expects 130 of a process that Ctrl-C ended
BROKEN_PIPE = 141  # and 141 of a process that SIGPIPE ended

RUN_ID = "a run's id, its first letters (at least 4), or latest"


def answer(work: Callable[[], int | None]) -> int:
    """Do a command's work; an error becomes at most one line on standard error.

    Returns: the status that the work returns, or 0; 2 after a ValueError or OSError; 130 after
    Ctrl-C; 141 when the reader of the output has gone.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # some terminals cannot show every name
    try:
        try:
            return work() or 0
        finally:
            _flush()
    except BrokenPipeError:
        return BROKEN_PIPE
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError) as error:
        tell(error)
        return MISTAKE


def tell(error: Exception) -> None:
    """Print a mistake as one line, for work that continues after it."""
    print(f"error: {first_error_line(error)}", file=sys.stderr)


def one_line(text: object) -> str:
    """The text as one line that every terminal can show; other characters are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def first_error_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type if it has no message. A line
    that ends with a colon, such as `Error in call to X:`, is joined with the next one.
    """
    lines = [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]
    if isinstance(error, OSError) and error.filename and error.strerror:
        lines = [f"{error.filename}: {error.strerror}"]
    return one_line(" ".join(lines[: 2 if lines[0].endswith(":") else 1]))[:500]


def _flush() -> None:
    """Write what is buffered now, so that an error appears here and not when Python exits."""
    try:
        print(end="", flush=True)  # sys.stdout can be None; print allows that
    except OSError:
        stop_printing()
        raise


def stop_printing() -> None:
    """Send all further output to nowhere; for use after a BrokenPipeError."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def format_duration(seconds: float) -> str:
    """12 s, 3 min, 1.5 h or 4.2 d."""
    for unit, size, digits in (("s", 1, 0), ("min", 60, 0), ("h", 3600, 1)):
        if seconds < 100 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86_400:.1f} d"


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """A line for each row, in columns; the text in the columns `right` ends at their right edge."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            text.rjust(width) if number in right else text.ljust(width)
            for number, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines


# ---- Options that several commands have --------------------------------------------------------


class CommandParser(argparse.ArgumentParser):
    """A parser whose mistakes are a ValueError, so that `answer` prints them as one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def command_parser(module: str, doc: str | None, example: str) -> CommandParser:
    """A parser for the command in `lenet.commands.NAME`; the module's docstring describes it."""
    name = module.rpartition(".")[2]
    return CommandParser(
        prog=f"python -m lenet {name}",
        description=doc,
        epilog=f"Example: python -m lenet {name} {example}",
    )


def add_run_id(parser: argparse.ArgumentParser, what: str = "") -> None:
    parser.add_argument("run_id", metavar="RUN_ID", help=f"{what}: {RUN_ID}" if what else RUN_ID)


def add_uri(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--uri", help="the tracking store (default: the one that run.py uses)")


def add_output_folder(parser: argparse.ArgumentParser) -> None:
    note = "write to this folder instead of logging on the run"
    parser.add_argument("--output", type=path_of, metavar="FOLDER", help=note)


def path_of(text: str) -> Path:
    """A type for argparse: a path. An empty one is refused, because it would mean this folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)


def number_from(least: float, most: float, kind: type[int | float] = int) -> Callable[[str], Any]:
    """A type for argparse: numbers from `least` to `most`."""

    def parse(text: str) -> int | float:
        with suppress(ValueError):
            if least <= kind(text) <= most:  # nan is refused too
                return kind(text)
        raise argparse.ArgumentTypeError(f"expected {least:,} to {most:,}, got {text!r}")

    return parse
