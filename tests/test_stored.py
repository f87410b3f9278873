"""A configuration from a tracking store is a stranger's: it builds only what conf/ names."""

import copy

import pytest
import yaml

from lenet.config import ConfigError, check
from lenet.stored import check_targets, read_config, together
from tests.conftest import CONF

FOLDERS = [CONF]


@pytest.fixture
def config(composed):
    return check(composed())


def with_value(config, path, value):
    changed = copy.deepcopy(config)
    *groups, leaf = path.split(".")
    inner = changed
    for group in groups:
        inner = inner.setdefault(group, {})
    inner[leaf] = value
    return changed


def test_what_conf_names_is_allowed(composed):
    for overrides in (
        [],
        ["model/activation=scaled_tanh", "model/pooling=subsample", "optimizer=adamw"],
        ["schedule=one_cycle", "data=fashion_mnist", "+tags.idea=wide"],
    ):
        config = check(composed(*overrides))
        check_targets(read_config(yaml.safe_dump(config)), FOLDERS)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("optimizer._target_", "os.system"),
        ("optimizer._target_", "lenet.machine.git"),
        ("optimizer._target_", "lenet.tensors.save"),
        ("optimizer._target_", "torch.load"),
        ("optimizer._target_", "torch.nn.Tanh"),  # allowed elsewhere
        ("model.activation._target_", "torch.optim.SGD"),
        ("model.activation._target_", 3),
        ("data.extra", {"_target_": "os.system"}),
        ("optimizer.betas", [{"_target_": "os.system"}]),
        ("optimizer.betas", [[{"deep": {"_target_": "torch.optim.SGD"}}]]),
        ("optimizer._args_", [1]),
        ("optimizer._recursive_", False),
        ("optimizer._partial_", "yes"),
        ("optimizer.lr", "${oc.env:HOME}"),
        ("tags.${oc.env:HOME}", "x"),
        ("note", "a ${oc.env:HOME} b"),
        ("elsewhere._target_", "torch.optim.SGD"),
    ],
)
def test_anything_else_is_refused_in_one_line(config, path, value):
    with pytest.raises(ConfigError) as caught:
        check_targets(with_value(config, path, value), FOLDERS)
    assert len(str(caught.value).splitlines()) == 1
    assert "/root" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [1, 1]\nb: *a\n",
        "a: [",
        "\t",
        "- 1\n- 2\n",
        "text",
        "",
        "!!python/object/apply:os.system ['true']",
        "a: " + "[" * 5000,
        "? {a: 1}\n: 2\n",
    ],
)
def test_what_is_no_plain_yaml_is_refused_in_one_line(text):
    with pytest.raises(ConfigError) as caught:
        check_targets(read_config(text), FOLDERS)
    assert len(str(caught.value).splitlines()) == 1


def test_a_config_nested_too_deeply_is_refused():
    nested: dict = {}
    for _ in range(100):
        nested = {"a": nested}
    with pytest.raises(ConfigError, match="nested too deeply"):
        check_targets(nested, FOLDERS)


def merged(stored, today, asked=None, longer=False):
    return together(stored, today, asked or {}, FOLDERS, "resume=x", longer)


def test_paths_servers_and_mirrors_are_this_machines(config):
    stored = copy.deepcopy(config)
    stored["data"] |= {"root": "/stranger", "mirror": "http://stranger/", "download": False}
    stored["tracking"] |= {"uri": "http://stranger/", "folder": "/stranger"}
    stored["optimizer"]["lr"] = 0.5
    result = merged(stored, config)
    for key in ("root", "mirror", "download"):
        assert result["data"][key] == config["data"][key]
    for key in ("uri", "folder"):
        assert result["tracking"][key] == config["tracking"][key]
    assert result["optimizer"]["lr"] == 0.5


def test_what_has_no_effect_may_be_asked_for(config):
    result = merged(config, config, {"tracking.wait": 1.0, "checkpoint.epochs": 5})
    assert (result["tracking"]["wait"], result["checkpoint"]["epochs"]) == (1.0, 5)


def test_a_difference_is_shown_with_both_values(config):
    stored = with_value(config, "optimizer.lr", 0.5)
    with pytest.raises(ConfigError, match=r"optimizer\.lr 0\.5 \(here 0\.01\)"):
        merged(stored, config, {"optimizer.lr": 0.01})
    assert merged(stored, config, {"optimizer.lr": 0.5})["optimizer"]["lr"] == 0.5


@pytest.mark.parametrize(("epochs", "longer", "allowed"), [(20, True, True), (20, False, False)])
def test_more_epochs_are_for_a_resume_alone(config, epochs, longer, allowed):
    if allowed:
        assert merged(config, config, {"epochs": epochs}, longer)["epochs"] == epochs
    else:
        with pytest.raises(ConfigError, match="epochs 10"):
            merged(config, config, {"epochs": epochs}, longer)


def test_fewer_epochs_are_refused(config):
    with pytest.raises(ConfigError, match=r"epochs 10 \(here 5\)"):
        merged(config, config, {"epochs": 5}, longer=True)


def test_a_stranger_s_values_are_held_to_the_limits(config):
    for path, value in (("epochs", "ten"), ("data.image_size", 10**6), ("optimizer.lr", -1)):
        with pytest.raises(ConfigError, match=path):
            merged(with_value(config, path, value), config)
