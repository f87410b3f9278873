"""How a command talks to a shell: its output, its options, its exit status, its answer to a mistake
and to Ctrl-C.
"""

import argparse
import atexit
import gc
import getpass
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from lenet.cli.screen import console

MISTAKE, INTERRUPTED = 2, 130  # a shell expects 130 of a process that Ctrl-C ended
BROKEN_PIPE = 141  # and 141 of a process that SIGPIPE ended

RUN_ID = "a run's id, its first letters (at least 4), or latest"


def start() -> None:
    """Makes this process fit for any terminal, pipe and user. Call it before the large imports.

    Output that cannot be written stops no work, except that standard output raises one
    BrokenPipeError. Ctrl-C raises KeyboardInterrupt; the process then ends with one word and status
    130, in imports and callbacks too.
    """
    for descriptor in range(3):  # one that is closed would be the next file's that is opened
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is getattr(sys, f"__{name}__"):  # not a test's or a notebook's own
            setattr(sys, name, Output.of(getattr(sys, name)))
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # the work is done by then
    # At the end the interpreter would spend 2 s on freeing objects one by one.
    atexit.register(gc.freeze)
    try:
        getpass.getuser()
    except (KeyError, OSError):  # in a container: torch and MLflow would ask too, and fail
        os.environ["LOGNAME"] = str(os.getuid())
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/"  # as Docker does it


class Output(io.TextIOWrapper):
    """A stream that drops what cannot be written. Characters that it lacks are replaced."""

    lost: OSError | None = None  # the first reason

    @staticmethod
    def of(stream: io.TextIOWrapper | None) -> "Output":
        """A stream in place of this one, which is None where it was closed."""
        if stream is None:
            return Output(open(os.devnull, "wb"), "utf-8", "replace")
        stream.flush()
        errors = stream.errors if "replace" in str(stream.errors) else "replace"
        how = stream.line_buffering, stream.write_through
        return Output(stream.buffer, stream.encoding, errors, None, *how)

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._drop(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._drop(error)

    def _drop(self, error: OSError) -> None:
        is_first, self.lost = self.lost is None, self.lost or error
        if is_first and isinstance(error, BrokenPipeError) and self is sys.stdout:
            raise error


def is_interrupted() -> bool:
    """Whether Ctrl-C has come, so that any error from now on may be its consequence."""
    return sys.excepthook is _end


def say_interrupted() -> None:
    """For a handler of signals: it may interrupt a print, and Python allows no other within it."""
    with suppress(OSError):
        # On a terminal a bar may hold the line, and have hidden the cursor.
        os.write(2, (b"\r\x1b[K\x1b[?25h" if os.isatty(2) else b"") + b"Interrupted.\n")


def _interrupt(number: int, frame: FrameType | None) -> None:
    if is_interrupted():
        _end()
    say_interrupted()
    # Code in C that imports or calls back turns the exception into another, or drops it.
    sys.excepthook = sys.unraisablehook = _end
    atexit.register(_end)
    raise KeyboardInterrupt


def _end(*error: object) -> NoReturn:
    with suppress(Exception):
        sys.stdout.flush()
    os._exit(INTERRUPTED)


def answer(work: Callable[[], int | None]) -> int:
    """Do a command's work; an error becomes at most one line on standard error.

    Returns: the status that the work returns, or 0; 2 after a ValueError or OSError, and where the
    output could not be written; 141 when the reader of the output has gone.
    """
    try:
        try:
            status = work() or 0
        finally:
            print(end="", flush=True)
        if lost := getattr(sys.stdout, "lost", None):
            raise lost
        return status
    except BrokenPipeError:
        return BROKEN_PIPE
    except (ValueError, OSError) as error:
        tell(error)
        return MISTAKE


def tell(error: Exception | str) -> None:
    """Prints a mistake as one line, red on a terminal."""
    from rich.text import Text

    line = error if isinstance(error, str) else first_error_line(error)
    console(stderr=True).print(Text.assemble(("error:", "bold red"), f" {line}"), soft_wrap=True)


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
    return shortened(one_line(" ".join(lines[: 2 if lines[0].endswith(":") else 1])), 500)


def shortened(text: str, width: int) -> str:
    """The beginning of a text, in whole words where they are short enough."""
    if len(text) <= width:
        return text
    words = text[: width - 4]
    return f"{words.rpartition(' ')[0] or words} ..."


def format_duration(seconds: float) -> str:
    """12 s, 3 min, 1.5 h or 4.2 d."""
    for unit, size, digits in (("s", 1, 0), ("min", 60, 0), ("h", 3600, 1)):
        if seconds < 100 * size:
            return f"{seconds / size:.{digits}f} {unit}"
    return f"{seconds / 86_400:.1f} d"


# ---- Options that several commands have --------------------------------------------------------


class CommandParser(argparse.ArgumentParser):
    """A parser whose mistakes are a ValueError, so that `answer` prints them as one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{plain(message)} (see {self.prog} --help)")


def plain(message: str) -> str:
    """What argparse says of a wrong option, in plain words."""
    option = r"argument (?:\S*/)?(\S+): "
    for pattern, words in (
        (r"unrecognized arguments: (\S+).*", r"\1: no such option"),
        ("the following arguments are required: (.*)", r"\1: missing"),
        (option + "expected one argument", r"\1: expected a value after it"),
        (option + "ignored explicit argument (.*)", r"\1: takes no value, got \2"),
        (option + r"invalid choice: (\S+) \(choose from (.*)\)", r"\1: expected \3, got \2"),
        (option + "(.*)", r"\1: \2"),
    ):
        if found := re.fullmatch(pattern, message):
            return found.expand(words)
    return message


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


def add_data_folder(parser: argparse.ArgumentParser) -> None:
    note = "where the files of the run's data are here (default: where the run had them)"
    parser.add_argument("--data", type=path_of, metavar="FOLDER", help=note)


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
