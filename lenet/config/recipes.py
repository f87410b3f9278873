"""Recipes with another part, such as `experiment=fast optimizer=adam`.

A recipe chooses options and sets values for them. What `fast` sets for the optimizer was meant for
SGD: Adam has other keys, and needs another learning rate.
"""

import posixpath
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import hydra._internal.hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.defaults_list import create_defaults_list
from hydra.core.default_element import ConfigDefault, GroupDefault
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, OmegaConf

from lenet.config.record import flatten


class RecipeLoader(ConfigLoaderImpl):
    """Hydra's loader, for which a recipe leaves out what it sets for a part that was replaced."""

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        parsed, files = super()._parse_overrides_and_create_caching_repo(config_name, overrides)
        return parsed, _Recipes(files, self, config_name or "", parsed)


def install() -> None:
    """Lets Hydra compose with a `RecipeLoader`. Call it before `hydra.main`."""
    hydra._internal.hydra.ConfigLoaderImpl = RecipeLoader  # type: ignore[misc]


class _Choice(NamedTuple):
    """An entry of a defaults list. It may override another file's."""

    group: str
    option: Any
    overrides: bool


class _Recipes(CachingConfigRepository):
    """The YAML files of one composition. A recipe is a file that sets values outside of its own
    group: an experiment, or the file of a sweep.
    """

    def __init__(
        self,
        files: CachingConfigRepository,
        loader: RecipeLoader,
        primary: str,
        overrides: Sequence[Override],
    ) -> None:
        super().__init__(files)
        self._loader, self._primary = loader, primary
        self._recipes: dict[str, ConfigResult | None] = {}
        chosen = [
            override
            for override in overrides
            if self.group_exists(override.key_or_group)
            and not (override.package or override.is_add() or override.is_delete())
        ]
        self._typed = [_Choice(each.key_or_group, _first(each), overrides=True) for each in chosen]
        self._varied = [
            GroupDefault(group=f"/{each.key_or_group}", value=option, override=True)
            for each in chosen
            if isinstance(each.value(), ChoiceSweep) and isinstance(option := _first(each), str)
        ]

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self._recipes:
            loaded = self._load(config_path)
            if loaded and config_path == self._primary:
                # Hydra leaves out what a sweep varies: its own configuration is that of no job, and
                # may not have the keys that all jobs have. Let it be that of the first.
                entries = [*self._varied, *(loaded.defaults_list or [])]
                entries.sort(key=lambda entry: bool(getattr(entry, "override", False)))
                loaded = replace(loaded, defaults_list=entries)
            self._recipes[config_path] = loaded
        return self._recipes[config_path]

    def _load(self, path: str) -> ConfigResult | None:
        loaded = super().load_config(path)
        package = (loaded.header or {}).get("package") if loaded else None
        if loaded is None or (package != "_global_" and "/" in path):
            return loaded
        inner = [c.group for c in self._choices_of(path) if c.overrides and "/" in c.group]
        groups = [str(key) for key in loaded.config] + [posixpath.dirname(each) for each in inner]
        keys = flatten(OmegaConf.to_container(loaded.config))  # type: ignore[arg-type]
        groups += [key.rpartition(".")[0].replace(".", "/") for key in keys]
        for group in dict.fromkeys(filter(self.group_exists, groups)):
            within = f"{group}/"
            of_part = [each for each in inner if each.startswith(within)]
            of_part += [key for key in keys if key.startswith(f"{group.replace('/', '.')}.")]
            if not path.startswith(within) and self._is_replaced(group, path, of_part):
                loaded = _without(loaded, group, path)
        return loaded

    def _is_replaced(self, group: str, path: str, keys: Sequence[str]) -> bool:
        """Whether another option of the group is chosen than the recipe at `path` was written for.

        If the two are alike in all that the recipe sets, it goes on: `data.batch_size` is about the
        training and not about the set of images.
        """
        chosen = _option(group, self._all)
        before = _option(group, self._choices(path)) or _option(group, self._choices(self._primary))
        if chosen == before or not all(
            isinstance(option, str) and self.config_exists(f"{group}/{option}")
            for option in (chosen, before)
        ):
            return False
        one, other = (self._values_of(f"{group}/{option}") for option in (chosen, before))
        return any(one.get(key, ...) != other.get(key, ...) for key in keys)

    def _values_of(self, path: str) -> dict[str, Any]:
        """The flat keys and values of an option, and the options of its inner groups."""
        found = create_defaults_list(self.delegate, path, [], False, False)
        cfg = self._loader._compose_config_from_defaults_list(found.defaults, self.delegate)
        values: Any = OmegaConf.to_container(cfg)
        return flatten(values) | found.overrides.known_choices

    # ---- Who chooses which option ----------------------------------------------------------------

    @cached_property
    def _all(self) -> list[_Choice]:
        """The choices of all files in Hydra's order: of two that override, the first counts."""
        return [*self._with_files(self._typed), *self._choices(self._primary)]

    def _choices(self, path: str) -> Iterator[_Choice]:
        """The choices of a file and of the files that it builds on."""
        yield from self._with_files(self._choices_of(path))
        for entry in self._defaults_of(path):
            if isinstance(entry, ConfigDefault) and entry.path != "_self_":
                yield from self._choices(_full(entry.path, path))

    def _with_files(self, choices: Sequence[_Choice]) -> Iterator[_Choice]:
        yield from choices
        for choice in choices:
            for option in choice.option if isinstance(choice.option, list) else [choice.option]:
                yield from self._choices(f"{choice.group}/{option}") if option else ()

    def _choices_of(self, path: str) -> list[_Choice]:
        groups = [entry for entry in self._defaults_of(path) if isinstance(entry, GroupDefault)]
        return [_Choice(_full(e.group, path), e.value, bool(e.override)) for e in groups]

    def _defaults_of(self, path: str) -> list[Any]:
        loaded = self.delegate.load_config(path)
        return (loaded and loaded.defaults_list) or []


def _first(override: Override) -> Any:
    """The value of an override, of a sweep's the first."""
    value = override.value()
    return value.list[0] if isinstance(value, ChoiceSweep) and value.list else value


def _option(group: str, choices: Iterator[_Choice] | Sequence[_Choice]) -> Any:
    """The option of a group, None if nobody chooses one."""
    found = sorted((c for c in choices if c.group == group), key=lambda c: not c.overrides)
    return found[0].option if found else None


def _without(loaded: ConfigResult, group: str, path: str) -> ConfigResult:
    """The file without what it sets for a group."""
    kept = [
        entry
        for entry in loaded.defaults_list or []
        if not isinstance(entry, GroupDefault)
        or not entry.override
        or not _full(entry.group, path).startswith(f"{group}/")
    ]
    config = DictConfig(loaded.config)
    *outer, key = group.split("/")
    node = OmegaConf.select(config, ".".join(outer)) if outer else config
    if isinstance(node, DictConfig):
        node.pop(key, None)
    return replace(loaded, config=config, defaults_list=kept)


def _full(name: str | None, path: str) -> str:
    """The group or file that the file at `path` names, perhaps relative to its own folder."""
    return posixpath.join(posixpath.dirname(path), name or "").lstrip("/")
