"""What a search varies, read off Hydra's overrides: `optimizer.lr=tag(log,interval(1e-4,1e-1))`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from hydra.core.override_parser.types import IntervalSweep, Override

from lenet.config.errors import ConfigError

try:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
except ImportError:
    raise ConfigError("hydra/sweeper: a search needs Optuna; pip install -e '.[sweep]'") from None

Distribution = CategoricalDistribution | FloatDistribution | IntDistribution


@dataclass(frozen=True)
class Axis:
    """A key, and the values that a search may give it. `typed` is the key as it was typed, perhaps
    with a plus sign.
    """

    typed: str
    distribution: Distribution

    @property
    def key(self) -> str:
        return self.typed.lstrip("+")

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
        text = repr(float(value))
        return text if "." in text else text.replace("e", ".0e")

    def __str__(self) -> str:
        of = self.distribution
        if isinstance(of, CategoricalDistribution):
            return f"{self.key}: one of {', '.join(map(str, of.choices))}"
        whole = " (whole numbers)" if isinstance(of, IntDistribution) else ""
        return f"{self.key}: {of.low:g} to {of.high:g}{whole}" + ", log scale" * of.log


@dataclass(frozen=True)
class Space:
    """What a search varies: `axes`, and `seeds` with which each point is run. `fixed` are the
    overrides that all its jobs share.
    """

    axes: Sequence[Axis]
    seeds: Sequence[int]
    fixed: Sequence[str]

    def overrides(self, texts: Mapping[str, str], *seed: int) -> list[str]:
        """The overrides of the job at a point."""
        point = [f"{axis.typed}={texts[axis.key]}" for axis in self.axes]
        return [*self.fixed, *point, *(f"seed={each}" for each in seed)]


def read_space(overrides: Sequence[Override]) -> Space:
    """Raises: ConfigError where there is nothing to search."""
    parsed = {o.get_key_element().lstrip("+"): o for o in overrides}
    seeds = read_seeds(parsed.pop("seed")) if "seed" in parsed else []
    axes = [read_axis(o) for o in parsed.values() if o.is_sweep_override()]
    if not axes:
        raise ConfigError(
            "hydra/sweeper: a search needs something to vary, for one "
            "optimizer.lr=tag(log,interval(1e-4,1e-1)) or model/activation=choice(tanh,relu)"
        )
    # As they were typed: quotes and plus signs are kept.
    fixed = [str(o.input_line) for o in parsed.values() if not o.is_sweep_override()]
    return Space(axes, seeds, fixed)


def read_seeds(override: Override) -> list[int]:
    """Raises: ConfigError where they are no list of whole numbers."""
    if isinstance(override.value(), IntervalSweep):
        raise ConfigError("seed: every trial is run with each of them; expected seed=range(3)")
    is_sweep = override.is_sweep_override()
    texts = override.sweep_string_iterator() if is_sweep else [override.get_value_element_as_str()]
    try:
        seeds = [int(text) for text in texts]
    except ValueError:
        raise ConfigError(f"{override.input_line}: expected whole numbers") from None
    return list(dict.fromkeys(seeds))


def read_axis(override: Override) -> Axis:
    """Raises: ConfigError where the override names nothing that can be searched."""
    try:
        return Axis(override.get_key_element(), _distribution(override))
    except ValueError as error:  # ours or Optuna's
        raise ConfigError(f"{override.input_line}: {error}") from None


def _distribution(override: Override) -> Distribution:
    value = override.value()
    tags: set[str] = getattr(value, "tags", set())
    if odd := tags - {"log"}:
        raise ValueError(f"expected tag log, found {', '.join(sorted(odd))}")
    if isinstance(value, IntervalSweep):
        low: Any = value.start
        high: Any = value.end
        if not -inf < low < high < inf:
            raise ValueError("expected interval(LOW, HIGH) with LOW below HIGH")
        if isinstance(low, int) and isinstance(high, int):  # int(interval(1,8))
            return IntDistribution(low, high, log=bool(tags))
        return FloatDistribution(low, high, log=bool(tags))
    if tags:
        raise ValueError("a log scale is for interval(...)")
    texts = tuple(override.sweep_string_iterator())
    if not texts or len(set(texts)) < len(texts):
        raise ValueError("expected values to choose from, each once")
    return CategoricalDistribution(texts)
