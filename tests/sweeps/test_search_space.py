"""Hydra's overrides say what a search varies."""

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution as Choice
from optuna.distributions import FloatDistribution as Float
from optuna.distributions import IntDistribution as Int

from lenet.config.errors import ConfigError
from lenet.sweeps.search_space import Axis, read_axis, read_seeds


def parsed(text):
    return OverridesParser.create().parse_override(text)


@pytest.mark.parametrize(
    ("text", "distribution"),
    [
        ("optimizer.lr=interval(0.1,1)", Float(0.1, 1.0)),
        ("a=tag(log,interval(1e-4,1e-1))", Float(1e-4, 0.1, log=True)),
        ("a=int(interval(1,8))", Int(1, 8)),
        ("m/activation=choice(tanh,relu)", Choice(("tanh", "relu"))),
        ("+a=[6,16],[8,20]", Choice(("[6,16]", "[8,20]"))),
        ("a=range(1,6,2)", Choice(("1", "3", "5"))),
    ],
)
def test_the_override_grammar_says_what_is_searched(text, distribution):
    assert read_axis(parsed(text)) == Axis(text.partition("=")[0], distribution)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=interval(1,1)", "LOW below HIGH"),
        ("a=interval(0,float('inf'))", "LOW below HIGH"),
        ("a=interval(0,float('nan'))", "LOW below HIGH"),
        ("a=tag(log,interval(0,1))", "low > 0"),
        ("a=tag(logarithmic,interval(1,2))", "expected tag log, found logarithmic"),
        ("a=tag(log,choice(1,2))", "a log scale is for interval"),
        ("a=1,1", "values to choose from, each once"),
        ("a=range(1,1)", "values to choose from, each once"),
    ],
)
def test_a_wrong_search_space_is_refused_in_one_line(text, message):
    with pytest.raises(ConfigError, match=message) as caught:
        read_axis(parsed(text))
    assert "\n" not in str(caught.value)
    assert text in str(caught.value)


def test_seeds_are_a_list_and_never_searched():
    assert read_seeds(parsed("seed=range(3)")) == [0, 1, 2]
    assert read_seeds(parsed("seed=7")) == [7]
    for text in ("seed=interval(0,5)", "seed=0.5,1", "seed=true,false"):
        with pytest.raises(ConfigError, match="seed"):
            read_seeds(parsed(text))


def test_a_value_is_written_so_that_yaml_reads_a_number():
    for value in (1e-05, 0.1, 3e-17, 1.5e20, 0.30000000000000004):
        text = Axis("a", Float(0.0, 1.0)).text(value)
        assert yaml.safe_load(text) == value == parsed(f"a={text}").value()
    assert Axis("a", Int(1, 8)).text(3) == "3"
    assert Axis("a", Choice(("1e-5",))).text("1e-5") == "1e-5"
