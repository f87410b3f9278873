"""What a search varies, read off Hydra's overrides: `optimizer.lr=tag(log,interval(1e-4,1e-1))`."""

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from lenet.config.errors import ConfigError

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Axis:
    """What is searched over one key: `choices`, as they are written on the command line, or else
    numbers from `low` to `high`, both included, whole ones where these are.
    """

    key: str
    choices: tuple[str, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False

    @property
    def ends(self) -> tuple[str, ...]:
        """What is allowed to be tried if these are, as far as single values go."""
        return self.choices or (self.text(self.low), self.text(self.high))

    def suggest(self, trial: "optuna.Trial") -> None:
        if self.choices:
            trial.suggest_categorical(self.key, self.choices)
        elif isinstance(self.low, int):
            step, high = int(self.step or 1), int(self.high)
            trial.suggest_int(self.key, self.low, high, step=step, log=self.log)
        else:
            trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def text(self, value: Any) -> str:
        """As an override says it, such that YAML, too, reads it as a number."""
        if not isinstance(value, float) or self.choices:
            return str(value)
        if self.step:  # 0.1 + 0.2 is 0.30000000000000004
            low, step = Decimal(repr(self.low)), Decimal(repr(self.step))
            value = float(low + step * round((Decimal(repr(value)) - low) / step))
        text = repr(value)
        return text if "." in text else text.replace("e", ".0e")

    def __str__(self) -> str:
        if self.choices:
            return f"{self.key}: one of {', '.join(self.choices)}"
        step = f", {self.step:g} apart" if self.step and self.step != 1 else ""
        whole = " (whole numbers)" if isinstance(self.low, int) else ""
        return f"{self.key}: {self.low:g} to {self.high:g}{step}{whole}" + ", log scale" * self.log


def seeds_of(override: Override) -> list[int]:
    """Raises: ConfigError where they are no list of whole numbers."""
    if is_interval(override):
        raise ConfigError("seed: every trial is run with each of them; expected seed=range(3)")
    sweeps = override.is_sweep_override()
    seeds = list(override.sweep_iterator()) if sweeps else [override.value()]
    if not all(_is_whole(seed) for seed in seeds) or len(set(map(str, seeds))) < len(seeds):
        raise ConfigError(f"{override.input_line}: expected different whole numbers")
    return [int(str(seed)) for seed in seeds]


def is_interval(override: Override) -> bool:
    return isinstance(override.value(), IntervalSweep)


def first_of(override: Override) -> str:
    """One of the values that an override names."""
    texts = _texts(override)
    if not texts:
        raise ConfigError(f"{override.input_line}: expected values to choose from, found none")
    return texts[0]


def axis_of(key: str, override: Override, current: Any) -> Axis:
    """`current` is the key's value without the override: an interval of whole numbers is of these
    alone where it is one.

    Raises: ConfigError where the override names nothing that can be searched.
    """
    line, value = override.input_line, override.value()
    tags: set[str] = getattr(value, "tags", set())
    if odd := tags - {"log"}:
        raise ConfigError(f"{line}: expected tag log, found {', '.join(sorted(odd))}")
    log = "log" in tags
    if isinstance(value, IntervalSweep):
        return _interval(key, line, value, log, _is_whole(current))
    if isinstance(value, RangeSweep) and len(_texts(override)) > 1:
        return _range(key, line, value, log)
    texts = _texts(override)
    if log:
        raise ConfigError(f"{line}: a log scale is for interval(...) and range(...)")
    if len(set(texts)) < len(texts):
        raise ConfigError(f"{line}: name each value once")
    return Axis(key, choices=texts)


def _interval(key: str, line: str | None, sweep: IntervalSweep, log: bool, whole: bool) -> Axis:
    low, high = sweep.start, sweep.end
    if low is None or high is None or not (-math.inf < low < high < math.inf):
        raise ConfigError(f"{line}: expected interval(LOW, HIGH) with LOW below HIGH")
    if log and low <= 0:
        raise ConfigError(f"{line}: a log scale has no {low:g}; expected LOW above 0")
    whole = whole and float(low).is_integer() and float(high).is_integer()
    if whole or (_is_whole(low) and _is_whole(high)):  # int(interval(1,8))
        return Axis(key, low=int(low), high=int(high), log=log)
    return Axis(key, low=float(low), high=float(high), log=log)


def _range(key: str, line: str | None, sweep: RangeSweep, log: bool) -> Axis:
    values = sorted(sweep.range())
    if log and abs(sweep.step) != 1:
        raise ConfigError(f"{line}: a log scale and a step don't go together")
    if log and values[0] <= 0:
        raise ConfigError(f"{line}: a log scale has no {values[0]:g}; expected START above 0")
    whole = all(_is_whole(value) for value in values)
    low, high, step = (
        int(number) if whole else float(number) for number in (values[0], values[-1], sweep.step)
    )
    return Axis(key, low=low, high=high, step=None if log else abs(step), log=log)


def _texts(override: Override) -> tuple[str, ...]:
    return tuple(override.sweep_string_iterator())


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
