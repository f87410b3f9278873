"""What the overrides of a command say."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lenet.config.overrides import columns_of, differing, job_name


def test_a_job_is_named_by_what_differs():
    axes = ["optimizer.lr", "model/activation", "seed"]
    overrides = ["data=digits", "optimizer.lr=1e-5", "+seed=0", "model/activation=relu"]
    differs = differing(overrides, axes)
    assert differs == {"optimizer.lr": 1e-5, "model/activation": "relu", "seed": 0}
    assert list(differs) == axes
    assert job_name(differs) == "lr=1e-05 activation=relu seed=0"


def test_keys_whose_last_words_are_the_same_are_written_out():
    assert job_name({"data.seed": 1, "seed": 0}) == "data.seed=1 seed=0"


def test_values_side_by_side_are_no_product():
    parsed = OverridesParser.create().parse_overrides(["a=range(5000)", "b=range(5000)"])
    assert len(columns_of(parsed, ["a", "b"])["a"]) == 5000
    with pytest.raises(ValueError, match="expected 1 to 10,000 runs"):
        columns_of(parsed)
