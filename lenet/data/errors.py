"""What the readers of data files have in common."""

import os
import stat
from pathlib import Path


class DataError(ValueError):
    """A data set or picture that cannot be used: one line with its name and the reason."""


def why_not_a_file(path: str | Path) -> str:
    """The reason why `path` is not a regular file, or '' where it is one."""
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a zero byte in a name
        return "no such file"
    except OSError as error:
        return f"no access ({error.strerror})"
    if stat.S_ISREG(mode):
        return ""
    kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
    return f"expected a file, found {kind}"
