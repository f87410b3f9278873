"""What the commands have in common: how each answers a shell, and what its options are called."""

import argparse
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

MISTAKE, INTERRUPTED = 2, 130  # the latter is what a shell expects of a process that Ctrl-C ended
BROKEN_PIPE = 141  # and of one that SIGPIPE ended

RUN_ID = "a run's id, the first letters of one (4 at least), or latest"
URI = "the tracking store; default: as in run.py"
OUTPUT = "a folder to write to, instead of logging"


def answer(work: Callable[[], int | None]) -> int:
    """Does a command's work; what it raises becomes at most one line on standard error.

    Returns: the work's own status, or 0; 2 after a ValueError or OSError; 130 after Ctrl-C; 141
    where whoever read the output is gone.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # not every terminal has every name
    try:
        status = work() or 0
        _flush()
    except BrokenPipeError:  # who read it has seen enough
        status = BROKEN_PIPE
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        status = INTERRUPTED
    except (ValueError, OSError) as error:
        tell(error)
        status = MISTAKE
    try:
        _flush()
    except OSError:
        stop_printing()
    return status


def tell(error: Exception) -> None:
    """A mistake, for work that goes on after one."""
    print(f"error: {first_error_line(error)}", file=sys.stderr)


def one_line(text: object) -> str:
    """One line that any terminal shows as it is, whatever is in a file's name."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(text))


def first_error_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its type where it has no message."""
    text = str(error).strip()
    if isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    return one_line(text.split("\n")[0])[:500] or type(error).__name__


def _flush() -> None:
    """What can't be written any more is told here, and not as the interpreter ends."""
    print(end="", flush=True)  # there may be no standard output


def stop_printing() -> None:
    """After a BrokenPipeError: whoever read the output is gone, and what comes goes nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


# ---- Where the work goes ---------------------------------------------------------------------


def path_of(text: str) -> Path:
    """For argparse: of an empty text, a variable that isn't set, Path makes the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("expected a path, got ''")
    return Path(text)


def check_file(path: Path) -> None:
    """Before the work that ends in it, and without a trace.

    Raises: ValueError where no file can be written there.
    """
    if path.exists() and not path.is_file():
        found = "a folder" if path.is_dir() else "a device, pipe or socket"
    elif not path.parent.is_dir():
        found = f"no folder {path.parent}"
    elif not os.access(path if path.exists() else path.parent, os.W_OK):
        found = "no permission"
    else:
        return
    raise ValueError(f"{path}: expected a file to write to, found {found}")


def check_folder(path: Path) -> None:
    """The same for a folder, which may be still to be made."""
    there = next(each for each in (path, *path.parents, Path()) if each.exists())
    if not there.is_dir():
        found = f"the file {there}"
    elif not os.access(there, os.W_OK):
        found = "no permission"
    else:
        return
    raise ValueError(f"{path}: expected a folder to write to, found {found}")
