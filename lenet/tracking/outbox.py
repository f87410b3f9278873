"""Sends what the processes of earlier runs left in their folders."""

import shlex
import sys
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

from lenet.config.record import masked
from lenet.tracking.client import resolved
from lenet.tracking.deliver import LOST
from lenet.tracking.journal import Journal, JournalError, unfinished
from lenet.tracking.names import (
    ERROR_TAG,
    PARENT_TAG,
    Outdated,
    TrackingError,
    Unreachable,
    send_command,
)
from lenet.tracking.sender.thread import Sender


def send(folder: Path, seconds: float, uri: str | None = None) -> str:
    """Sends the journal in a run's folder and removes the folder. With `uri` it goes to the store
    there, as a new run. Returns: a line about it.

    Raises: JournalError where the run's process is alive, or the folder lacks the run's beginning;
    TrackingError where the store doesn't take everything.
    """
    journal = Journal.open(folder)
    before = journal.facts
    try:
        if uri is not None:
            _move(journal, uri)
        sender = Sender(journal, journal.facts.uri, may_exist=True)
        _send_all(sender, journal, seconds)
    except BaseException:
        journal.close()
        raise
    journal.close(remove=True)
    line = f"Sent run {journal.facts.run_id} ({journal.facts.name})"
    is_moved = before.run_id not in (None, journal.facts.run_id)
    return f"{line}; it was {before.run_id} in {masked(before.uri)}" if is_moved else line


def _send_all(sender: Sender, journal: Journal, seconds: float) -> None:
    try:
        sender.start()
        if sender.wait_for_run(seconds):  # else the journal stays as it is
            statuses = [value[0] for kind, value in journal.entries if kind == "status"]
            # After a power failure MLflow may have a status that the journal lacks.
            if [sender.stored_status, *statuses][-1] == "RUNNING":
                journal.log_tags({ERROR_TAG: LOST})
                journal.log_status("KILLED")
        if not sender.finish(seconds):
            raise TrackingError(str(sender.refusal or sender.problem or "no answer in time"))
    except TrackingError as error:
        advice = what_to_do(error, journal)
        raise TrackingError(f"{journal.folder.name}: not sent ({error}){advice}") from None
    finally:
        sender.stop()


def what_to_do(error: TrackingError, journal: Journal) -> str:
    """What to do with a folder that its store refuses for good."""
    facts, folder = journal.facts, journal.folder
    if isinstance(error, Outdated):
        return f"; {shlex.join(['rm', '-r', str(folder)])} removes them"
    if facts.run_id is None or isinstance(error, Unreachable):
        return ""
    return f"; as a new run: {send_command(folder, facts.uri)}"


def _move(journal: Journal, uri: str) -> None:
    """Has the journal sent to another store. Its file says so once the run is there.

    Raises: JournalError where it does not have the whole run.
    """
    if not any(kind == "params" for kind, _ in journal.entries):
        raise JournalError(
            f"{journal.folder.name}: its folder has only what came after a resume, so it can go "
            "to the run's own store alone: leave out --uri"
        )
    changes: dict[str, Any] = {"run_id": None, "adopts": None, "earlier": []}
    journal.facts = replace(journal.facts, uri=resolved(uri), **changes)


def send_family(run_ids: Collection[str], root: Path, seconds: float) -> None:
    """Sends the journals that dead processes left of these runs and their children. What the store
    doesn't take costs a warning.
    """
    for folder, facts in unfinished(root):
        if facts.tags.get(PARENT_TAG) in run_ids or facts.run_id in run_ids:
            try:
                send(folder, seconds)
            except JournalError:  # its process is alive
                continue
            except TrackingError as error:
                print(f"Warning: {error}", file=sys.stderr)
