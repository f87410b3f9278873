"""What the readers of data files have in common."""

import os
from pathlib import Path


class DataError(ValueError):
    """A data set or picture that cannot be used: one line with its name and the reason."""


def why_not_a_file(path: str | Path) -> str:
    """The reason why `path` is not a regular file, or '' where it is one."""
    if os.path.isfile(path):
        return ""
    if os.path.isdir(path):
        return "expected a file, found a folder"
    return "expected a file, found a device or pipe" if os.path.exists(path) else "no such file"
