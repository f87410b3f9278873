"""What to type instead of what was typed after `python run.py`."""

import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from lenet.config.errors import clip
from lenet.config.labs import sweep_files


def instead_of_flag(flag: str, arguments: Sequence[str], conf_folder: Path) -> str:
    """`--epochs 3` -> epochs=3."""
    if not flag.startswith("-"):
        return (
            f"{clip(flag)}: comes after a flag; write flags first: python run.py -m KEY=VALUE ..."
        )
    word, _, value = flag.lstrip("-").replace("-", "_").partition("=")
    value = value or _after(flag, arguments)
    if meant := keys_like(word, _defaults(conf_folder)):
        return f"{clip(flag)}: no such flag; write {any_of(f'{name}={value}' for name in meant)}"
    return f"{clip(flag)}: no such flag; values are KEY=VALUE, as in optimizer.lr=0.05"


def no_key_and_value(word: str, conf_folder: Path) -> str:
    """`optimizer.lr 0.1` -> optimizer.lr=0.1."""
    if "=" in word:
        return (
            f"{clip(word)}: cannot be read; a value with special characters needs quotes of its "
            "own, as in 'note=\"a (b)\"'"
        )
    value = _after(word, sys.argv[1:])
    name = word.rpartition(".")[2]
    meant = [key for key in keys_like(name, _defaults(conf_folder)) if key.endswith(word)]
    if value != "..." and meant:
        return f"{word} {clip(value)}: write {any_of(f'{key}={clip(value)}' for key in meant)}"
    if meant:
        return f"{word}: expected a value, as in {meant[0]}=..."
    return (
        f"{clip(word) or repr('')}: expected KEY=VALUE, as in epochs=3; `python run.py` alone "
        "trains, and `python -m lenet` lists the other commands"
    )


def wrong_file(name: str) -> str:
    """`-cn momentum` -> -cd sweeps -cn momentum."""
    there = [path.stem for path in sweep_files()]
    if name in there:
        return f"-cn {name}: a sweep is in another folder: python run.py -cd sweeps -cn {name}"
    return f"-cn {clip(name)}: no such file; -cd sweeps has {', '.join(there)}"


def _defaults(conf_folder: Path) -> DictConfig:
    with hydra.initialize_config_dir(str(conf_folder), version_base="1.3"):
        return hydra.compose("config")


def keys_like(word: str, config: DictConfig) -> list[str]:
    """The keys that end in this word, or in one like it: lr -> optimizer.lr, activation ->
    model/activation.
    """
    places: dict[str, list[str]] = {}
    for path in _paths(OmegaConf.to_container(config, resolve=False)):
        places.setdefault(re.split("[./]", path)[-1], []).append(path)
    close = [word] if word in places else difflib.get_close_matches(word, places, n=1)
    found = places[close[0]] if close else []
    return [path for path in found if path == close[0]] or found


def _paths(config: Any, prefix: str = "") -> Iterator[str]:
    for key, value in config.items():
        if key.startswith("_") or key in ("hydra", "job"):
            continue
        is_group = isinstance(value, dict) and "_target_" in value
        yield (prefix.replace(".", "/") if is_group else prefix) + key
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{key}.")


def _after(word: str, arguments: Sequence[str]) -> str:
    """The value that comes after a word of the command line, or ... where there is none."""
    following = arguments[arguments.index(word) + 1 :][:1] if word in arguments else []
    return following[0] if following and not re.search("^-|=", following[0]) else "..."


def argument_of(key: str) -> str:
    """The word of the command line that sets a key."""
    found = [each for each in sys.argv[1:] if each.lstrip("+").startswith(key) or each[:1] == key]
    return found[0] if found else key


def any_of(texts: Iterable[str]) -> str:
    return clip(" or ".join(texts), 200)
