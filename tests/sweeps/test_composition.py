"""A job gets what Hydra composes of its overrides, whatever was composed before it."""

import itertools

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.utils import setup_globals
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lenet.sweeps import plugins
from lenet.sweeps.composition import Composer
from tests.conftest import CONF

AXES = {
    "a number": ["optimizer.lr=0.1", "optimizer.lr=0.01"],
    "a seed": ["seed=1", "seed=2", "seed=3"],
    "a new key": ["+tags.repeat=1", "+tags.repeat=2"],
    "a list": ["sweep.zip=[]", "sweep.zip=[seed,epochs]"],
    "a mapping": ["+tags={a:1}", "+tags={b:2}", "++tags={}"],
    "a group": ["optimizer=sgd", "optimizer=fast"],
    "a group inside": ["model/activation=tanh", "model/activation=relu"],
    "a whole group": ["experiment=tutorial", "experiment=fast"],
    "a value of a reference": ["data.seed=${seed}", "data.seed=7"],
    "a text": ["note='a=b, c'", "note=null"],
    "a key taken away": ["~sweep.zip", "~sweep.report"],
}


@pytest.fixture(scope="module")
def loader():
    setup_globals()
    plugins.register()
    return ConfigLoaderImpl(create_config_search_path(str(CONF)))


@pytest.mark.parametrize("name", AXES)
def test_a_job_gets_what_hydra_composes_of_its_overrides(loader, name):
    master = loader.load_configuration("config", ["epochs=2"], RunMode.MULTIRUN)
    compose = Composer(loader, master)
    for overrides in itertools.product(
        AXES[name], ["optimizer.momentum=0.5", "optimizer.momentum=0"]
    ):
        expected = loader.load_sweep_config(master, list(overrides))
        assert OmegaConf.to_container(compose(overrides)) == OmegaConf.to_container(expected)


def test_a_value_that_does_not_fit_is_refused_as_by_hydra(loader):
    compose = Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))
    compose(["optimizer.lr=0.1"])
    for wrong in (["optimizer.lrr=0.1"], ["+optimizer.lr=0.1"]):
        with pytest.raises((HydraException, OmegaConfBaseException)):
            compose(wrong)
