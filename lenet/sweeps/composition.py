"""Hydra's composition of a sweep's jobs."""

import functools
import re
from collections.abc import Sequence
from typing import Any

import cloudpickle
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict

from lenet.config.errors import ConfigError


class Composer:
    """Composes jobs from the configuration of the command line and their overrides.

    Hydra takes a tenth of a second for a job, and jobs differ in a few values. So Hydra composes
    the first job with a choice of config groups, and the next ones are copies with other values.
    """

    def __init__(self, loader: ConfigLoader, config: DictConfig) -> None:
        self._loader, self._config = loader, config
        # The overrides and the pickled configuration of jobs, by what `_form` makes of them.
        self._composed: dict[tuple[str, ...], tuple[list[str], bytes]] = {}
        self._is_group = functools.cache(lambda key: bool(loader.get_group_options(key)))

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """Raises: ConfigError where the overrides make no configuration."""
        form = tuple(map(self._form, overrides))
        if form in self._composed:
            return _copy(*self._composed[form], overrides)
        cfg = self._loader.load_sweep_config(self._config, list(overrides))
        for key in ("sweeper", "launcher"):  # Hydra has made its own already (hydra#2946)
            if cfg.hydra[key] != self._config.hydra[key]:
                raise ConfigError(
                    f"hydra.{key}: what varies sets it, where it comes too late; "
                    f"give it for the whole sweep: hydra/{key}=..."
                )
        self._composed[form] = list(overrides), cloudpickle.dumps(cfg)
        return cfg

    def _form(self, override: str) -> str:
        """The key of an override that sets a plain value, any other override as it is."""
        match = re.match(r"\+{0,2}(?!hydra\.)([\w.]+)=(?!\s*\{)", override)
        return match[0] if match and not self._is_group(match[1]) else override


def _copy(before: Sequence[str], pickled: bytes, overrides: Sequence[str]) -> DictConfig:
    """The configuration that was composed of the overrides `before`, with the values of others."""
    cfg: DictConfig = cloudpickle.loads(pickled)
    now = {old: new for old, new in zip(before, overrides, strict=True) if old != new}
    for each in OverridesParser.create().parse_overrides(list(now.values())):
        OmegaConf.update(cfg, each.key_or_group, each.value())
    with open_dict(cfg.hydra):
        lines: Any = OmegaConf.to_container(cfg.hydra.overrides.task)  # as they are: ${seed} stays
        task = [now.get(line, line) for line in lines]
        cfg.hydra.overrides.task = task
        how = cfg.hydra.job.config.override_dirname
        named = sorted(t for t in task if t.partition("=")[0].strip("+~") not in how.exclude_keys)
        cfg.hydra.job.override_dirname = how.item_sep.join(named).replace("=", how.kv_sep)
    return cfg
