"""Builds what the jobs of a sweep train with before any of them runs, to find mistakes."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from lenet.cli import first_error_line
from lenet.config.build import build, try_out
from lenet.config.errors import ConfigError, is_own
from lenet.sweeps.jobs import Job


@dataclass(frozen=True)
class _DataFacts:
    """What is kept of a set of images: a sweep may have many."""

    sha256: str
    model_arguments: Mapping[str, Any]
    class_counts: Any
    batches: int


class Rehearsal:
    """The parts of a sweep's jobs. A part that several jobs have in common is built once."""

    def __init__(self) -> None:
        self._built: dict[str, Any] = {}

    def data_sha256(self, job: Job) -> str:
        """The checksum of the data that the job will have."""
        return self._data(job.config).sha256

    def check(self, jobs: Sequence[Job]) -> None:
        """Raises: ConfigError for the first job that could not train on this machine."""
        for job in jobs:
            # The seed changes the first weights and the order of the batches alone.
            config = {**job.config, "data": {**job.config["data"], "seed": None}, "seed": None}
            try:
                self._once([config], partial(self._check, job.config))
            except ValueError as error:
                if not is_own(error):
                    raise
                name = f"{job.name}: " if job.differs else ""
                raise ConfigError(f"{name}{first_error_line(error)}") from None

    def _check(self, config: Mapping[str, Any]) -> None:
        device = self._once(["device", config["device"]], partial(build, config, "device"))
        self._once(["augment", config["augment"]], partial(build, config, "augment"))
        data = self._data(config)
        build(config, "loss", class_counts=data.class_counts)
        model = self._once(
            [config["model"], config["device"], data.model_arguments],
            partial(_model, config, data.model_arguments, device),
        )
        optimizer = build(config, "optimizer", model.parameters())
        amount = {"epochs": config["epochs"], "steps_per_epoch": data.batches}
        build(config, "schedule", optimizer, **amount)

    def _data(self, config: Mapping[str, Any]) -> _DataFacts:
        def facts() -> _DataFacts:
            data = build(config, "data")
            return _DataFacts(
                data.sha256, data.inputs.model_arguments, data.class_counts, len(data.train)
            )

        # The seed changes the order of the batches alone.
        found: _DataFacts = self._once([{**config["data"], "seed": None}], facts)
        return found

    def _once(self, settings: Sequence[Any], make: Callable[[], Any]) -> Any:
        key = json.dumps(settings)
        if key not in self._built:
            self._built[key] = make()
        return self._built[key]


def _model(config: Mapping[str, Any], arguments: Mapping[str, Any], device: Any) -> Any:
    """A network that takes the images, by the kernels that are asked for."""
    import torch  # late: it takes a second to import

    from lenet.model import equip

    model = build(config, "model", **arguments)
    side = arguments["image_size"]
    try_out("model", model.eval(), torch.zeros(1, arguments["in_channels"], side, side))
    if config["device"].get("kernels") == "native":
        equip(model, device, "native")
    return model
