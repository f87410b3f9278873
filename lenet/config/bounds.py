"""What a command line and its files may come to before a run begins: how much, and how long.

What is written here in a few characters can stand for more than any memory holds: a YAML file's
aliases of aliases, values that refer to each other, a range of a billion seeds.
"""

import itertools
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import yaml
from hydra._internal.core_plugins import file_config_source
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.override_parser.types import ChoiceSweep, Override, RangeSweep
from hydra.plugins.config_source import ConfigLoadError, ConfigResult

from lenet.config.check import ConfigError, clip, one_line, presentable

ARGUMENT_LENGTH = 10_000  # characters of one KEY=VALUE
FILE_BYTES = 2**16
FILE_VALUES = 10_000  # with every alias written out
SWEEP_RUNS = 10_000
SECONDS = 20.0  # of computing, for one configuration: 0.2 are usual, and a few more for torch
BYTES = 2**31


class FileConfigSource(file_config_source.FileConfigSource):
    """Hydra's own reader of YAML files, which says of each it can't read which one, and why."""

    # The name is Hydra's: that tells it not to put its own in this one's place.
    def load_config(self, config_path: str) -> ConfigResult:
        name = self._normalize_file_name(config_path)
        path = Path(os.path.realpath(os.path.join(self.path, name)))
        try:
            if path.is_file():
                hold(path)
            return super().load_config(config_path)
        except (ConfigLoadError, ConfigError):  # not there, as Hydra says it; or said already
            raise
        except UnicodeError:
            raise ConfigError(f"{path}: expected UTF-8 text") from None
        except yaml.MarkedYAMLError as error:
            at = error.problem_mark or error.context_mark
            where = f", line {at.line + 1}" if at else ""
            what = ", ".join(part for part in (error.context, error.problem) if part)
            raise ConfigError(f"{path}{where}: {what}") from None
        except RecursionError:
            raise ConfigError(f"{path}: nested too deeply") from None
        except Exception as error:  # by OmegaConf, of many kinds and with a line or many
            raise ConfigError(f"{path}: {one_line(error)}") from None


SourcesRegistry.instance().types["file"] = FileConfigSource


def hold(path: Path) -> None:
    """Raises: ConfigError where a YAML file is, or stands for, more than a configuration can be."""
    with path.open("rb") as file:
        content = file.read(FILE_BYTES + 1)
    if len(content) > FILE_BYTES:
        raise ConfigError(f"{path}: a configuration may have up to {FILE_BYTES:,} bytes")
    if b"&" in content:
        root = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
        if root is not None and values_in(root, {}) > FILE_VALUES:
            raise ConfigError(
                f"{path}: with its aliases written out it may have up to {FILE_VALUES:,} values"
            )


def values_in(node: yaml.Node, known: dict[yaml.Node, float]) -> float:
    """How many values a node stands for; infinitely many where it holds itself."""
    if node not in known:
        known[node] = math.inf  # until it is left
        inner = itertools.chain.from_iterable(
            pair if isinstance(pair, tuple) else [pair]
            for pair in (node.value if isinstance(node, yaml.CollectionNode) else ())
        )
        known[node] = 1 + sum(values_in(each, known) for each in inner)
    return known[node]


def runs_of(overrides: list[Override]) -> Iterator[list[str]]:
    """The overrides of each run of a sweep, as Hydra's basic sweeper makes them.

    Raises: ConfigError where there is none, or more than SWEEP_RUNS.
    """
    return map(list, itertools.product(*columns_of(overrides).values()))


def columns_of(overrides: list[Override], together: Sequence[str] = ()) -> dict[str, list[str]]:
    """By key all that an override stands for, as `KEY=VALUE`; keys keep their `+`. Those in
    `together` go through their values side by side.

    Raises: ConfigError where there is no run in them, or more than SWEEP_RUNS.
    """
    lists: dict[str, Override] = {}
    counts: dict[str, float] = {}
    for override in overrides:
        key, line = override.get_key_element(), clip(str(override.input_line))
        if override.is_interval_sweep():
            raise ConfigError(
                f"{line}: an interval has no list of values; take choice or range, or "
                "hydra/sweeper=tpe"
            )
        count = _count(override)
        if not count:
            raise ConfigError(f"{line}: no value to sweep over")
        counts["" if key.lstrip("+") in together else key] = count
        if math.prod(counts.values()) > SWEEP_RUNS:
            raise ConfigError(f"{line}: more than {SWEEP_RUNS:,} runs, which a sweep may have")
        lists[key] = override
    return {key: [f"{key}={value}" for value in _values(o)] for key, o in lists.items()}


def _values(override: Override) -> Iterator[str]:
    if override.is_sweep_override():
        return override.sweep_string_iterator()
    return iter([override.get_value_element_as_str()])


def _count(override: Override) -> float:
    value = override.value()
    if isinstance(value, RangeSweep):
        start, stop, step = (float(each or 0) for each in (value.start, value.stop, value.step))
        count = (stop - start) / step if step else math.nan
        if math.isnan(count):
            raise ConfigError(f"{clip(str(override.input_line))}: expected a step that leads on")
        return max(0.0, math.ceil(count)) if math.isfinite(count) else max(0.0, count)
    if isinstance(value, ChoiceSweep):
        return len(value.list)
    return len(list(override.sweep_iterator())) if override.is_sweep_override() else 1


# ---- The watch -------------------------------------------------------------------------------

_stopped = threading.Event()
_begun = 0.0


def watch() -> None:
    """From here on the process ends with one line where composing takes more than SECONDS or BYTES.

    For what no bound on the input tells beforehand: how far values that refer to each other grow.
    A thread of its own, because nothing else has its turn while a resolver recurses.
    """
    global _stopped
    _stopped = threading.Event()
    watch_anew()
    threading.Thread(target=_look, args=[_stopped], daemon=True).start()


def watch_anew() -> None:
    """The next configuration has its own seconds."""
    global _begun
    _begun = time.process_time()


def unwatch() -> None:
    """A configuration is composed; what comes then may take what it needs."""
    _stopped.set()


def _look(stopped: threading.Event) -> None:
    process = psutil.Process()
    limit = process.memory_info().rss + BYTES
    while not stopped.wait(0.05):
        if time.process_time() - _begun > SECONDS or process.memory_info().rss > limit:
            print(
                f"error: {clip(presentable(' '.join(sys.argv[1:])), 200)}: takes more than"
                f" {SECONDS:.0f} s or {BYTES >> 30} GB to compose; do values refer to each other?",
                file=sys.stderr,
                flush=True,
            )
            os._exit(2)
