"""What the overrides of a command say: explicitly set keys, and the values of a sweep."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString, RangeSweep
from omegaconf import OmegaConf

from lenet.config.errors import ConfigError, clip
from lenet.config.record import changes_nothing, flatten, masked

SWEEP_RUNS = 10_000


def columns_of(overrides: list[Override], zipped: Sequence[str] = ()) -> dict[str, list[str]]:
    """The values of each key as `KEY=VALUE`; keys keep their `+`. A sweep runs every combination,
    but goes through the keys in `zipped` side by side.

    Raises: ConfigError where a key has no value, or the sweep has more than SWEEP_RUNS runs.
    """
    columns: dict[str, list[str]] = {}
    counts: dict[str, int] = {}
    for override in overrides:
        key, line = override.get_key_element(), clip(str(override.input_line))
        if not override.is_sweep_override():
            columns[key] = [str(override.input_line)]
            continue
        values = _values(override, line)
        counts["" if key.lstrip("+") in zipped else key] = len(values)
        if not 0 < math.prod(counts.values()) <= SWEEP_RUNS:
            raise ConfigError(f"{line}: expected 1 to {SWEEP_RUNS:,} runs")
        columns[key] = [f"{key}={value}" for value in values]
    return columns


def _values(override: Override, line: str) -> list[str]:
    if override.is_interval_sweep():
        raise ConfigError(
            f"{line}: an interval has no list of values; take choice or range, or hydra/sweeper=tpe"
        )
    # range(10**9) must not become a list.
    return list(itertools.islice(override.sweep_string_iterator(), SWEEP_RUNS + 1))


def count_in_decimals(override: Override) -> Override:
    """The same override. A range of floats counts as people do: 0.1, 0.2, 0.3 and not
    0.30000000000000004, and it ends before the number that is written as its end.
    """
    value = override.value()
    if _is_float_range(value):
        for name in ("start", "stop", "step"):
            setattr(value, name, Decimal(f"{getattr(value, name):.15g}"))
    return override


def float_range_lines(overrides: Sequence[Override]) -> list[str]:
    """`optimizer.lr: 0.1, 0.2, 0.3` for each range of floats."""
    return [
        f"{each.get_key_element().lstrip('+')}: {', '.join(each.sweep_string_iterator())}"
        for each in overrides
        if _is_float_range(each.value())
    ]


def _is_float_range(value: Any) -> bool:
    return isinstance(value, RangeSweep) and any(
        not isinstance(number, int) for number in (value.start, value.stop, value.step)
    )


def explicit_overrides(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The flat keys and values that the overrides set, be they the defaults or not. Call it within
    `hydra.main`.

    An option such as `data=files` sets its target, and what it has other than the defaults. The
    other values of a run with that option may have been set one by one.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    paths = {each.key_or_group.replace("/", "."): each.value() for each in parsed}
    defaults = compose(HydraConfig.get().job.config_name, overrides=[])
    default = flatten(OmegaConf.to_container(defaults, resolve=True))  # type: ignore[arg-type]

    def is_set(key: str, value: Any) -> bool:
        if key in paths or (key in default and default[key] != value):
            return True
        outer = [given for path, given in paths.items() if key.startswith(f"{path}.")]
        if any(isinstance(given, Mapping) for given in outer):
            return True
        return key.endswith("._target_") if outer else key not in default

    return {
        key: value
        for key, value in flatten(config).items()
        if key not in ("resume", "rerun") and is_set(key, value)
    }


def differing(overrides: Sequence[str], axes: Sequence[str]) -> dict[str, Any]:
    """The value that the overrides give to each axis, in their order; passwords are masked."""
    lines = [line for line in overrides if line.partition("=")[0].lstrip("+") in axes]
    parsed = OverridesParser.create().parse_overrides(lines)
    given = {each.get_key_element().lstrip("+"): each.value() for each in parsed}
    differs = {axis: given[axis] for axis in axes if axis in given}
    return dict(json.loads(masked(json.dumps(differs, default=str))))


def in_grammar(value: Any) -> str:
    """A value as Hydra's command line has it."""
    if isinstance(value, Mapping):
        return f"{{{','.join(f'{key}:{in_grammar(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{','.join(map(in_grammar, value))}]"
    if isinstance(value, str):
        return QuotedString(value, Quote.double).with_quotes()
    return "null" if value is None else str(value)


def run_name(overrides: Sequence[str]) -> str:
    """`data=digits lr=0.1`: what the overrides change of a run's result, with short keys; in a
    sweep first what varies.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    parsed.sort(key=lambda each: not each.is_sweep_override())
    lines = {each.get_key_element().lstrip("+"): str(each.input_line) for each in parsed}
    texts = {key: line.partition("=")[2] for key, line in lines.items() if not changes_nothing(key)}
    return job_name(texts)


def job_name(differs: Mapping[str, Any], between: str = " ") -> str:
    """`lr=0.1 seed=0`: each value with the short name of its key."""
    pairs = zip(short_names(list(differs)), map(format_value, differs.values()), strict=True)
    return between.join(f"{name}={value}" for name, value in pairs)


def short_names(keys: Sequence[str]) -> list[str]:
    """The last word of each key, or the whole key if two keys end in the same word."""
    words = [key.replace("/", ".").rpartition(".")[2] for key in keys]
    return [word if words.count(word) == 1 else key for key, word in zip(keys, words, strict=True)]


def format_value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def config_folders() -> list[Path]:
    """The folders of the config groups: conf/, and those of -cd and hydra.searchpath. Call it
    within `hydra.main`.
    """
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in sources if source.schema == "file"]
