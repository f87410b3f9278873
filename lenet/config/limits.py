"""The values that each key of a configuration accepts: one table."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator

GROUPS = (
    *("data", "augment", "model", "loss", "optimizer", "schedule"),
    *("device", "checkpoint", "tracking"),
)
MEASURES = ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
METRIC_KINDS = ("train", "val", "test", "best")
BESTS = tuple(f"best/{name}" for name in MEASURES if name.startswith("val"))

Count = Annotated[int, Field(strict=True, ge=1)]
Size = Annotated[int, Field(strict=True, ge=0)]
Flag = Annotated[bool, Field(strict=True)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
BelowOne = Annotated[float, Field(strict=True, ge=0, lt=1)]
Text = Annotated[str, Field(strict=True)]


def _amount(least: int) -> Any:
    """The type of a number of images, or of a part of them."""

    def check(value: Any) -> int | float:
        if (type(value) is int and value >= least) or (type(value) is float and 0 < value < 1):
            return value
        raise ValueError(f"expected {least} or more images, or a part of them such as 0.1")

    return Annotated[int | float, PlainValidator(check)]


def _run_name(text: str) -> str:
    if not re.fullmatch("latest|[0-9a-f]{4,32}", text):
        raise ValueError("expected a run's id, or the first 4 of its digits or more, or latest")
    return text


def _device(text: str) -> str:
    if not re.fullmatch("auto|cpu|mps|cuda(:[0-9]+)?", text):
        raise ValueError("expected auto, cpu, mps, cuda, or a GPU by its number, as cuda:1")
    return text


DeviceName = Annotated[Text, AfterValidator(_device)]
RunName = Annotated[Text, AfterValidator(_run_name)]
ModelName = Annotated[str, Field(strict=True, pattern="^[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}$")]

# The values that each key accepts. A key that is not in this table, such as an argument of your own
# class, is checked against the annotation in the signature of its target.
LIMITS: dict[str, Any] = {
    "seed": Annotated[int, Field(strict=True, ge=0, lt=2**63)],
    "epochs": Count,
    "log_interval": Count,
    "clip_norm": Positive | None,
    "patience": Count | None,
    "objective": Literal[MEASURES + BESTS] | None,
    "profile": Flag,
    "tags": dict[Text, str | int | float | bool],
    "note": Text | None,
    "resume": RunName | None,
    "rerun": RunName | None,
    "sweep": dict[Text, Any],
    "sweep.dry": Flag,
    "sweep.reuse": Flag,
    "sweep.retry_failed": Flag,
    "sweep.on_error": Literal["continue", "stop"],
    "sweep.budget": str | int | float | None,
    "sweep.patience": Positive | None,
    "sweep.zip": list[Text],
    "sweep.report": Flag,
    "sweep.published": list[Any],
    "job": dict[Text, Any] | None,
    "data.mirror": Annotated[str, Field(pattern="^https?://.")] | None,
    "data.classes": list[Text | int] | None,
    "data.first_label": Size,
    "data.test_size": _amount(1) | None,
    "data.train_size": _amount(1) | None,
    "data.val_size": _amount(0),
    "data.image_size": Annotated[int, Field(strict=True, ge=16, le=256)],
    "data.mean": Fraction | list[Fraction] | None,
    "data.std": Positive | list[Positive] | None,
    "data.seed": Size,
    "data.batch_size": Count,
    "data.test_batch_size": Count,
    "model.hidden": list[Count],
    "model.crop": Size,
    "model.distance_scale": Positive,
    "augment.rotation": Annotated[float, Field(strict=True, ge=0, le=180)],
    **{f"augment.{name}": NotNegative for name in ("scale", "squeeze", "shear", "shift")},
    "augment.elastic": NotNegative,
    "augment.smoothness": Positive,
    "loss.weight": Literal["balanced"] | Annotated[list[NotNegative], Field(min_length=1)] | None,
    "loss.label_smoothing": Fraction,
    "loss.j": Annotated[float, Field(strict=True, allow_inf_nan=False)],
    "optimizer.lr": Positive,
    "optimizer.mu": Positive,
    "optimizer.samples": Count,
    "optimizer.output_curvature": Literal["exact"] | Positive,
    "optimizer.memory": Fraction,
    "optimizer.momentum": BelowOne,
    "optimizer.dampening": BelowOne,
    "optimizer.weight_decay": NotNegative,
    "optimizer.alpha": BelowOne,
    "optimizer.eps": NotNegative,
    "optimizer.betas": Annotated[list[BelowOne], Field(min_length=2, max_length=2)],
    "schedule.step_size": Count,
    "schedule.gamma": Positive,
    "schedule.lengths": list[Count],
    "schedule.factors": Annotated[list[NotNegative], Field(min_length=1)],
    "schedule.warmup_epochs": NotNegative,
    "schedule.final_factor": Fraction,
    "schedule.pct_start": BelowOne,
    "schedule.base_momentum": BelowOne,
    "schedule.max_momentum": BelowOne,
    "schedule.div_factor": Positive,
    "schedule.final_div_factor": Positive,
    "device.type": DeviceName,
    "device.threads": Count | None,
    "device.kernels": Literal["auto", "native", "eager", "compile"],
    "checkpoint.epochs": Count | None,
    "checkpoint.seconds": Positive | None,
    "tracking.experiment": Annotated[str, Field(strict=True, min_length=1)] | Size | None,
    "tracking.picture_format": Literal["png", "svg", "pdf"],
    "tracking.register_as": ModelName | None,
    "tracking.wait": NotNegative,
}
