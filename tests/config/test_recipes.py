"""A recipe with another part: what the recipe sets for the part that was replaced falls away."""

import itertools
from functools import cache

import pytest
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import OmegaConf

from lenet.config import recipes
from lenet.sweep.plugins import register
from tests.conftest import CONF, ROOT

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
GROUPS = {
    folder.relative_to(CONF).as_posix(): sorted(path.stem for path in folder.glob("*.yaml"))
    for folder in sorted(CONF.rglob("*"))
    if folder.is_dir() and folder.name not in ("experiment", "hydra")
}
INNER = ["model/activation", "model/pooling"]
OUTER = [group for group in GROUPS if group not in INNER]


def rounds(groups):
    """Choices of an option in each group, until every option was among them."""
    for number in range(max(len(GROUPS[group]) for group in groups)):
        yield {group: GROUPS[group][number % len(GROUPS[group])] for group in groups}


@cache
def loader_of(folder):
    register()
    return recipes.RecipeLoader(create_config_search_path(str(folder)))


@cache
def compose(*overrides, file="config", folder=CONF):
    """What run.py composes of a file, with overrides."""
    path = [] if folder == CONF else [f"hydra.searchpath=[file://{CONF}]"]
    return loader_of(folder).load_configuration(file, [*path, *overrides], RunMode.RUN)


def keys_of(cfg, group):
    """The keys of a part. Those of its inner parts are not among them."""
    return set(OmegaConf.select(cfg, group.replace("/", ".")) or {})


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *itertools.product(EXPERIMENTS, rounds(OUTER)),
        *itertools.product(["fast", "lecun1998"], rounds(INNER)),
    ],
)
def test_every_experiment_takes_every_option_of_every_group(name, options):
    chosen = [f"{group}={option}" for group, option in options.items()]
    cfg, alone = compose(f"experiment={name}", *chosen), compose(*chosen)
    for group in options:
        assert keys_of(cfg, group) == keys_of(alone, group)


@pytest.mark.parametrize("options", [*rounds(OUTER)])
def test_a_file_of_a_sweep_takes_every_option_of_every_group(options):
    chosen = [f"{group}={option}" for group, option in options.items()]
    cfg, alone = compose(*chosen, file="best", folder=ROOT / "sweeps"), compose(*chosen)
    for group in options:
        assert keys_of(cfg, group) == keys_of(alone, group)


@pytest.mark.parametrize(
    ("overrides", "group"),
    [
        ("experiment=fast optimizer=adam", "optimizer"),
        ("experiment=best optimizer=adamw", "optimizer"),
        ("experiment=lecun1998 optimizer=sgd", "optimizer"),
        ("debug=overfit optimizer=adam", "optimizer"),
        ("experiment=fast augment=none", "augment"),
        ("experiment=best augment=none", "augment"),
        ("experiment=fast model=mlp", "model"),
        ("experiment=fast model=lenet5_1998", "model"),
        ("experiment=lecun1998 model=lenet5", "model"),
        ("experiment=best schedule=step", "schedule"),
        ("experiment=lecun1998_distorted loss=cross_entropy", "loss"),
    ],
)
def test_a_part_that_was_replaced_is_as_without_the_recipe(overrides, group):
    alone = compose(overrides.split()[-1])
    assert compose(*overrides.split())[group] == alone[group]


def test_what_all_options_have_alike_is_about_the_training_and_stays():
    data = compose("experiment=lecun1998", "data=digits").data
    assert (data.name, data.batch_size, data.mean) == ("digits", 1, 0.0784313725)
    lenet1 = compose("experiment=lecun1998_others", "model=lenet1").model
    assert lenet1.initialisation == "released"


@pytest.mark.parametrize(
    "overrides",
    [
        ("experiment=fast", "optimizer=sgd", "model=lenet5"),
        ("experiment=best", "augment=elastic"),
        ("experiment=lecun1998_distorted", "augment=lecun1998", "loss=map"),
    ],
)
def test_the_option_that_a_recipe_chose_itself_is_no_other_part(overrides):
    recipe, same = (OmegaConf.masked_copy(compose(*o), OUTER) for o in (overrides[:1], overrides))
    assert recipe == same


def test_what_is_typed_for_the_new_part_counts():
    optimizer = compose("experiment=fast", "optimizer=adam", "optimizer.lr=0.1").optimizer
    assert (optimizer.lr, optimizer.weight_decay) == (0.1, 0.0)
    model = compose("experiment=fast", "model=mlp", "model/activation=gelu").model
    assert model.activation._target_ == "torch.nn.GELU"


def test_a_recipe_may_replace_a_part_of_the_one_that_it_builds_on(tmp_path):
    (tmp_path / "experiment").mkdir()
    own = "# @package _global_\ndefaults: [fast, override /optimizer: adam, _self_]\n"
    (tmp_path / "experiment" / "own.yaml").write_text(own)
    (tmp_path / "plain.yaml").write_text("defaults: [config, _self_]\n")
    over = "defaults: [config, _self_, override experiment: fast, override optimizer: adam]\n"
    (tmp_path / "over.yaml").write_text(over)
    adam = compose("optimizer=adam").optimizer
    assert compose("experiment=own", file="plain", folder=tmp_path).optimizer == adam
    assert compose(file="over", folder=tmp_path).optimizer == adam


def test_settings_of_another_launcher_fall_away(tmp_path):
    own = "defaults: [config, _self_]\nhydra: {launcher: {workers: 2}}\n"
    (tmp_path / "two.yaml").write_text(own)
    assert compose(file="two", folder=tmp_path).hydra.launcher.workers == 2
    other = compose("hydra/launcher=slurm_local", file="two", folder=tmp_path)
    assert "workers" not in other.hydra.launcher
