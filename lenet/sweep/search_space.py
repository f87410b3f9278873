"""What a search varies, read off Hydra's overrides: `optimizer.lr=tag(log,interval(1e-4,1e-1))`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from math import inf
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from lenet.config.errors import ConfigError

try:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
except ImportError:
    raise ConfigError("hydra/sweeper: a search needs Optuna; pip install -e '.[sweep]'") from None


@dataclass(frozen=True)
class Axis:
    """A key, and the values that a search may give it."""

    key: str
    distribution: CategoricalDistribution | FloatDistribution | IntDistribution

    @property
    def ends(self) -> list[str]:
        """All choices, or the lowest and the highest number: if these are valid, so is the rest."""
        if isinstance(self.distribution, CategoricalDistribution):
            return [str(choice) for choice in self.distribution.choices]
        return [self.text(self.distribution.low), self.text(self.distribution.high)]

    def text(self, value: Any) -> str:
        """The value as an override writes it, so that YAML, too, reads it as a number."""
        if not isinstance(self.distribution, FloatDistribution):
            return str(value)
        if self.distribution.step:  # 0.1 + 0.2 is 0.30000000000000004
            low, step, value = (
                Decimal(repr(each))
                for each in (self.distribution.low, self.distribution.step, float(value))
            )
            value = low + step * round((value - low) / step)
        text = repr(float(value))
        return text if "." in text else text.replace("e", ".0e")

    def __str__(self) -> str:
        of = self.distribution
        if isinstance(of, CategoricalDistribution):
            return f"{self.key}: one of {', '.join(map(str, of.choices))}"
        step = f", {of.step:g} apart" if of.step and of.step != 1 else ""
        whole = " (whole numbers)" if isinstance(of, IntDistribution) else ""
        return f"{self.key}: {of.low:g} to {of.high:g}{step}{whole}" + ", log scale" * of.log


@dataclass(frozen=True)
class Space:
    """What a search varies: `axes`, and `seeds` with which each point is run.

    `fixed` are the overrides that all its jobs share; `keys` are the axes' keys as they were typed,
    some with a plus sign.
    """

    axes: Sequence[Axis]
    seeds: Sequence[int]
    fixed: Sequence[str]
    keys: Mapping[str, str]

    def overrides(self, texts: Mapping[str, str], *seed: int) -> list[str]:
        """The overrides of the job at a point."""
        point = [f"{self.keys[key]}={text}" for key, text in texts.items()]
        return [*self.fixed, *point, *(f"seed={each}" for each in seed)]


def read_space(
    overrides: Sequence[Override], current: Callable[[list[str]], Callable[[str], Any]]
) -> Space:
    """`current` takes overrides and returns a function from a key to its value under these.

    Raises: ConfigError where there is nothing to search.
    """
    parsed = {o.get_key_element().lstrip("+"): o for o in overrides}
    seeds = read_seeds(parsed.pop("seed")) if "seed" in parsed else []
    varying = {key: o for key, o in parsed.items() if o.is_sweep_override()}
    if not varying:
        raise ConfigError(
            "hydra/sweeper: a search needs something to vary, for one "
            "optimizer.lr=tag(log,interval(1e-4,1e-1)) or model/activation=choice(tanh,relu)"
        )
    # As they were typed: quotes and plus signs are kept.
    fixed = [str(o.input_line) for key, o in parsed.items() if key not in varying]
    keys = {key: o.get_key_element() for key, o in varying.items()}
    lists = {key: _texts(o) for key, o in varying.items() if not _is_interval(o)}
    value_of = current([*fixed, *(f"{keys[key]}={texts[0]}" for key, texts in lists.items())])
    axes = [read_axis(key, override, value_of(key)) for key, override in varying.items()]
    return Space(axes, seeds, fixed, keys)


def read_seeds(override: Override) -> list[int]:
    """Raises: ConfigError where they are no list of whole numbers."""
    if _is_interval(override):
        raise ConfigError("seed: every trial is run with each of them; expected seed=range(3)")
    is_sweep = override.is_sweep_override()
    seeds = list(override.sweep_iterator()) if is_sweep else [override.value()]
    if not all(_is_whole(seed) for seed in seeds) or len(set(map(str, seeds))) < len(seeds):
        raise ConfigError(f"{override.input_line}: expected different whole numbers")
    return [int(str(seed)) for seed in seeds]


def read_axis(key: str, override: Override, current: Any) -> Axis:
    """`current` is the key's value without the override: where it is a whole number, so are those
    of an interval.

    Raises: ConfigError where the override names nothing that can be searched.
    """
    value = override.value()
    tags: set[str] = getattr(value, "tags", set())
    try:
        if odd := tags - {"log"}:
            raise ValueError(f"expected tag log, found {', '.join(sorted(odd))}")
        log = "log" in tags
        if isinstance(value, IntervalSweep):
            return Axis(key, _interval(value, log, _is_whole(current)))
        texts = _texts(override)
        if isinstance(value, RangeSweep) and len(texts) > 1:
            return Axis(key, _range(value, log))
        if log:
            raise ValueError("a log scale is for interval(...) and range(...)")
        if len(set(texts)) < len(texts):
            raise ValueError("name each value once")
        return Axis(key, CategoricalDistribution(texts))
    except ConfigError:
        raise
    except ValueError as error:  # ours or Optuna's
        raise ConfigError(f"{override.input_line}: {error}") from None


def _interval(sweep: IntervalSweep, log: bool, whole: bool) -> FloatDistribution | IntDistribution:
    low, high = sweep.start, sweep.end
    if low is None or high is None or not -inf < low < high < inf:
        raise ValueError("expected interval(LOW, HIGH) with LOW below HIGH")
    whole = whole and float(low).is_integer() and float(high).is_integer()
    if whole or (_is_whole(low) and _is_whole(high)):  # int(interval(1,8))
        return IntDistribution(int(low), int(high), log)
    return FloatDistribution(float(low), float(high), log)


def _range(sweep: RangeSweep, log: bool) -> FloatDistribution | IntDistribution:
    values, step = sorted(sweep.range()), abs(sweep.step)
    if all(_is_whole(value) for value in values):
        return IntDistribution(int(values[0]), int(values[-1]), log, int(step))
    apart = None if log and step == 1 else float(step)
    return FloatDistribution(float(values[0]), float(values[-1]), log, apart)


def _texts(override: Override) -> tuple[str, ...]:
    """The values that an override names, as they are written."""
    texts = tuple(override.sweep_string_iterator())
    if not texts:
        raise ConfigError(f"{override.input_line}: expected values to choose from, found none")
    return texts


def _is_interval(override: Override) -> bool:
    return isinstance(override.value(), IntervalSweep)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
