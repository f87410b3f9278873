"""From a composed configuration to the settings of a run, before anything large is imported."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lenet.config.compose import as_given
from lenet.config.errors import ConfigError
from lenet.tracking.sender.process import sender_process
from lenet.tracking.settings import Settings


@contextmanager
def settings_of(cfg: Any, started: float) -> Iterator[Settings]:
    """The settings of the run that Hydra started with this configuration. Enter it within
    `hydra.main`. The process that sends the run begins first, and imports while this one does.

    Raises: ConfigError at a wrong key or value, and as `recall`.
    """
    with sender_process(cfg) as sender:
        with recall(Settings(**as_given(cfg), started=started, sender=sender)) as settings:
            yield settings


@contextmanager
def recall(settings: Settings) -> Iterator[Settings]:
    """The settings themselves, or those of the earlier run that they name with `resume=RUN` or
    `rerun=RUN`, with it as `past`.

    Raises: ConfigError where two runs are named, or the command line changes what can't change;
    TrackingError or JournalError where the run can't be read.
    """
    config = settings.config
    if config["resume"] and config["rerun"]:
        raise ConfigError("resume, rerun: expected one of them, got both")
    if config["resume"]:
        from lenet.tracking.resume import resume

        with resume(settings) as resumed:
            yield resumed
    elif config["rerun"]:
        from lenet.tracking.resume import repeat

        yield repeat(settings)
    else:
        yield settings
