"""Our sweepers and launchers, made known to Hydra; `conf/hydra/` names them."""

import importlib
import sys
import types
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from lenet.sweep import PLUGINS
from lenet.sweep.cluster_launchers import Ray, Slurm
from lenet.sweep.grid import Grid
from lenet.sweep.local_launcher import Local
from lenet.sweep.search import Search


def register() -> None:
    """To be called before `hydra.main`: Hydra takes plugins under one name alone, as if they were
    installed below `hydra_plugins`.
    """
    try:
        package = importlib.import_module("hydra_plugins")  # where others are installed
    except ImportError:
        package = sys.modules["hydra_plugins"] = types.ModuleType("hydra_plugins")
        package.__path__ = []
    sys.modules[PLUGINS] = sys.modules[__name__]
    setattr(package, PLUGINS.rpartition(".")[2], sys.modules[__name__])
    for plugin in (Grid, Search, Local, Ray, Slurm):
        Plugins.instance().register(plugin)
    # Hydra's own run each job by itself, without a parent run: they are no options here.
    options, defaults = ConfigStore.instance().repo["hydra"], HydraConf().defaults
    for kind, own in (("sweeper", "grid"), ("launcher", "local")):
        options[kind].pop("basic.yaml", None)
        defaults[defaults.index({kind: "basic"})] = {kind: own}
    ConfigStore.instance().store("config", HydraConf(defaults), group="hydra", provider="hydra")
    # Where hydra-ray-launcher is installed, Hydra holds ours against its schema of that name.
    options["launcher"].pop("ray.yaml", None)
    OmegaConf.register_new_resolver("lenet.checkout", _checkout, replace=True)


def _checkout() -> str:
    return str(Path(__file__).resolve().parents[2])
