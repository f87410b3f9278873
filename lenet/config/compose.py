"""What Hydra composes of the overrides of run.py."""

from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lenet.config.check import check
from lenet.config.errors import ConfigError
from lenet.config.hydra_errors import explain
from lenet.config.labs import lab_folder


def as_given(cfg: DictConfig) -> dict[str, Any]:
    """The checked configuration of the run that Hydra started, the overrides that it was composed
    from, and the option of each config group.

    Raises: ConfigError at a wrong key or value.
    """
    hydra = HydraConfig.get()
    overrides, options = list(hydra.overrides.task), dict(hydra.runtime.choices)
    return {"config": check(cfg), "overrides": overrides, "options": options}


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """The checked configuration of conf/config.yaml with these overrides.

    Raises: ConfigError where an override does not fit.
    """
    folder = lab_folder() / "conf"
    try:
        with initialize_config_dir(str(folder), version_base="1.3"):
            return check(compose("config", overrides=list(overrides)))
    except Exception as error:
        if (line := explain(error, folder)) is None:
            raise
        raise ConfigError(line) from None
