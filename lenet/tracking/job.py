"""What a sweep tells each of its jobs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

JOB_TAG = "lenet.sweep.job_sha256"
DIFFERS_TAG = "lenet.sweep.job"  # the values in which a job differs from the others of its sweep


def job_sha256(config_sha256: str, own: Mapping[str, Any] = {}) -> str:
    """Identifies a job by its configuration, and by the tags and the note that it has for its own,
    as in `+tags.repeat=1,2`. A run outside of a sweep has none of its own.
    """
    text = f"{config_sha256} {json.dumps(own, sort_keys=True)}"
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class SweepJob:
    """A run's place in its sweep. It travels as the configuration's key `job`.

    `parent` is the sweep's own run, `sha256` the hash of the job's configuration, `axes` the keys
    that the sweep varies. Jobs of a search also have the number of their `trial`, and for each
    epoch the bound of the objective: a run that is worse after that epoch ends (None: no bound).
    """

    parent: str
    sha256: str
    axes: tuple[str, ...] = ()
    trial: int | None = None
    bounds: tuple[float | None, ...] = ()

    @classmethod
    def read(cls, node: Mapping[str, Any] | None) -> "SweepJob | None":
        """The job that the key `job` describes, None for a run that belongs to no sweep."""
        if node is None:
            return None
        lists = {name: tuple(node.get(name) or ()) for name in ("axes", "bounds")}
        return cls(**{**node, **lists})

    def plain(self) -> dict[str, Any]:
        """The value of the key `job`."""
        return asdict(self) | {"axes": list(self.axes), "bounds": list(self.bounds)}
