"""A checked configuration as a record: flat, hashed, shown."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from lenet.config.errors import clip

# These keys say where a run reads and writes and what it is called: its result is the same.
_NO_EFFECT = (
    *("checkpoint", "tracking", "tags", "note", "profile", "objective"),
    *("resume", "rerun", "sweep", "job"),
)
_NO_EFFECT_WITHIN = {
    "data": ("root", "mirror", "download", "train", "test"),  # the contents' SHA-256 counts
    "model": ("kernels",),  # device.kernels counts
}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined with dots; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of every value that a run's result depends on; code, data and machine excluded."""
    kept = {key: value for key, value in config.items() if key not in _NO_EFFECT}
    for group, without in _NO_EFFECT_WITHIN.items():
        kept[group] = {k: v for k, v in config[group].items() if k not in without}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def changes_nothing(key: str) -> bool:
    """Whether a flat key has no effect on what a run computes."""
    group, _, rest = key.partition(".")
    return group in _NO_EFFECT or rest in _NO_EFFECT_WITHIN.get(group, ())


def result_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """The flat values that are set and that a run's result depends on, as texts."""
    return {
        key: str(value)
        for key, value in flatten(config).items()
        if value is not None and "._" not in key and not changes_nothing(key)
    }


def masked(text: str) -> str:
    """The text without the passwords and tokens of the addresses in it."""
    text = re.sub(r"(://[^\s/:@]*):[^\s'\"]*@", r"\1:***@", text)
    return re.sub(r"([?&](?:password|token)=)[^\s&'\"]*", r"\1***", text)


def shown(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without passwords, as it may be printed and stored."""
    uri = config["tracking"]["uri"]
    return {**config, "tracking": {**config["tracking"], "uri": masked(uri) if uri else uri}}


def as_yaml(value: Any) -> str:
    """A value as it is written in YAML and on the command line, short enough for a line."""
    if value is None or isinstance(value, bool) or not str(value).isprintable():
        return clip(json.dumps(value, default=str))
    return clip(str(value))
