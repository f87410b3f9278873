"""Every YAML file composes, builds, and names every argument of its target."""

import inspect
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, get_method
from omegaconf import OmegaConf

from lenet.config.build import build
from lenet.config.check import check
from lenet.config.limits import LIMITS
from lenet.config.record import flatten
from lenet.data.sets import SET_NAMES
from lenet.sweeps.plugins import register
from tests.conftest import CONF, ROOT

OPTIONS = sorted(
    (path.parent.relative_to(CONF).as_posix(), path.stem)
    for path in CONF.rglob("*.yaml")
    if path.parent != CONF
)
PLUGGED_IN = [pair for pair in OPTIONS if pair[0].startswith("hydra/")]
GROUP_OPTIONS = [p for p in OPTIONS if p[0] not in ("experiment", "debug") and p not in PLUGGED_IN]
PARTS = [p for p in OPTIONS if p[0].split("/")[0] in ("model", "loss", "optimizer", "schedule")]
TORCH_LAYERS = ("model.pooling.", "model.activation.")
SWEEPS = sorted(path.stem for path in (ROOT / "sweeps").glob("*.yaml"))
EXPERIMENTS = [option for group, option in OPTIONS if group == "experiment"]

# Arguments that the run supplies, such as the parameters for an optimizer.
RUNTIME = {
    "optimizer": {"params"},
    "schedule": {"optimizer", "epochs", "steps_per_epoch"},
    "model": {"num_classes", "in_channels", "image_size"},
    "loss": {"class_counts"},
    "model.pooling": {"channels", "activation", "copies"},  # for a pooling layer with parameters
    "checkpoint": {"folder", "facts", "on_save", "state"},
    "tracking": {"settings"},
}


def nodes(path, config):
    if "_target_" in config:
        yield path, config
    for key, value in config.items():
        if isinstance(value, dict):
            yield from nodes(f"{path}.{key}", value)


@cache
def checked(group, option):
    """The configuration with that option, composed once for all tests of it."""
    files = ["data.train=[a.pt]", "data.test=[b.pt]"] if option == "files" else []
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check(compose("config", overrides=[f"{group}={option}", *files]))


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_passes_the_check_and_its_numbers_have_limits(group, option):
    for key, value in flatten(checked(group, option)).items():
        first = value[0] if isinstance(value, list) and value else value
        is_number = not isinstance(first, str | bool | dict | None)
        # Torch's own layers are held against their annotations.
        if is_number and "._" not in key and not key.startswith(TORCH_LAYERS):
            assert key in LIMITS, key


@pytest.mark.parametrize(("group", "option"), GROUP_OPTIONS)
def test_a_yaml_names_every_argument_of_its_target_in_order(group, option):
    top = group.split("/")[0]
    for path, node in nodes(top, checked(group, option)[top]):
        parameters = inspect.signature(get_method(node["_target_"])).parameters.values()
        arguments = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
        absent = RUNTIME.get(path, set())
        keys = [key for key in node if not key.startswith("_")]
        assert keys == [name for name in arguments if name not in absent], path
        assert node["_convert_"] == "all", path


@pytest.mark.parametrize(("group", "option"), PLUGGED_IN)
def test_the_yaml_of_a_plugin_names_its_arguments_in_order(group, option):
    register()
    kind = group.removeprefix("hydra/")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[f"{group}={option}"], return_hydra_config=True)
    node = cfg.hydra[kind]
    keys = [key for key in node if not key.startswith("_")]
    assert keys == list(inspect.signature(get_class(node._target_)).parameters)


@pytest.mark.parametrize(("group", "option"), PARTS)
def test_every_part_is_built_and_takes_a_step(group, option):
    import torch

    config = checked(group, option)
    torch.manual_seed(0)
    model = build(config, "model", num_classes=10, in_channels=1, image_size=32)
    optimizer = build(config, "optimizer", model.parameters())
    schedule = build(config, "schedule", optimizer, epochs=1, steps_per_epoch=3)
    before = next(model.parameters()).detach().clone()
    inputs, labels = torch.randn(4, 1, 32, 32), torch.tensor([0, 1, 2, 4])
    for _ in range(3):
        optimizer.zero_grad()
        build(config, "loss")(model(inputs), labels).backward()
        optimizer.step()
        schedule.step()
    assert not torch.equal(next(model.parameters()), before)


def test_the_data_options_are_the_known_sets_and_files():
    groups = {option for group, option in OPTIONS if group == "data"}
    assert groups == {*SET_NAMES, "files"}


def test_the_defaults_are_the_tutorials_recipe():
    config = checked("model", "lenet5")
    assert config["epochs"] == 10
    assert config["log_interval"] == 100
    assert config["data"]["batch_size"] == 64
    assert config["data"]["test_batch_size"] == 1000
    assert (config["optimizer"]["lr"], config["optimizer"]["momentum"]) == (0.01, 0.9)
    assert config["optimizer"]["_target_"] == "torch.optim.SGD"
    assert config["model"]["activation"]["_target_"] == "torch.nn.Tanh"
    assert config["model"]["pooling"]["_target_"] == "torch.nn.AvgPool2d"


def test_the_tutorials_experiment_is_the_default_run_on_mnist():
    assert checked("experiment", "tutorial") == checked("data", "mnist")


OTHERS = {
    "augment": "none",
    "model": "mlp",
    "loss": "mse",
    "optimizer": "adam",
    "schedule": "step",
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_part_that_replaces_an_experiments_is_as_without_the_experiment(name):
    chosen = [f"{group}={option}" for group, option in OTHERS.items()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        found = check(compose("config", overrides=[f"experiment={name}", *chosen]))
    for group, option in OTHERS.items():
        expected = dict(checked(group, option)[group])
        if group == "model":  # every network has it
            expected["initialisation"] = found[group]["initialisation"]
        assert found[group] == expected, group


@pytest.mark.parametrize("name", SWEEPS)
def test_every_sweep_composes_and_begins_with_its_question(name):
    lines = (ROOT / "sweeps" / f"{name}.yaml").read_text().splitlines()
    assert lines[0].startswith("# ")
    assert lines[0].endswith("?")
    assert f"-cn {name}" in "".join(lines[:6])
    overrides = [f"hydra.searchpath=[file://{CONF}]"]
    with initialize_config_dir(str(ROOT / "sweeps"), version_base="1.3"):
        cfg = compose(name, overrides=overrides, return_hydra_config=True)
    assert cfg.hydra.mode.name == "MULTIRUN"
    known = flatten(OmegaConf.to_container(cfg))
    for key in cfg.hydra.sweeper.params:
        assert key in known or (CONF / key).is_dir(), key


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_experiment_states_claim_expectation_cost_and_command(path: Path):
    head = "".join(path.read_text().splitlines(keepends=True)[:7])
    for word in ("@package _global_", "Claim:", "Bound:", "Expected:", "Cost:", "Command:"):
        assert word in head
