"""A run of before, as much of it as the run that follows needs."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lenet.config.errors import ConfigError
from lenet.tracking.provenance import code_state, environment, environment_differences

if TYPE_CHECKING:
    from lenet.data.sets import Data
    from lenet.tracking.journal import Journal
    from lenet.training.progress import Epoch


@dataclass(frozen=True)
class Past:
    """A run to go on with has a `journal`; if it reached a checkpoint, also a `state` and its whole
    epochs as `history`. A run that is done again has none of these.

    `epochs` is the number that was configured before.
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

    def check(self, data: "Data") -> None:
        """Raises: ConfigError where the run had other data. Other code or another environment
        costs a warning.
        """
        check_data(self.run_id, self.tags, data)
        code = [(tag, self.tags.get(tag, ""), now) for tag, now in code_state().items()]
        changed = [row for row in code if row[1] not in ("", row[2])]
        if changed := changed + environment_differences(self.environment, environment()):
            named = ", ".join(f"{what} {there} -> {here}" for what, there, here in changed[:5])
            print(f"Warning: not as where the run began, bits may differ: {named}", file=sys.stderr)


def data_tags(data: "Data") -> dict[str, str]:
    """The tags that two runs on the same data have in common."""
    return {"dataset.sha256": data.sha256, "dataset.val_sha256": data.val_sha256 or "none"}


def check_data(run_id: str, tags: Mapping[str, str], data: "Data") -> None:
    """Raises: ConfigError where `data` is not the data that the run had."""
    for tag, found in data_tags(data).items():
        expected = tags.get(tag, found)
        if expected != found:
            raise ConfigError(
                f"data: run {run_id} had {tags.get('dataset')} with {tag} "
                f"{expected[:12]}..., here it is {data.name} with {found[:12]}..."
            )
