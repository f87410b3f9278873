"""Runs and sweeps of the tracking store as objects, for notebooks and programs.

What is asked for is read from the store then, and kept. An `id` is that of a run, its first letters
(at least 4), or latest; `uri` is the address of the store, by default the one that run.py uses.
"""

import html
import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd
from PIL import Image
from torch import nn

from lenet.config.limits import MEASURES
from lenet.report.findings import Findings, analyze
from lenet.report.publish import report_page
from lenet.report.results import load_curves, parse_value, read_sweep
from lenet.report.text import report_lines
from lenet.report.verdict import Verdict
from lenet.tracking.read import Summary, artifacts, fetched, read_run, resolve_run
from lenet.tracking.trained import load_trained

CURVES = [*MEASURES, "learning_rate"]  # have a point an epoch


@dataclass(frozen=True, repr=False)
class LoadedRun:
    """A run: its name and status, what it was configured to, and its results."""

    id: str
    uri: str | None = None

    @cached_property
    def summary(self) -> Summary:
        return read_run(self.id, self.uri)

    @property
    def params(self) -> dict[str, Any]:
        return {name: parse_value(text) for name, text in self.summary.params.items()}

    @property
    def metrics(self) -> pd.DataFrame:
        """A row for each metric: its last `value`."""
        last = pd.Series(dict(self.summary.metrics), name="value", dtype=float)
        return last.sort_index().rename_axis("metric").to_frame()

    @cached_property
    def curves(self) -> pd.DataFrame:
        """A row for each epoch: losses, accuracies and the learning rate."""
        names = [name for name in CURVES if name in self.summary.metrics]
        points = load_curves("", names, [self.id], self.uri)
        return points.pivot(index="step", columns="metric", values="value")[names].rename_axis(
            index="epoch", columns=None
        )

    @cached_property
    def figures(self) -> dict[str, Image.Image]:
        """The run's PNG pictures by name; none with `tracking.pictures=false` or another format."""
        return {
            name.removesuffix(".png"): self._picture(f"pictures/{name}")
            for name in artifacts(self.id, "pictures", self.uri)
            if name.endswith(".png")
        }

    def _picture(self, name: str) -> Image.Image:
        with fetched(self.id, name, self.uri) as path:
            assert path
            return Image.open(io.BytesIO(path.read_bytes()))

    @cached_property
    def model(self) -> nn.Module:
        """The trained network, in evaluation mode. Raises: as `load_trained`."""
        return load_trained(self.id, self.uri)[0]

    def __repr__(self) -> str:
        run, accuracy = self.summary, self.summary.metrics.get("test/accuracy")
        tested = "" if accuracy is None else f", test accuracy {accuracy:.2%}"
        return f"Run {self.id[:8]} ({run.name}): {run.status.lower()}{tested}"


@dataclass(frozen=True, repr=False)
class LoadedSweep:
    """A sweep: its runs, and the verdict on its settings.

    Raises: ReportError where there is nothing to judge yet.
    """

    id: str
    uri: str | None = None

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row for each run: see `lenet.report.results.Sweep`."""
        return read_sweep(self.id, self.uri).runs

    @cached_property
    def findings(self) -> Findings:
        return analyze(self.id, self.uri)

    @property
    def verdict(self) -> Verdict:
        return self.findings.verdict

    @property
    def settings(self) -> pd.DataFrame:
        """A row for each setting, best first: see `lenet.report.verdict.Verdict`."""
        return self.verdict.settings

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The points of all runs: run_id, metric, step, value."""
        return load_curves(self.id, uri=self.uri)

    @cached_property
    def page(self) -> str:
        """The report as HTML."""
        return report_page(self.findings, self.uri)

    def _repr_html_(self) -> str:
        """What a notebook shows of the sweep: its report."""
        return f'<iframe srcdoc="{html.escape(self.page)}" width="100%" height="800"></iframe>'

    def __repr__(self) -> str:
        return "\n".join(report_lines(self.findings)).strip()


def load_run(id: str, uri: str | None = None) -> LoadedRun:
    """Raises: TrackingError where the store has no such run, or can't be reached."""
    return LoadedRun(read_run(resolve_run(id, uri), uri).run_id, uri)


def load_sweep(id: str, uri: str | None = None) -> LoadedSweep:
    """Raises: TrackingError where the store has no such sweep, or can't be reached."""
    return LoadedSweep(read_run(resolve_run(id, uri, sweep=True), uri).run_id, uri)
