"""A terminal in place of a test's standard error."""

import sys

import pytest


def make_terminal(monkeypatch: pytest.MonkeyPatch, columns: int | str) -> None:
    """What `capsys` captures of standard error is then what a terminal of this width gets."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(columns))
