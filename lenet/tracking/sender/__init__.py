"""Who sends a run: the process that was begun for it, else a thread of this one."""

from collections.abc import Mapping

from lenet.tracking.journal import Journal
from lenet.tracking.sender.base import Sending
from lenet.tracking.sender.process import SenderProcess


def address_and_tags(
    process: SenderProcess | None, uri: str | None
) -> tuple[str, Mapping[str, str]]:
    """The full address of the store at `uri`, and MLflow's own tags for a new run."""
    if process:
        return process.address_and_tags(uri)
    from lenet.tracking.client import resolved
    from lenet.tracking.variables import context_tags

    return resolved(uri), context_tags()


def begin(
    process: SenderProcess | None, journal: Journal, uri: str | None, may_exist: bool
) -> Sending:
    """Has the journal of a training sent. With `may_exist` its run is in the store already."""
    if process:
        return process.begin(journal)
    from lenet.tracking.sender.thread import Sender

    sender = Sender(journal, uri, may_exist, is_training=True)
    sender.start()
    return sender
