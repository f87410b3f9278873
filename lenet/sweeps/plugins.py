"""Our sweepers and launchers, made known to Hydra; `conf/hydra/` names them."""

import sys
from types import ModuleType

from hydra.conf import HydraConf
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from lenet.config.labs import GROUP, lab_folder, labs
from lenet.sweeps.cluster_launchers import Ray, Slurm
from lenet.sweeps.grid import Grid
from lenet.sweeps.local_launcher import Local
from lenet.sweeps.search import Search

NAME = "hydra_plugins.lenet"  # Hydra takes plugins from below `hydra_plugins` alone


class Labs(SearchPathPlugin):
    """Adds the options and sweeps of the labs that are installed beside this one."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for lab in labs()[1:]:
            for folder in ("conf", "sweeps"):
                search_path.append(GROUP, f"file://{lab / folder}")


def register() -> None:
    """To be called before `hydra.main`."""
    plugins = Plugins.instance()  # imports what others have installed below `hydra_plugins`
    if "hydra_plugins" not in sys.modules:
        sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
        sys.modules["hydra_plugins"].__path__ = []
    sys.modules[NAME] = sys.modules[__name__]
    plugins.register(Labs)
    for plugin in (Grid, Search, Local, Ray, Slurm):
        plugin.__module__ = NAME
        plugins.register(plugin)
    # Hydra's own run each job by itself, without a parent run: they are no options here.
    options, defaults = ConfigStore.instance().repo["hydra"], HydraConf().defaults
    for kind, own in (("sweeper", "grid"), ("launcher", "local")):
        options[kind].pop("basic.yaml", None)
        defaults[defaults.index({kind: "basic"})] = {kind: own}
    ConfigStore.instance().store("config", HydraConf(defaults), group="hydra", provider="hydra")
    # Where hydra-ray-launcher is installed, Hydra holds ours against its schema of that name.
    options["launcher"].pop("ray.yaml", None)
    OmegaConf.register_new_resolver("lenet.checkout", lambda: str(lab_folder()), replace=True)
