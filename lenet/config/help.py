"""`python run.py --help`: what can be chosen and set. Its text is the comments of conf/."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lenet.cli.screen import aligned
from lenet.config.labs import sweep_files
from lenet.config.record import as_yaml, flatten, shown

EXAMPLES = (
    ("python run.py", "train, evaluate, log one run"),
    ("python run.py optimizer.lr=0.05", "change a value"),
    ("python run.py model/activation=relu", "choose another option of a group"),
    ("python run.py optimizer=adam --help", "what an option is, and its keys"),
    ("python run.py -m optimizer.momentum=0.5,0.9", "a sweep: one run for each value"),
    ("python run.py resume=RUN_ID", "continue a run where it stopped"),
    ("python run.py --cfg job", "print the whole configuration and stop"),
    ("python -m lenet", "list the other commands: predict, demo ..."),
    ("mlflow ui", "compare the runs in a browser"),
)
_PRESETS = (  # groups whose options set keys of others
    ("experiment", "Experiments: python run.py experiment=NAME"),
    ("debug", "To find mistakes: python run.py debug=NAME"),
)
_KEY = re.compile(r"( *)(\w+):[^#]*(?:# (.*))?")
_MORE = re.compile(r" +# (.*)")  # a comment that goes on in a line of its own


def help_lines(conf_folder: Path, overrides: Sequence[str], config_dir: str | None) -> list[str]:
    """All groups and keys; or, where the overrides choose options, these options and their keys.

    Raises: what Hydra raises for overrides that make no configuration.
    """
    also = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    with initialize_config_dir(str(conf_folder), version_base="1.3"):
        cfg = compose("config", overrides=[*overrides, *also], return_hydra_config=True)
        order = [str(key) for key in cfg if key != "hydra"]
        groups = sorted(cfg.hydra.runtime.choices, key=lambda group: _place(group, order))
        choices = {group: cfg.hydra.runtime.choices[group] for group in groups}
    sources = cfg.hydra.runtime.config_sources
    folders = [Path(each.path) for each in sources if each.schema == "file"]
    own: Any = OmegaConf.to_container(OmegaConf.masked_copy(cfg, order), resolve=True)
    of_hydra = {key: OmegaConf.to_container(cfg.hydra[key]) for key in ("sweeper", "launcher")}
    values = flatten({**shown(own), "hydra": of_hydra})
    pages = _Pages(folders, choices)
    asked_for = [word.lstrip("+").partition("=")[0] for word in overrides]
    if named := [group for group in choices if group in asked_for]:
        return [line for group in named for line in pages.of_group(group, values)]
    return [*pages.of_all(values), *_of_sweeps()]


def completions(line: str) -> list[str]:
    """What the Tab key offers after a last -cd or -cn, which Hydra does not complete."""
    if re.search(r"(-cd|--config-dir)[ =]+\S*$", line):
        return ["sweeps"]
    if re.search(r"(-cn|--config-name)[ =]+\S*$", line):
        return [path.stem for path in sweep_files()]
    return []


def _place(group: str, order: Sequence[str]) -> int:
    """Groups stand in the order of the configuration, Hydra's at the end."""
    name = group.partition("/")[0]
    return order.index(name) if name in order else len(order)


def _of_sweeps() -> list[str]:
    rows = [(path.stem, next(_head(path), "")) for path in sweep_files()]
    return ["\nSweeps: python run.py -cd sweeps -cn NAME", *_table(rows)]


@dataclass(frozen=True)
class _Pages:
    """`folders` hold the files of the groups; `choices` are the chosen options, by group."""

    folders: Sequence[Path]
    choices: Mapping[str, str | None]

    def of_all(self, values: Mapping[str, Any]) -> Iterator[str]:
        yield from aligned(EXAMPLES, header=False)
        yield "\nGroups: python run.py GROUP=OPTION; the first one is chosen"
        presets = dict(_PRESETS)
        groups = [g for g in self.choices if g not in presets and self._names(g)]
        yield from _table([(group, ", ".join(self._names(group))) for group in groups])
        for group, title in _PRESETS:
            yield f"\n{title}"
            yield from _table([(name, self._sentence(group, name)) for name in self._names(group)])
        yield "\nKeys: python run.py KEY=VALUE"
        yield from self._keys(values)

    def of_group(self, group: str, values: Mapping[str, Any]) -> Iterator[str]:
        choice = self.choices[group]
        yield f"{group}={choice}"
        if path := self._file(group, choice):
            yield from (f"  {line}" for line in _head(path))
        prefix = f"{group.replace('/', '.')}."
        if keys := {key: value for key, value in values.items() if key.startswith(prefix)}:
            yield "\nKeys"
            yield from self._keys(keys)
        yield "\nAll options"
        yield from _table([(name, self._sentence(group, name)) for name in self._names(group)])

    def _names(self, group: str) -> list[str]:
        """The options of a group, the chosen one first."""
        files = [path for folder in self.folders for path in (folder / group).glob("*.yaml")]
        names = {path.stem for path in files}
        return sorted(names, key=lambda name: (name != self.choices[group], name))

    def _file(self, group: str, option: str | None) -> Path | None:
        paths = [folder / group / f"{option}.yaml" for folder in self.folders]
        return next((path for path in paths if path.is_file()), None)

    def _sentence(self, group: str, option: str) -> str:
        """The first sentence of an option's file."""
        path = self._file(group, option)
        text = " ".join(_head(path)).removeprefix("Claim:").strip() if path else ""
        return re.split(r"(?<! al)\.(?= [A-Z]| python |$)", text)[0]

    def _keys(self, values: Mapping[str, Any]) -> list[str]:
        shown_keys = {k: v for k, v in values.items() if not re.search(r"(^|\.)_|^job$", k)}
        comments = self._comments()
        return _table([(f"{k}={as_yaml(v)}", comments.get(k, "")) for k, v in shown_keys.items()])

    def _comments(self) -> dict[str, str]:
        """What each key is for. An option may leave it to the option that it is based on."""
        found: dict[str, str] = {}
        for group in self.choices:
            prefix = f"{group.replace('/', '.')}."
            for path in [self._file(group, name) for name in reversed(self._names(group))]:
                assert path
                found |= {f"{prefix}{key}": text for key, text in _key_comments(path)}
        for path in [folder / "config.yaml" for folder in self.folders]:
            found |= dict(_key_comments(path)) if path.is_file() else {}
        return found


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    return aligned(rows, indent=2, header=False) if rows else []


def _head(path: Path) -> Iterator[str]:
    """The comment at the head of a file."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            return
        if not line.startswith("# @"):
            yield line.removeprefix("#").strip()


def _key_comments(path: Path) -> Iterator[tuple[str, str]]:
    """The keys of a file, inner ones with dots, and the comment beside each."""
    outer, key, text = "", "", ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if found := _KEY.fullmatch(line):
            outer = outer if found[1] else found[2]
            key, text = f"{outer}.{found[2]}" if found[1] else found[2], found[3] or ""
        elif found := _MORE.fullmatch(line):
            text = f"{text} {found[1]}"
        if text:
            yield key, text
