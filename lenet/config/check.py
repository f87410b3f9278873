"""What a composed configuration must be, and how to say in one line that it is not."""

import difflib
import hashlib
import inspect
import json
import re
import sys
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping
from math import isfinite
from typing import Annotated, Any, Literal

from hydra.errors import InstantiationException
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError

from lenet import cli as shell

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


def _run_id(text: str) -> str:
    if not re.fullmatch("[0-9a-f]{32}", text):
        raise ValueError("expected a run's id, 32 hexadecimal digits")
    return text


def _run_name(text: str) -> str:
    if not re.fullmatch("latest|[0-9a-f]{4,32}", text):
        raise ValueError("expected a run's id, or the first 4 of its digits or more, or latest")
    return text


RunName = Annotated[Text, AfterValidator(_run_name)]
ModelName = Annotated[str, Field(strict=True, pattern="^[A-Za-z0-9][A-Za-z0-9 ._-]{0,99}$")]
RunId = Annotated[Text, AfterValidator(_run_id)]

# What each value may be. A key that is not here (one of a class of your own) is held against the
# annotation in its target's signature.
LIMITS: dict[str, Any] = {
    "seed": Annotated[int, Field(strict=True, ge=0, lt=2**63)],
    "epochs": Count,
    "log_interval": Count,
    "clip_norm": Positive | None,
    "patience": Count | None,
    "objective": Literal[MEASURES + BESTS] | None,
    "profile": Flag,
    "tags": dict[Text, str | int | float | bool],
    "note": str | None,
    "resume": RunName | None,
    "rerun": RunName | None,
    "sweep": dict[Text, Any],
    "sweep.dry": Flag,
    "sweep.retry_failed": Flag,
    "sweep.on_error": Literal["continue", "stop"],
    "sweep.zip": list[Text],
    "sweep.report": Flag,
    "sweep.published": list[Any],
    "sweep.parent": RunId | None,
    "sweep.job": Text | None,
    "sweep.axes": list[Text],
    "sweep.trial": Size | None,
    "sweep.bounds": list[float | None],
    "data.name": Text,
    "data.root": Text,
    "data.split": Text | None,
    "data.download": Flag,
    "data.mirror": Annotated[str, Field(pattern="^https?://.")] | None,
    "data.train": list[Text],
    "data.test": list[Text],
    "data.classes": list[Text | int] | None,
    "data.first_label": Size,
    "data.train_size": Count | None,
    "data.val_size": Size,
    "data.image_size": Annotated[int, Field(strict=True, ge=16, le=256)],
    "data.mean": Fraction | None,
    "data.std": Positive | None,
    "data.seed": Size,
    "data.batch_size": Count,
    "data.test_batch_size": Count,
    "model.hidden": list[Count],
    "model.crop": Size,
    "augment.rotation": Annotated[float, Field(strict=True, ge=0, le=180)],
    **{f"augment.{name}": NotNegative for name in ("scale", "squeeze", "shear", "shift")},
    "augment.elastic": NotNegative,
    "augment.smoothness": Positive,
    "loss.label_smoothing": Fraction,
    "loss.j": Annotated[float, Field(strict=True, allow_inf_nan=False)],
    "optimizer.lr": Positive,
    "optimizer.mu": Positive,
    "optimizer.samples": Count,
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
    "schedule.pct_start": Fraction,
    "schedule.base_momentum": BelowOne,
    "schedule.max_momentum": BelowOne,
    "schedule.div_factor": Positive,
    "schedule.final_div_factor": Positive,
    "device.type": Literal["auto", "cpu", "cuda", "mps"],
    "device.threads": Count | None,
    "device.kernels": Literal["auto", "native", "eager", "compile"],
    "checkpoint.epochs": Count | None,
    "checkpoint.seconds": Positive | None,
    "tracking.uri": Text | None,
    "tracking.experiment": Annotated[str, Field(strict=True, min_length=1)],
    "tracking.run_name": Text | None,
    "tracking.register_as": ModelName | None,
    "tracking.folder": Text,
    "tracking.wait": NotNegative,
}


