"""Holds a composed configuration against what it may be, before anything is run."""

import contextlib
import functools
import inspect
import typing
from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import ConfigDict, TypeAdapter, ValidationError

from lenet.cli import first_error_line
from lenet.config.errors import ConfigError, nearest
from lenet.config.limits import GROUPS, LIMITS, METRIC_KINDS
from lenet.config.record import as_yaml

# Keys of a group that are for `instantiate`: the target never sees them.
_SPECIAL = {"_target_", "_partial_", "_recursive_", "_convert_", "_args_"}


def check(cfg: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, with every interpolation resolved.

    Raises: ConfigError at the first key that is unknown or missing or has a wrong value.
    """
    try:
        config: Any = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except MissingMandatoryValue as error:
        raise ConfigError(f"{error.full_key}: missing; write {error.full_key}=...") from None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key}: {first_error_line(error)}") from None
    known = {key for key in LIMITS if "." not in key} | set(GROUPS)
    for key in config:
        if key not in known:
            raise ConfigError(f"{as_yaml(key)}: no such key{nearest(str(key), known)}")
    if "test/" in str(config.get("objective")):
        raise ConfigError(
            f"objective={config['objective']}: the test set is scored once, at the end, and "
            "nothing is chosen by it; take val/loss or val/accuracy and set data.val_size"
        )
    # The table comes before the signatures: to read those, torch must be imported.
    for key, kind in LIMITS.items():
        *groups, name = key.split(".")
        node = functools.reduce(_group, groups, config)
        if name in node:
            node[name] = check_value(key, kind, node[name])
        elif not groups:
            check_value(key, kind, None)
    for group in GROUPS:
        _check_node(group, config.get(group))
    _check_combinations(config)
    return config


def _group(node: dict[str, Any], name: str) -> dict[str, Any]:
    return node[name] if isinstance(node.get(name), dict) else {}


def check_job(cfg: DictConfig) -> dict[str, Any]:
    """`check` of a job of a sweep, before Hydra runs it: its own settings are still in `cfg.hydra`.

    Raises: ConfigError.
    """
    with read_write(cfg), open_dict(cfg):
        cfg.hydra.runtime.output_dir = str(Path.cwd())
        cfg.hydra.job.id, cfg.hydra.job.num = "0", 0
    HydraConfig.instance().set_config(cfg)
    return check(OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"]))


def check_values(config: Mapping[str, Any], source: str) -> dict[str, Any]:
    """`check` of plain values; the error's message begins with `source`.

    Raises: ConfigError.
    """
    try:
        return check(OmegaConf.create(dict(config)))
    except (ConfigError, OmegaConfBaseException) as error:
        raise ConfigError(f"{source}: its configuration: {first_error_line(error)}") from None


def _check_node(path: str, node: Any) -> None:
    """Holds a group against its target's signature. Nodes inside it have targets of their own."""
    if not isinstance(node, dict) or "_target_" not in node:
        raise ConfigError(f"{path}={as_yaml(node)}: expected one of its options or a _target_")
    hints = _hints(path, node)
    for key, value in node.items():
        full = f"{path}.{key}"
        if isinstance(value, dict) and "_target_" in value:
            _check_node(full, value)
        elif full not in LIMITS and key in hints:
            node[key] = check_value(full, hints[key], value)


def _hints(path: str, node: dict[str, Any]) -> dict[str, Any]:
    """The annotations of the target's arguments, once the node's keys are known to fit them."""
    target = node["_target_"]
    try:
        signature, hints = _signature(target)
    except Exception as error:  # importing a module can raise anything
        line = first_error_line(error.__cause__ or error)
        raise ConfigError(f"{path}._target_={as_yaml(target)}: {line}") from None
    parameters = signature.parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [key for key in node if key not in parameters and key not in _SPECIAL]
    if unknown and not takes_any:
        given = [name for name in parameters if name in node]  # the others follow from the run
        without = " ".join(f"~{path}.{key}" for key in unknown)
        raise ConfigError(
            f"{path}.{unknown[0]}: no such key{nearest(str(unknown[0]), given, path)}; where a "
            f"recipe sets it for another {path}, add {without}"
        )
    bind = signature.bind_partial if node.get("_partial_") else signature.bind
    try:
        bind(*node.get("_args_", []), **{k: None for k in node if k not in _SPECIAL})
    except TypeError as error:
        raise ConfigError(f"{path} ({as_yaml(target)}): {error}") from None
    return hints


@functools.cache
def _signature(target: str) -> tuple[inspect.Signature, dict[str, Any]]:
    """The signature of a `_target_`, and the annotations of its arguments."""
    call = instantiate({"_target_": target, "_partial_": True}).func
    signature, hints = inspect.signature(call), {}
    with contextlib.suppress(Exception):  # an annotation that can't be resolved is no limit
        function = call.__init__ if inspect.isclass(call) else call
        hints = typing.get_type_hints(function, include_extras=True)
    return signature, hints


def check_value(key: str, kind: Any, value: Any) -> Any:
    """The value; a whole number as a float where the kind is one, so that 1 and 1.0 are the same.

    Raises: ConfigError where the value is not of that kind, one of `lenet.config.limits`.
    """
    try:
        found = _adapter(kind).validate_python(value)
    except ValidationError as error:
        expected = " or ".join(dict.fromkeys(_lower(part["msg"]) for part in error.errors()))
        if type(None) in typing.get_args(kind):
            expected += " or null"
        raise ConfigError(f"{key}={as_yaml(value)}: {expected}") from None
    except Exception:  # an annotation that pydantic has no schema for is no limit
        return value
    return found if found == value else value


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))


def _lower(text: str) -> str:
    text = text.removeprefix("Input ").removeprefix("Value error, ")
    return text[0].lower() + text[1:]


def _check_combinations(config: dict[str, Any]) -> None:
    """What one value alone can't show."""
    for entry in (config["sweep"] or {}).get("published") or ():
        try:
            metric_of(entry)
        except ValueError as error:
            raise ConfigError(f"sweep.published={as_yaml(entry)}: {error}") from None
    held_out = config["data"].get("val_size")  # a class of a user's own may have none
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
