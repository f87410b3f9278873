"""The metrics of a run: which values are better, and on which scale they are compared."""

from typing import Literal, NamedTuple


class Metric(NamedTuple):
    """`direction` is maximize, minimize, or None where it is not known. `scale` is that on which
    the spread over seeds is even: shares from 0 to 1 have logit.
    """

    direction: str | None
    scale: Literal["linear", "log", "logit"] = "linear"


_KINDS = {
    "loss": Metric("minimize", "log"),
    "loss_step": Metric("minimize", "log"),
    "accuracy": Metric("maximize", "logit"),
    "class_accuracy": Metric("maximize", "logit"),
    "calibration_error": Metric("minimize", "logit"),
}
_METRICS = {"images_per_second": Metric("maximize", "log")}


def metric(name: str) -> Metric:
    """What is known of a metric: `val/loss`, `best/val/accuracy`, `test/class_accuracy/3` ..."""
    groups = name.removeprefix("best/").split("/")
    if len(groups) > 1 and groups[0] in ("train", "val", "test"):
        return _KINDS.get(groups[1], Metric(None))
    if groups[0] == "seconds":
        return Metric("minimize", "log")
    return _METRICS.get(name, Metric(None))


def is_share(name: str) -> bool:
    return metric(name).scale == "logit"


def is_maximized(name: str) -> bool:
    """Whether a higher value is better, for a metric that has a direction."""
    return metric(name).direction == "maximize"
