"""`resume=RUN` and `rerun=RUN`, answered before anything large is imported."""

from collections.abc import Iterator
from contextlib import contextmanager

from lenet.config.errors import ConfigError
from lenet.tracking.settings import Settings


@contextmanager
def recall(settings: Settings) -> Iterator[Settings]:
    """The settings themselves, or those of the earlier run that they name, with it as `past`.
    Enter it within `hydra.main`.

    Raises: ConfigError where two runs are named, or the command line changes what can't change;
    TrackingError or JournalError where the run can't be read.
    """
    if settings.resume and settings.rerun:
        raise ConfigError("resume, rerun: expected one of them, got both")
    if settings.resume:
        from lenet.tracking.resume import resume

        with resume(settings) as resumed:
            yield resumed
    elif settings.rerun:
        from lenet.tracking.resume import repeat

        yield repeat(settings)
    else:
        yield settings
