"""The metrics of a run: which values are better, and which are shares from 0 to 1."""

from typing import NamedTuple


class Metric(NamedTuple):
    """`direction` is maximize, minimize, or None where it is not known."""

    direction: str | None
    is_share: bool = False


_KINDS = {
    "loss": Metric("minimize"),
    "loss_step": Metric("minimize"),
    "accuracy": Metric("maximize", is_share=True),
    "class_accuracy": Metric("maximize", is_share=True),
    "calibration_error": Metric("minimize", is_share=True),
}
_METRICS = {"images_per_second": Metric("maximize")}


def metric(name: str) -> Metric:
    """What is known of a metric: `val/loss`, `best/val/accuracy`, `test/class_accuracy/3` ..."""
    groups = name.removeprefix("best/").split("/")
    if len(groups) > 1 and groups[0] in ("train", "val", "test"):
        return _KINDS.get(groups[1], Metric(None))
    if groups[0] == "seconds":
        return Metric("minimize")
    return _METRICS.get(name, Metric(None))


def is_share(name: str) -> bool:
    return metric(name).is_share


def is_maximized(name: str) -> bool:
    """Whether a higher value is better, for a metric that has a direction."""
    return metric(name).direction == "maximize"
