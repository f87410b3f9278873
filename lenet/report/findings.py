"""What is known about a sweep: its runs, the verdict, the effects, published numbers."""

from dataclasses import dataclass

import pandas as pd

from lenet.config.metrics import metric as metric_facts
from lenet.report.effects import Effect, class_differences, main_effects
from lenet.report.published import Comparison, compare_published
from lenet.report.results import Sweep, read_sweep
from lenet.report.verdict import Verdict, judge


class ReportError(ValueError):
    """A sweep that can't be judged: one line that says why."""


@dataclass(frozen=True)
class Findings:
    """All that a report says about a sweep. It is `exploratory` where the runs have no validation
    set, so that the verdict rests on the test set.
    """

    sweep: Sweep
    verdict: Verdict
    effects: list[Effect]
    classes: pd.DataFrame
    exploratory: bool
    compared: list[Comparison]


def analyze(
    parent_run_id: str,
    uri: str | None = None,
    metric: str | None = None,
    direction: str | None = None,
) -> Findings:
    """The findings about a sweep, judged by `metric` or else by the sweep's objective. `direction`,
    maximize or minimize, says which values of the metric are better, if that is not known.

    Raises: ReportError where no run can be judged, or the direction must be given; TrackingError
    where the store can't be reached or has no such run.
    """
    sweep = read_sweep(parent_run_id, uri)
    if sweep.runs.empty:
        raise ReportError(f"{parent_run_id}: is not a sweep; no run names it as its parent")
    if (sweep.runs["status"] != "FINISHED").all():
        raise ReportError(f"{parent_run_id}: none of its {len(sweep.runs)} runs is finished")
    chosen = metric or sweep.objective
    wanted = [chosen] if chosen else ["val/accuracy", "test/accuracy"]
    scored = [m for m in wanted if m in sweep.shared]
    if not scored:
        some = ", ".join(m for m in sweep.shared if m.startswith(("val/", "test/a")))
        missing = ", ".join(wanted)
        raise ReportError(
            f"{parent_run_id}: not all finished runs have {missing}; they have {some or 'none'}"
        )
    direction = direction or metric_facts(scored[0]).direction
    if direction is None:
        raise ReportError(f"{scored[0]}: which values are better? --direction maximize or minimize")
    verdict = judge(sweep.runs, sweep.axes, scored[0], direction == "maximize")
    if verdict.runs.empty:
        raise ReportError(f"{parent_run_id}: {scored[0]} is not finite in any run")
    exploratory = scored[0].startswith("test/")
    compared = compare_published(verdict.runs, sweep.published)
    effects, classes = main_effects(verdict), class_differences(verdict)
    return Findings(sweep, verdict, effects, classes, exploratory, compared)
