"""Writes what a run records into its journal: tags, points, texts and files."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lenet.tracking import records
from lenet.tracking.client import PROCESS_TAG
from lenet.tracking.journal import Journal
from lenet.tracking.past import Past
from lenet.tracking.provenance import code_state, environment, git, process_identity
from lenet.tracking.settings import Settings


class Logbook:
    """The entries of a run's journal, by what they say."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def tag(self, **tags: str | None) -> None:
        """Sets tags. None removes one."""
        self.journal.append("tags", tags)

    def points(self, values: Mapping[str, float], step: int) -> None:
        """Adds points, except those that are there already from before a resume."""
        now = int(time.time() * 1000)
        points = [
            [key, float(value), now, step]
            for key, value in values.items()
            if (key, step) not in self.journal.points
        ]
        if points:
            self.journal.append("metrics", points)

    def text(self, text: str, name: str) -> None:
        self.file(lambda path: path.write_text(text, encoding="utf-8"), name)

    def file(self, write: Callable[[Path], Any], name: str) -> None:
        """An artifact that `write` writes to the path that it gets."""
        self.journal.write(self.journal.file(name), write)
        self.journal.append("artifact", name)

    def status(self, status: str) -> None:
        end_time = None if status == "RUNNING" else int(time.time() * 1000)
        self.journal.append("status", [status, end_time])

    def start(self, settings: Settings) -> None:
        self.journal.append("params", records.params_of(settings.public_config))
        self.text(environment(), "environment.txt")
        if state := code_state():
            self.tag(**state)
        if patch := git("diff", "HEAD"):
            self.text(patch, "uncommitted.patch")
        self._config(settings)  # last: a run with a config.yaml can be resumed

    def resume(self, settings: Settings, past: Past) -> None:
        count = int(past.tags.get("resumed", "0")) + 1
        tags = {PROCESS_TAG: process_identity(), "resumed": str(count)}
        if trial := records.sweep_tags(settings).get("trial"):  # a new one if it is repeated
            tags["trial"] = trial
        self.tag(error=None, pruned=None, **tags)
        self.status("RUNNING")
        if settings.epochs != past.epochs:
            self._config(settings)  # MLflow's parameters can't change

    def _config(self, settings: Settings) -> None:
        self.tag(**{"config.sha256": settings.sha256})
        self.text(records.as_yaml(settings.public_overrides), "overrides.yaml")
        self.text(records.as_yaml(settings.public_config), "config.yaml")
