"""What a run is made from, as run.py hands it to whoever needs it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lenet.config.overrides import differing, job_name
from lenet.config.record import config_hash, masked, shown
from lenet.tracking.job import SweepJob
from lenet.tracking.past import Past

if TYPE_CHECKING:
    from lenet.data.sets import Data

MAX_NAME = 250  # characters


@dataclass(frozen=True)
class Settings:
    """A checked configuration, the overrides that it was composed from, and when the run started
    (seconds since 1970, imports included). `past` is the run of before that is resumed or repeated.
    """

    config: Mapping[str, Any]
    overrides: Sequence[str]
    started: float
    past: Past | None = None

    @cached_property
    def sha256(self) -> str:
        """The hash of every value that the result depends on."""
        return config_hash(self.config)

    @cached_property
    def job(self) -> SweepJob | None:
        return SweepJob.read(self.config["job"])

    @cached_property
    def public_config(self) -> dict[str, Any]:
        """The configuration without passwords, as it is printed and logged."""
        return shown(self.config)

    @cached_property
    def public_overrides(self) -> list[str]:
        return [masked(override) for override in self.overrides]

    @property
    def differs(self) -> dict[str, Any]:
        """What tells a job from the others of its sweep; empty outside of a sweep."""
        return differing(self.public_overrides, self.job.axes if self.job else ())

    @property
    def name(self) -> str:
        """What a run is called if nobody names it."""
        name = job_name(self.differs) or " ".join(self.public_overrides)
        return name[:MAX_NAME] or "defaults"

    @property
    def resume(self) -> str | None:
        return self.config["resume"]

    @property
    def rerun(self) -> str | None:
        return self.config["rerun"]

    @property
    def epochs(self) -> int:
        return int(self.config["epochs"])

    @property
    def log_interval(self) -> int:
        return int(self.config["log_interval"])

    @property
    def objective(self) -> str | None:
        return self.config["objective"]

    @property
    def patience(self) -> int | None:
        return self.config["patience"]

    @property
    def uri(self) -> str | None:
        """The address of the tracking store, as it was given."""
        return self.config["tracking"]["uri"]

    def check_data(self, data: "Data") -> None:
        """Raises: ConfigError where the run of before had other data."""
        if self.past:
            self.past.check(data)
