"""What a run is made from: its configuration, and the earlier run that it resumes or repeats."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lenet.config.errors import ConfigError
from lenet.config.overrides import differing, job_name
from lenet.config.record import config_hash, masked, shown, tree_lines
from lenet.tracking.job import SweepJob
from lenet.tracking.provenance import code_state, environment, environment_differences, short_name

if TYPE_CHECKING:
    from lenet.data.sets import Data
    from lenet.tracking.journal import Journal
    from lenet.training.progress import Epoch

MAX_NAME = 250  # characters
DATA_NAME_TAG = "lenet.dataset"
DATA_TAGS = ("lenet.dataset.sha256", "lenet.dataset.val_sha256")  # equal for the same images


@dataclass(frozen=True)
class Past:
    """An earlier run, as much of it as the new one needs.

    A run to resume has a `journal`; if it reached a checkpoint, also a `state` and its whole epochs
    as `history`. A run to repeat has none of these. `epochs` is the number that was configured
    before.
    """

    run_id: str
    epochs: int
    tags: Mapping[str, str]
    environment: str
    state: dict[str, Any] | None = None
    journal: "Journal | None" = None
    history: "list[Epoch]" = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The training time that is in the state."""
        if not self.state:
            return 0.0
        unfinished_epoch: float = self.state["progress"]["tally"]["seconds"]
        return sum(epoch.seconds for epoch in self.history) + unfinished_epoch

    @property
    def line(self) -> str:
        """How far a run to resume came, and where it is recorded."""
        assert self.journal
        where = "from its beginning: it has no checkpoint"
        if self.state:
            epochs, batches = (self.state["progress"][name] for name in ("epochs", "batches"))
            where = f"after {epochs} epochs" + (f" and {batches} batches" if batches else "")
        store = masked(self.journal.facts.uri)
        return f"Going on with run {self.run_id} {where}; it is in {store}"

    def check(self, setup: Mapping[str, str]) -> None:
        """`setup` are the tags of data, network and machine as they are now.

        Raises: ConfigError where the run had other data. Another machine, code or environment
        costs a warning.
        """
        check_data(self.run_id, self.tags, setup)
        now = {**code_state(), **setup}.items()
        changed = [(short_name(k), self.tags[k], v) for k, v in now if self.tags.get(k, v) != v]
        if changed := changed + environment_differences(self.environment, environment()):
            named = ", ".join(f"{what} {there} -> {here}" for what, there, here in changed[:5])
            print(f"Warning: not as where the run began, bits may differ: {named}", file=sys.stderr)


@dataclass(frozen=True)
class Settings:
    """A checked configuration, the overrides that it was composed from, and when the run started
    (seconds since 1970, imports included). `past` is the earlier run that it resumes or repeats.
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
    def opening(self) -> list[str]:
        """The lines with which a run begins: its configuration, after how far it came before."""
        resumed = [self.past.line] if self.past and self.past.journal else []
        return [*resumed, "Configuration", *tree_lines(self.public_config)]

    @property
    def differs(self) -> dict[str, Any]:
        """What tells a job from the others of its sweep; empty outside of a sweep."""
        return differing(self.overrides, self.job.axes if self.job else ())

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

    def check(self, setup: Mapping[str, str]) -> None:
        """Raises: ConfigError where the earlier run had other data than this `setup_tags`."""
        if self.past:
            self.past.check(setup)


def data_tags(data: "Data") -> dict[str, str]:
    """The tags that two runs on the same data have in common."""
    values = (data.name, data.sha256, data.val_sha256 or "none")
    return dict(zip((DATA_NAME_TAG, *DATA_TAGS), values, strict=True))


def check_data(run_id: str, tags: Mapping[str, str], here: Mapping[str, str]) -> None:
    """Raises: ConfigError where the data `here` are not those that the run had; both as tags."""
    for tag in DATA_TAGS:
        expected, found = tags.get(tag, here[tag]), here[tag]
        if expected != found:
            raise ConfigError(
                f"data: run {run_id} had {tags.get(DATA_NAME_TAG)} with {short_name(tag)} "
                f"{expected[:12]}..., here it is {here[DATA_NAME_TAG]} with {found[:12]}..."
            )