class ConfigError(ValueError):
    """A configuration that can't be run: one line with the key, the value and what is accepted."""


def check(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, with every interpolation resolved.

    Raises: ConfigError at the first key that is unknown, missing, or holds what it may not.
    """
    try:
        config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {first_line(error)}") from None
    _check_plain("", config)
    known = {key for key in LIMITS if "." not in key} | set(GROUPS)
    for key in config:
        if key not in known:
            raise ConfigError(f"{_show(key)}: no such key{nearest(key, known)}")
    for group in GROUPS:
        if not isinstance(config.get(group), dict):
            raise ConfigError(f"{group}={_show(config.get(group))}: expected one of its options")
    if "test/" in str(config.get("objective")):
        raise ConfigError(
            f"objective={config['objective']}: the test set is scored once, at the end, and "
            "nothing is chosen by it; take val/loss or val/accuracy and set data.val_size"
        )
    # What the table knows is checked before the signatures, for which torch must be read in.
    flat = flatten(config)
    for key, kind in LIMITS.items():
        if key in flat or "." not in key:
            _accept(key, kind, flat[key] if key in flat else config.get(key))
    for group in GROUPS:
        _check_node(group, config[group])
    _check_choices(config)
    return config


def _check_plain(path: str, value: Any) -> None:
    """Holds a value to YAML's own kinds, and to what can be printed, stored and given to torch."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ConfigError(f"{path or key}: expected text for each key, got {_show(key)}")
            _check_plain(path, key)
            _check_plain(f"{path}.{key}" if path else key, inner)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(path, inner)
    elif isinstance(value, str):
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise ConfigError(f"{path}={_show(value)}: should be UTF-8 text without NUL")
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ConfigError(f"{path}={_show(value)}: should fit into 64 bits")
    elif not isinstance(value, float | None):
        raise ConfigError(f"{path}: should be plain YAML, not {type(value).__name__}")


# What instantiate reads itself and its target never sees.
_SPECIAL: dict[str, Any] = {
    "_target_": Text,
    "_partial_": Flag,
    "_recursive_": Flag,
    "_convert_": Literal["none", "partial", "object", "all"],
    "_args_": list[Any],
}


_INTERPRETERS = set(sys.builtin_module_names) - {"builtins"}  # os.abort, signal.raise_signal ...


def _check_node(path: str, node: dict[str, Any]) -> None:
    hints = _hints(path, node)
    for key, value in node.items():
        full = f"{path}.{key}"
        if isinstance(value, dict) and "_target_" in value:
            _check_node(full, value)
        elif full not in LIMITS and key in hints:
            _accept(full, hints[key], value)


def _hints(path: str, node: dict[str, Any]) -> dict[str, Any]:
    if "_target_" not in node:
        raise ConfigError(f"{path}: expected a _target_ to build it from, found none")
    for key in _SPECIAL.keys() & node.keys():
        _accept(f"{path}.{key}", _SPECIAL[key], node[key])
    target = node["_target_"]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            instantiate({"_target_": target, "_partial_": True})  # would Hydra call it?
            call = get_method(target)
        if getattr(call, "__module__", None) in _INTERPRETERS:
            raise ValueError("is Python's own, and no part of a run")
        signature = inspect.signature(call)
    except (Exception, SystemExit) as error:  # of whatever an import runs
        cause = error.__cause__ or error
        raise ConfigError(f"{path}._target_={_show(target)}: {one_line(cause)}") from None
    function = call.__init__ if inspect.isclass(call) else call
    parameters = signature.parameters
    names = [name for name in parameters if name != "self"]
    given = [key for key in node if key not in _SPECIAL]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in given:
        if key not in names and not takes_any:
            raise ConfigError(f"{path}.{key}: no such key{nearest(key, names, path)}")
    bind = signature.bind_partial if node.get("_partial_") else signature.bind
    try:
        bind(*node.get("_args_", []), **dict.fromkeys(given))
    except TypeError as error:
        raise ConfigError(f"{path} ({_show(target)}): {error}") from None
    try:
        return typing.get_type_hints(function, include_extras=True)
    except Exception:  # an annotation that can't be resolved promises nothing
        return {}


def _accept(key: str, kind: Any, value: Any) -> None:
    try:
        TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except ValidationError as error:
        wants = " or ".join(dict.fromkeys(_lower(part["msg"]) for part in error.errors()))
        if type(None) in typing.get_args(kind):
            wants += " or null"
        raise ConfigError(f"{key}={_show(value)}: {wants}") from None
    except Exception:  # a hint that pydantic has no schema for promises nothing
        return


def _check_choices(config: dict[str, Any]) -> None:
    """What single values can't say."""
    for entry in (config["sweep"] or {}).get("published") or ():
        try:
            metric_of(entry)
        except ValueError as error:
            raise ConfigError(f"sweep.published={_show(entry)}: {error}") from None
    held_out = config["data"].get("val_size")  # a class of one's own may have none
    if config["patience"] is not None and not held_out:
        raise ConfigError("patience: stopping early needs a validation set; set data.val_size")
    if "val/" in (config["objective"] or "") and not held_out:
        raise ConfigError(
            f"objective={config['objective']}: needs a validation set; set data.val_size"
        )
    if config["tracking"].get("register_as"):
        if not held_out:
            raise ConfigError(
                "tracking.register_as: a validation set chooses the champion; set data.val_size"
            )
        if not config["tracking"].get("model"):
            raise ConfigError("tracking.register_as: needs the model; set tracking.model=true")
    optimizer = config["optimizer"]
    if optimizer.get("nesterov") and (not optimizer.get("momentum") or optimizer.get("dampening")):
        raise ConfigError("optimizer.nesterov=true: needs a momentum above 0 and no dampening")


def metric_of(published: Any) -> str:
    """The metric of a published number: a mapping of the setting's keys and one metric's name.

    Raises: ValueError.
    """
    metrics: list[str] = []
    if isinstance(published, Mapping):
        metrics = [key for key in published if str(key).partition("/")[0] in METRIC_KINDS]
    if len(metrics) == 1:
        number = published[metrics[0]]
        if isinstance(number, int | float) and not isinstance(number, bool) and isfinite(number):
            return metrics[0]
    raise ValueError("expected a setting and one metric, as {model: lenet1, test/accuracy: 0.983}")


def _lower(text: str) -> str:
    text = text.removeprefix("Input ").removeprefix("Value error, ")
    return text[0].lower() + text[1:]


def _show(value: Any) -> str:
    """A value as it is written in YAML and on the command line."""
    if value is None or isinstance(value, bool) or not str(value).isprintable():
        return clip(json.dumps(value, default=str))
    return clip(str(value))


def clip(text: str, width: int = 80) -> str:
    """The text's ends, where all of it is longer than a line has room for."""
    return text if len(text) <= width else f"{text[: width // 2]} ... {text[-width // 4 :]}"


def presentable(text: str) -> str:
    """One line that does nothing to a terminal but show letters."""
    return shell.one_line(" ".join(text.split()))


# ---- Records of a configuration --------------------------------------------------------------


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined with dots; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


# Where a run reads and writes, and what it is called, change nothing in what it computes.
_NO_EFFECT = (
    *("checkpoint", "tracking", "tags", "note", "profile", "objective"),
    *("resume", "rerun", "sweep"),
)
_NO_EFFECT_DATA = ("root", "mirror", "download", "train", "test")  # the contents' SHA-256 counts


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of all that a run's result depends on, code, data and machine aside."""
    kept = {key: value for key, value in config.items() if key not in _NO_EFFECT}
    kept["data"] = {k: v for k, v in config["data"].items() if k not in _NO_EFFECT_DATA}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def changes_nothing(key: str) -> bool:
    """Whether a flat key has no effect on what a run computes."""
    group, _, rest = key.partition(".")
    return group in _NO_EFFECT or (group == "data" and rest in _NO_EFFECT_DATA)


def plain_check(config: Mapping[str, Any], what: str) -> dict[str, Any]:
    """`check` for plain values; what is wrong is said to be of `what`."""
    try:
        return check(OmegaConf.create(dict(config)))
    except (ConfigError, OmegaConfBaseException) as error:
        raise ConfigError(f"{what}: its configuration: {first_line(error)}") from None


def masked(text: str) -> str:
    """Without the passwords of the addresses in it."""
    text = re.sub(r"(://[^\s/:@]*):[^\s'\"]*@", r"\1:***@", text)
    return re.sub(r"([?&](?:password|token)=)[^\s&'\"]*", r"\1***", text)


def shown(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as it may be printed and kept."""
    uri = config["tracking"]["uri"]
    return {**config, "tracking": {**config["tracking"], "uri": masked(uri) if uri else uri}}


def tree_lines(config: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    """The configuration as a tree, a line a key; an object is shown as what it is made by."""
    items = [(key, value) for key, value in config.items() if not key.startswith("_")]
    for key, value in items:
        last = key == items[-1][0]
        branch, deeper = ("└── ", "    ") if last else ("├── ", "│   ")
        if isinstance(value, Mapping) and value:
            made_by = f": {value['_target_']}" if "_target_" in value else ""
            yield f"{indent}{branch}{key}{made_by}"
            yield from tree_lines(value, indent + deeper)
        else:
            yield f"{indent}{branch}{key}: {_show(value)}"


# ---- Mistakes in one line --------------------------------------------------------------------


# What a run asks of each part, by which a target that gives something else is known in time.
_ASKED_FOR = {
    "data": "train",
    "augment": "__call__",
    "model": "parameters",
    "loss": "__call__",
    "optimizer": "param_groups",
    "schedule": "step",
    "device": "type",
    "checkpoint": "save",
    "tracking": "__enter__",
}


def build(config: Mapping[str, Any], group: str, *args: Any, **kwargs: Any) -> Any:
    """The group's object. Its target is called with what only the run knows, if that is anything.

    Raises: ConfigError where the target refuses what it was given.
    """
    node = config[group]
    for key in kwargs.keys() & node.keys():
        raise ConfigError(
            f"{group}.{key}={node[key]}: follows from the data or the run; leave it out"
        )
    try:
        part = instantiate(node)
        part = part(*args, **kwargs) if node.get("_partial_") else part
    except InstantiationException as error:
        cause = error.__cause__
        if not isinstance(cause, ValueError | TypeError):
            raise
        raise ConfigError(_of_group(group, cause)) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(_of_group(group, error)) from error
    asked = _ASKED_FOR.get(group)
    if asked and not hasattr(part, asked):
        given = type(part).__name__
        raise ConfigError(f"{group}._target_={node['_target_']}: gives {given}, without {asked}")
    return part


def try_out(group: str, part: Callable[..., Any], *args: Any) -> Any:
    """What the part gives for these arguments; the layers of a network that don't fit together
    say so no earlier than here.

    Raises: ConfigError where it can't be called with them.
    """
    try:
        return part(*args)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(_of_group(group, error)) from error


def _of_group(group: str, error: BaseException) -> str:
    return first_line(error) if is_own(error) else f"{group}: {first_line(error)}"


def is_own(error: BaseException) -> bool:
    """Errors of this package name the key or file they are about; torch's don't know it."""
    return type(error).__module__.startswith("lenet.")


def nearest(key: str, names: typing.Iterable[str], prefix: str = "") -> str:
    """How to go on after `no such key`: the one that was meant, else all there are."""
    dotted = f"{prefix}." if prefix else ""
    names = sorted({name for name in names if not name.startswith("_")})
    if close := difflib.get_close_matches(key, names, n=1):
        return f"; did you mean {dotted}{close[0]}?"
    return f"; there are {', '.join(dotted + name for name in names)}" if names else ""


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def one_line(error: BaseException) -> str:
    """All that an error says; some say in their first line no more than that there is one."""
    lines = [line.strip() for line in str(error).splitlines()]
    noise = ("reference_type=", "object_type=")  # OmegaConf's, and of Python
    kept = [line for line in lines if line != "full_key:" and not line.startswith(noise)]
    return presentable(" ".join(kept)) or type(error).__name__
