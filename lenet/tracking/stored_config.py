"""The configuration of a stored run: what it may hold, and how it is merged with today's.

To build from a configuration is to call what it names. Anybody may have written a configuration
in a tracking store, so at each place it may only name what this checkout's `conf/` names there.
"""

import copy
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from lenet.cli import one_line, shortened
from lenet.config.check import check_values
from lenet.config.errors import ConfigError, clip
from lenet.config.overrides import in_grammar
from lenet.config.record import changes_nothing, flatten

# These keys depend on the machine: they are taken from today's configuration.
OF_THIS_MACHINE = ("data.root", "data.mirror", "data.download", "tracking.uri", "tracking.folder")
PATHS = ("data.train", "data.test")  # of data=files
# What earlier versions of conf/ named.
EARLIER = {"loss._target_": {"torch.nn.CrossEntropyLoss"}}
PLAIN = (type(None), bool, int, float, str, dict, list)


class _Loader(yaml.SafeLoader):
    """YAML without aliases: with aliases of aliases ten lines can stand for a billion values."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ConfigError("expected no aliases")
        return super().compose_node(parent, index)


def read_config(text: str) -> dict[str, Any]:
    """Raises: ConfigError where the text is no YAML mapping."""
    try:
        config = yaml.load(text, _Loader)
    except Exception as error:  # PyYAML raises KeyError, AttributeError and RecursionError, too
        reason = shortened(" ".join(str(error).split()), 120)
        raise ConfigError(f"config.yaml: expected YAML ({reason})") from None
    if not isinstance(config, dict):
        raise ConfigError(f"config.yaml: expected keys and values, found {type(config).__name__}")
    return config


def check_targets(config: Mapping[str, Any], folders: Sequence[Path]) -> None:
    """Raises: ConfigError where the configuration would build something that no file in `folders`
    names at that place, or holds an interpolation, which could read environment variables.
    """
    allowed = _special_values(folders)
    for path, key, value in _walk(config):
        shown = clip(one_line(path))
        if not isinstance(key, str) or "${" in key or not key.isprintable():
            raise ConfigError(f"{shown}: expected a plain key")
        if not isinstance(value, PLAIN) or (isinstance(value, str) and "${" in value):
            raise ConfigError(f"{shown}: expected a plain value, found {clip(ascii(value))}")
        is_special = key.rpartition(".")[2].startswith("_")  # _target_, _partial_, _args_ ...
        if is_special and str(value) not in allowed.get(path, ()):
            known = ", ".join(sorted(allowed.get(path, ["none"])))
            raise ConfigError(f"{shown}={clip(ascii(value))}: not allowed; conf/ has {known}")


def _walk(value: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """(path, key, value) of everything inside, also in lists."""
    if isinstance(value, list):
        found = [(f"{path}[{number}]", str(number), inner) for number, inner in enumerate(value)]
    elif isinstance(value, Mapping):
        found = [(f"{path}.{key}" if path else str(key), key, value[key]) for key in value]
    else:
        return
    for here, key, inner in found:
        yield here, key, inner
        yield from _walk(inner, here)


def _special_values(folders: Sequence[Path]) -> dict[str, set[str]]:
    """The special values that conf/ has at each place: `model.activation._target_` ->
    {torch.nn.Tanh, ...}.
    """
    found = copy.deepcopy(EARLIER)
    for folder in folders:
        for file in folder.rglob("*.yaml"):
            with suppress(OSError, ValueError, yaml.YAMLError):  # another program's file
                text = file.read_text(encoding="utf-8")
                group = ".".join(file.relative_to(folder).parts[:-1])
                group = "" if "@package _global_" in text else group
                for path, key, value in _walk(yaml.safe_load(text), group):
                    if str(key).startswith("_"):
                        found.setdefault(path, set()).add(str(value))
    return found


def merge_configs(
    stored: Mapping[str, Any],
    config: Mapping[str, Any],
    explicit: Mapping[str, Any],
    folders: Sequence[Path],
    what: str,
    may_extend: bool = False,
    say_where: str = "",
) -> dict[str, Any]:
    """The configuration of a stored run on this machine. `config` is today's; `explicit` holds its
    flat keys that were set on purpose. These may only change what has no effect on the result,
    and with `may_extend` raise the number of epochs. `say_where` is what to type where a path of
    the stored run can't be read, by default the overrides of run.py.

    Raises: ConfigError where `explicit` changes more, or the stored configuration is not allowed.
    """
    check_targets(stored, folders)
    before = flatten(check_values({**stored, "job": None}, what))
    allowed = {key: value for key, value in explicit.items() if changes_nothing(key)}
    if may_extend and explicit.get("epochs", 0) > before["epochs"]:
        allowed["epochs"] = explicit["epochs"]
    refused = {k: v for k, v in explicit.items() if k not in allowed and before.get(k) != v}
    if refused:
        shown = ", ".join(f"{k} {before.get(k)} (here {v})" for k, v in list(refused.items())[:5])
        raise ConfigError(f"{what}: the run has {shown}; none of this can change")
    paths = stored_paths(before)
    say_where = say_where or " ".join(["data=files", *(_override(k, v) for k, v in paths.items())])
    for key in paths.keys() - explicit.keys():
        _check_below_here(key, paths[key], what, say_where)
    today = flatten(config)
    of_this_machine = {key: today.get(key) for key in OF_THIS_MACHINE if key in before}
    # Only a sweep that takes the run up again says what job it is.
    of_this_start = {key: config[key] for key in ("resume", "rerun", "job")}
    return check_values(_nested(before | allowed | of_this_machine | of_this_start), what)


def stored_paths(flat: Mapping[str, Any]) -> dict[str, list[str]]:
    """The paths of data=files in a flat configuration, which anybody may have written."""
    found = {key: flat[key] for key in PATHS if flat.get(key)}
    return {
        key: list(map(str, value)) if isinstance(value, list) else [str(value)]
        for key, value in found.items()
    }


def _override(key: str, paths: Sequence[str]) -> str:
    value = in_grammar(list(paths)) if len(paths) > 1 else in_grammar(paths[0])
    return shlex.quote(one_line(f"{key}={value}"))


def _check_below_here(key: str, paths: Sequence[str], what: str, say_where: str) -> None:
    """Raises: ConfigError where a stored path leads out of the current folder."""
    here = Path.cwd().resolve()
    for path in paths:
        if path.startswith("~") or here not in (here / path).resolve().parents:
            raise ConfigError(
                f"{what}: {key} has {clip(ascii(path))}; of a stored run's paths only those below "
                f"the current folder are read; say where the files are here: {say_where}"
            )


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The opposite of `flatten`."""
    config: dict[str, Any] = {}
    for key, value in flat.items():
        *groups, leaf = key.split(".")
        inner = config
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = value
    return config
