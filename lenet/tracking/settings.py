"""What a run is made from: its configuration, and the earlier run that it resumes or repeats."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lenet.cli import shortened
from lenet.cli.screen import aligned
from lenet.config.errors import ConfigError
from lenet.config.overrides import differing, job_name, run_name
from lenet.config.record import config_hash, masked, shown
from lenet.tracking.job import SweepJob
from lenet.tracking.provenance import code_state, environment, environment_differences, short_name

if TYPE_CHECKING:
    from torch.nn import Module

    from lenet.data.sets import Data
    from lenet.tracking.journal import Journal
    from lenet.tracking.sender.process import SenderProcess
    from lenet.training.progress import Epoch

MAX_NAME = 60  # characters
REPEATS = "rerun of "
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
    (seconds since 1970, imports included). `past` is the earlier run that it resumes or repeats;
    `options` has the option of each config group, None where it has none. `sender` sends the run;
    without it a thread does.
    """

    config: Mapping[str, Any]
    overrides: Sequence[str]
    started: float
    past: Past | None = None
    options: Mapping[str, str | None] = field(default_factory=dict)
    sender: "SenderProcess | None" = None

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

    def opening(self, data: "Data", model: "Module", device: str) -> list[str]:
        """The lines with which a run begins: what it is made of, after how far it came before."""
        from lenet.model.lenet5 import count_parameters  # late: it imports torch

        config = self.config
        changed = " ".join(o for o in self.public_overrides if not o.startswith("tracking."))
        rows = [
            ("data", data.line()),
            ("network", f"{type(model).__name__}, {count_parameters(model):,} parameters"),
            ("optimizer", _in_brief(config["optimizer"])),
            ("schedule", _in_brief(config["schedule"])),
            ("epochs", f"{config['epochs']}, batches of {config['data']['batch_size']}"),
            ("seed", str(config["seed"])),
            ("device", device),
            ("changed", changed or "nothing: these are the defaults"),
        ]
        resumed = [self.past.line] if self.past and self.past.journal else []
        return [*resumed, *aligned(rows, header=False)]

    @cached_property
    def differs(self) -> dict[str, Any]:
        """What tells a job from the others of its sweep; empty outside of a sweep."""
        return differing(self.overrides, self.job.axes if self.job else ())

    @property
    def name(self) -> str:
        """What a run is called if nobody names it: what differs from the defaults."""
        name = job_name(self.differs) or run_name(self.public_overrides)
        if self.past and not self.past.journal:
            name = REPEATS + self.past.tags.get("mlflow.runName", "").removeprefix(REPEATS)
        return shortened(name, MAX_NAME) or "defaults"

    @property
    def uri(self) -> str | None:
        """The address of the tracking store, as it was given."""
        return self.config["tracking"]["uri"]

    def check(self, setup: Mapping[str, str]) -> None:
        """Raises: ConfigError where the earlier run had other data than this `setup_tags`."""
        if self.past:
            self.past.check(setup)


def _in_brief(node: Mapping[str, Any]) -> str:
    """SGD: lr 0.01, momentum 0.9. Of a part's values those that are numbers and not 0."""
    values = {k: v for k, v in node.items() if isinstance(v, int | float) and v and v is not True}
    name = str(node["_target_"]).rpartition(".")[2]
    return ": ".join(filter(None, [name, ", ".join(f"{k} {v:g}" for k, v in values.items())]))


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
