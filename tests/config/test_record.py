"""A configuration as a record: flat, hashed, shown."""

from lenet.config.check import check
from lenet.config.record import changes_nothing, config_hash, flatten, masked


def test_the_hash_covers_what_is_computed_and_not_where_or_under_which_name(composed):
    def hash_of(*overrides):
        return config_hash(check(composed(*overrides)))

    same = ["data.root=/elsewhere", "note=hello", "+tags.a=b", "tracking.experiment=x"]
    assert hash_of() == hash_of(*same)
    assert hash_of() != hash_of("optimizer.lr=0.02")
    assert hash_of() != hash_of("seed=1")


def test_a_key_outside_the_hash_changes_nothing():
    assert changes_nothing("tracking.uri")
    assert changes_nothing("data.root")
    assert changes_nothing("model.kernels")  # a run sets it by device.kernels
    assert not changes_nothing("device.kernels")
    assert not changes_nothing("data.seed")
    assert not changes_nothing("optimizer.lr")


def test_flatten_keeps_lists_and_empty_groups_as_values():
    assert flatten({"a": {"b": 1, "c": [1, 2]}, "d": {}}) == {"a.b": 1, "a.c": [1, 2], "d": {}}


def test_passwords_and_tokens_are_masked():
    assert masked("https://me:secret@host/x?token=abc&a=1") == "https://me:***@host/x?token=***&a=1"
