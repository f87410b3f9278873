"""The configuration of a stored run: what it may hold, and how it is merged with today's.

To build from a configuration is to call what it names. Anybody may have written a configuration
in a tracking store, so at each place it may only name what this checkout's `conf/` names there.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from lenet.config.check import check_values
from lenet.config.errors import ConfigError
from lenet.config.record import changes_nothing, flatten

# These keys depend on the machine: they are taken from today's configuration.
OF_THIS_MACHINE = ("data.root", "data.mirror", "data.download", "tracking.uri", "tracking.folder")
FILES = ("data.train", "data.test")  # of data=files
MOST_DEPTH = 20
MOST_CHARACTERS = 100_000  # a run's has 3000; PyYAML takes a second for this many
PLAIN = (type(None), bool, int, float, str, dict, list)
SPECIAL: dict[str, type] = {"_target_": str, "_partial_": bool, "_convert_": str}


class Never:
    """A type that no value has."""


def read_config(text: str) -> dict[str, Any]:
    """Raises: ConfigError where the text is no YAML mapping."""
    if len(text) > MOST_CHARACTERS:
        raise ConfigError(f"config.yaml: expected at most {MOST_CHARACTERS:,} characters")
    try:
        depth = 0
        for event in yaml.parse(text):
            # With aliases of aliases ten lines can stand for a billion values.
            if isinstance(event, yaml.AliasEvent):
                raise ConfigError("config.yaml: expected no YAML aliases")
            # PyYAML's time grows with the square of the depth: one line can take hours.
            depth += isinstance(event, yaml.CollectionStartEvent)
            depth -= isinstance(event, yaml.CollectionEndEvent)
            if depth > MOST_DEPTH:
                raise ConfigError("config.yaml: nested too deeply")
        config = yaml.safe_load(text)
    except ConfigError:
        raise
    except Exception as error:  # PyYAML raises KeyError and AttributeError, too
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"config.yaml: expected YAML ({reason})") from None
    if not isinstance(config, dict):
        raise ConfigError(f"config.yaml: expected keys and values, found {type(config).__name__}")
    return config


def check_targets(config: Mapping[str, Any], folders: Sequence[Path]) -> None:
    """Raises: ConfigError where the configuration would build something that no file in `folders`
    names at that place, or holds an interpolation, which could read environment variables.
    """
    allowed = _targets(folders)
    for path, key, value in _walk(config, ""):
        if not isinstance(key, str) or "${" in key or not key.isprintable():
            raise ConfigError(f"{ascii(path)[1:-1][:80]}: expected a plain key")
        if not isinstance(value, PLAIN) or (isinstance(value, str) and "${" in value):
            raise ConfigError(f"{path[:80]}: expected a plain value, found {ascii(value)[:80]}")
        name = key.rpartition(".")[2]
        if not name.startswith("_"):
            continue
        if not isinstance(value, SPECIAL.get(name, Never)):
            raise ConfigError(f"{path[:80]}: not allowed in a stored configuration")
        place = path.rpartition(".")[0]
        if name == "_target_" and value not in allowed.get(place, ()):
            known = ", ".join(sorted(allowed.get(place, ()))) or "none"
            raise ConfigError(f"{path[:80]}={ascii(value)[:80]}: not allowed; conf/ has {known}")


def _walk(value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, Any, Any]]:
    """(path, key, value) of everything inside, also in lists."""
    if depth > MOST_DEPTH:
        raise ConfigError(f"{path[:80]}: nested too deeply")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            here = f"{path}.{key}" if path else str(key)
            yield here, key, inner
            yield from _walk(inner, here, depth + 1)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield f"{path}[{number}]", str(number), inner
            yield from _walk(inner, f"{path}[{number}]", depth + 1)


def _targets(folders: Sequence[Path]) -> dict[str, set[str]]:
    """The targets that conf/ names at each place: `model.activation` -> {torch.nn.Tanh, ...}."""
    found: dict[str, set[str]] = {}
    for folder in folders:
        for file in folder.rglob("*.yaml"):
            with suppress(OSError, ValueError, yaml.YAMLError):  # another program's file
                text = file.read_text(encoding="utf-8")
                group = ".".join(file.relative_to(folder).parts[:-1])
                group = "" if "@package _global_" in text else group
                for path, key, value in _walk(yaml.safe_load(text) or {}, group):
                    if key == "_target_" and isinstance(value, str):
                        found.setdefault(path.rpartition(".")[0], set()).add(value)
    return found


def merge_configs(
    stored: Mapping[str, Any],
    config: Mapping[str, Any],
    explicit: Mapping[str, Any],
    folders: Sequence[Path],
    what: str,
    may_extend: bool = False,
) -> dict[str, Any]:
    """The configuration of a stored run on this machine. `config` is today's; `explicit` holds its
    flat keys that were set on purpose. These may only change what has no effect on the result,
    and with `may_extend` raise the number of epochs.

    Raises: ConfigError where `explicit` changes more, or the stored configuration is not allowed.
    """
    check_targets(stored, folders)
    before = flatten(check_values({**stored, "job": None}, what))
    explicit = {k: v for k, v in explicit.items() if k.partition(".")[0] != "job"}
    allowed = {k: v for k, v in explicit.items() if changes_nothing(k)}
    if may_extend and "epochs" in explicit and explicit["epochs"] > before.get("epochs", 0):
        allowed["epochs"] = explicit["epochs"]
    refused = {k: v for k, v in explicit.items() if k not in allowed and before.get(k) != v}
    if refused:
        shown = ", ".join(f"{k} {before.get(k)} (here {v})" for k, v in list(refused.items())[:5])
        more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise ConfigError(f"{what}: the run has {shown}{more}; none of this can change")
    today = flatten(config)
    merged = before | allowed
    for key in OF_THIS_MACHINE:
        if key in merged:
            merged[key] = today.get(key)
    # Only a sweep that takes the run up again says what job it is.
    merged |= {key: config[key] for key in ("resume", "rerun", "job")}
    _check_files({k: before[k] for k in FILES if k in before and k not in explicit}, what)
    return check_values(_nested(merged), what)


def _check_files(paths: Mapping[str, Sequence[str]], what: str) -> None:
    """Raises: ConfigError where a stored path leads out of the current folder."""
    here = Path.cwd().resolve()
    for key, names in paths.items():
        for name in names:
            with suppress(OSError, ValueError):  # a zero byte, a loop of links
                if not name.startswith("~") and here in (here / name).resolve().parents:
                    continue
            raise ConfigError(
                f"{what}: {key} has {ascii(name)[:80]}; of a stored run's paths only those below "
                "the current folder are read; say where the files are here: data=files "
                "data.train=[...] data.test=[...]"
            )


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, leaf = key.split(".")
        inner = config
        for group in groups:
            inner = inner.setdefault(group, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{key}: expected a group, found a value")
        inner[leaf] = value
    return config
