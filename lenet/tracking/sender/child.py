"""What the process of `SenderProcess` runs."""

import io
import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lenet.tracking.journal import Facts, Journal
from lenet.tracking.sender.process import SHARED


class Copy(Journal):
    """The journal as the other process writes it, in memory."""

    def __init__(self, folder: Path, facts: Facts) -> None:
        super().__init__(folder, facts)
        self.is_whole = False

    def describe(self, **changes: Any) -> None:
        self.facts = replace(self.facts, **changes)


class Printer(io.TextIOBase):
    """A stream whose text the other process prints."""

    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, text: str) -> int:
        tell("print", [self.name, text])
        return len(text)


def tell(kind: str, value: Any) -> None:
    with suppress(OSError):  # the other process has died: the input says so
        os.write(1, f"{json.dumps([kind, value])}\n".encode())


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdout, sys.stderr = Printer("stdout"), Printer("stderr")
    sys.argv[:] = json.loads(sys.stdin.readline())
    # MLflow does without them, as mlflow-skinny does, and begins a second earlier.
    for name in ("numpy", "pandas", "scipy"):
        sys.modules[name] = None  # type: ignore[assignment]
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401  # before a database needs it

    from lenet.tracking.client import resolved
    from lenet.tracking.sender.thread import Sender
    from lenet.tracking.variables import context_tags

    uri = resolved(json.loads(sys.stdin.readline()))
    tell("ready", [uri, context_tags()])
    folder, facts = json.loads(sys.stdin.readline())
    journal = Copy(Path(folder), Facts(**facts))
    sender = Sender(journal, journal.facts.uri, is_training=True)

    def report() -> None:
        refusal = sender.refusal and [type(sender.refusal).__name__, str(sender.refusal)]
        values = {name: getattr(sender, name) for name in SHARED}
        tell("state", values | {"run_id": journal.facts.run_id, "refusal": refusal})

    sender.on_change = report
    sender.start()
    for line in sys.stdin:
        kind, value = json.loads(line)
        sender.close() if kind == "close" else journal.append(kind, value)


if __name__ == "__main__":
    main()
    os._exit(0)  # whatever is under way
