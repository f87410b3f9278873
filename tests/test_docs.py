"""What README, docs/ and examples/ print is true: commands run, output is as printed, links lead
somewhere.

A page is Markdown with fenced blocks. `bash` and `console` blocks are commands, the latter with the
output that they must print; `python` blocks run in one namespace a page. A comment above a block
may say more:

    <!-- slow -->               runs with `pytest -m slow` only
    <!-- slow; makes FILE -->   the same, and these files must be there afterwards
    <!-- not run: why -->       only the arguments of its commands are checked
    <!-- file PATH -->          is the text of this file of the checkout, if there is one

Blocks run in order, in a folder that looks like the checkout, without a network: `data=auto` is the
digits.
"""

import argparse
import configparser
import contextlib
import functools
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from lenet import __main__ as door
from lenet.config.check import check
from lenet.sweep.plugins import register
from tests import test_architecture
from tests.conftest import CONF, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "examples/lab/README.md"]
FENCE = re.compile(r"(?:^<!-- ([^>]+) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER_OR_SPACE = re.compile(r"[0-9a-f]{32}|\d[\d,.]*(?:e[-+]?\d+)?|\s+|\.\.\.$")
each_page = pytest.mark.parametrize(
    "page", PAGES, ids=[path.relative_to(ROOT).as_posix() for path in PAGES]
)


@dataclass(frozen=True)
class Block:
    note: str
    language: str
    text: str

    @property
    def is_run(self) -> bool:
        commands = self.language in ("bash", "console", "python")
        return commands and not self.note.startswith("not run: ")

    @property
    def is_slow(self) -> bool:
        return self.note.startswith("slow")

    @property
    def files(self) -> list[str]:
        """The files that the block makes, by its note."""
        return self.note.partition("makes ")[2].split()

    def commands(self) -> list[tuple[str, list[str]]]:
        """Each command with the lines that it should print."""
        text = self.text.replace("\\\n", " ")
        if self.language == "bash":
            return [(line, []) for line in text.splitlines() if line]
        found: list[tuple[str, list[str]]] = []
        for line in text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
        return found


def blocks(page: Path) -> list[Block]:
    return [Block(note or "", *rest) for note, *rest in FENCE.findall(page.read_text())]


def command_words(page: Path) -> Iterator[list[str]]:
    """The words of every command on a page that should succeed, those in running text included."""
    text = page.read_text()
    lines = re.findall(r"`(python (?:run\.py|-m lenet \w+) [^`\n]+)`", FENCE.sub("", text))
    for block in blocks(page):
        if block.language in ("bash", "console"):
            lines += [line for line, output in block.commands() if expected_status(output) == 0]
    for line in lines:
        words = shlex.split(line, comments=True)
        yield list(words[next((i for i, word in enumerate(words) if "=" not in word), 0) :])


def expected_status(output: list[str]) -> int:
    return 2 if any(line.startswith("error: ") for line in output) else 0


# ---- Every command could be typed ----------------------------------------------------------------


@each_page
def test_the_configuration_of_every_run_composes(page, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "lab")
    monkeypatch.chdir(ROOT)
    register()
    for words in command_words(page):
        if words[:2] == ["python", "run.py"] and not {"--help", "-sc"} & {*words}:
            compose_as_run_py_would(*words[2:])


@functools.cache
def compose_as_run_py_would(*words: str) -> None:
    """Composes and checks a command line of run.py; of several values it takes the first."""
    parser = argparse.ArgumentParser()
    for option in ("-cd", "-cn", "--cfg", "-p"):
        parser.add_argument(option)
    parser.add_argument("-m", action="store_true")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_intermixed_args(words)
    overrides = [one_value(text) for text in options.overrides]
    folder, other = CONF, options.cd and ROOT / options.cd
    if options.cn:
        folder, other = other, CONF
    if other:
        overrides.append(f"hydra.searchpath=[file://{other}]")
    with initialize_config_dir(str(folder), version_base="1.3"):
        check(compose(options.cn or "config", overrides=overrides))


def one_value(text: str) -> str:
    (override,) = OverridesParser.create().parse_overrides([text])
    if not override.is_sweep_override():
        return text
    if override.is_interval_sweep():
        return f"{override.get_key_element()}={override.value().start}"
    return f"{override.get_key_element()}={next(override.sweep_string_iterator())}"


class Parsed(BaseException):
    """The arguments of a command were accepted."""


@each_page
def test_the_arguments_of_every_command_parse(page, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: Any, *arguments: Any, **options: Any) -> None:
        parse(self, *arguments, **options)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    for words in command_words(page):
        if words[:3] == ["python", "-m", "lenet"]:
            with pytest.raises(Parsed):
                door.main(words[3:])


# ---- Every block runs ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Scratch:
    """A folder that looks like the checkout, with a store of its own and no network."""

    folder: Path

    @property
    def env(self) -> dict[str, str]:
        ours = ("LENET_", "MLFLOW_", "HYDRA_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        nowhere = "http://127.0.0.1:9"
        return kept | {
            "HTTP_PROXY": nowhere,
            "HTTPS_PROXY": nowhere,
            "NO_PROXY": "127.0.0.1,localhost",
            "LENET_RUNS": str(self.folder / "outputs"),
            "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder / 'mlflow.db'}",
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1",  # beside other tests a second thread is none
            "PYTHONUNBUFFERED": "1",
        }

    def run_command(self, line: str, output: list[str]) -> None:
        """Runs a command; what it prints must have the lines of `output`, in this order."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=600,
        )
        assert done.returncode == expected_status(output), f"{line}\n{done.stdout}"
        printed = iter(done.stdout.splitlines())
        for expected in output:
            if expected != "...":
                pattern = re.compile(pattern_of(expected))
                found = any(pattern.fullmatch(each) for each in printed)
                assert found, f"{line}\nexpected {expected!r} in\n{done.stdout}"

    def run(self, block: Block, names: dict[str, Any]) -> None:
        if block.language == "python":
            exec(compile(block.text, "a block of the page", "exec"), names)
        else:
            for line, output in block.commands():
                self.run_command(line, output)
        for file in block.files:
            assert (self.folder / file).is_file(), file


def pattern_of(line: str) -> str:
    """A pattern of a printed line with any numbers, ids and spaces; a final `...` is any text."""
    parts, end = [], 0
    for match in NUMBER_OR_SPACE.finditer(line.rstrip()):
        parts.append(re.escape(line[end : match.start()]))
        end = match.end()
        text = match.group()
        if text == "...":
            parts.append(".*")
        elif len(text) == 32:
            parts.append("[0-9a-f]{32}")
        else:
            parts.append(r"\s*" if text.isspace() else r"\d[\d,.]*(?:e[-+]?\d+)?")
    return "".join([*parts, re.escape(line.rstrip()[end:])])


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("run.py", "conf", "sweeps", "examples", "lenet", "docs"):
        (folder / name).symlink_to(ROOT / name)
    return Scratch(folder)


@contextlib.contextmanager
def standing_in(scratch: Scratch) -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(scratch.folder)
        patch.setenv("MPLBACKEND", "agg")
        for name in ("LENET_DATA", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        yield
    torch.set_num_threads(threads)


@each_page
def test_the_quick_blocks_of_a_page_run(page, scratch):
    names: dict[str, Any] = {}
    with standing_in(scratch):
        for block in blocks(page):
            if block.is_run and not block.is_slow:
                scratch.run(block, names)


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(block.is_run and block.is_slow for block in blocks(page))],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_all_blocks_of_a_page_run(page, scratch):
    names: dict[str, Any] = {}
    with standing_in(scratch):
        for block in blocks(page):
            if block.is_run:
                scratch.run(block, names)


def test_the_notebook_runs(scratch):
    notebook = json.loads((ROOT / "examples" / "first_steps.ipynb").read_text())
    names: dict[str, Any] = {}
    with standing_in(scratch):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
    assert names["score"].accuracy > 0.85


# ---- What is said is so --------------------------------------------------------------------------


@each_page
def test_links_and_pictures_of_a_page_are_there(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if not target.startswith("https://"):
            name, _, heading = target.partition("#")
            path = page.parent / name if name else page
            assert path.exists(), target
            if heading:
                titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
                assert heading in [
                    re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles
                ]


@each_page
def test_files_of_the_checkout_that_a_page_names_are_there(page):
    folders = "conf|docs|examples|lenet|sweeps|tests"
    if page.name == "architecture.md":  # names rooms without lenet/ before them
        folders += "|" + "|".join(test_architecture.ROOMS)
    for name in re.findall(rf"`((?:{folders})/[\w/.]*)`", FENCE.sub("", page.read_text())):
        places = (ROOT, ROOT / "lenet", page.parent)
        assert "NAME" in name or any((place / name).exists() for place in places), name


@each_page
def test_a_printed_file_is_as_printed(page):
    for block in blocks(page):
        kind, _, name = block.note.partition(" ")
        if kind == "file" and (ROOT / name).exists():
            assert block.text == (ROOT / name).read_text(), name


def test_the_index_names_every_page():
    index = (ROOT / "docs" / "README.md").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"]({page.name})" in index


def test_the_readme_is_short_and_has_the_two_set_up_commands():
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= 200
    assert len([line for line in lines if line.startswith("python3 -m venv .venv && ")]) == 2


def table_rows(page: Path, heading: str) -> list[list[str]]:
    """The rows of the table that has `heading` as its first column."""
    text = page.read_text()
    (table,) = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "configuration.md"])
def test_the_groups_and_their_options_are_those_of_conf(page):
    printed = {
        row[0].strip("`"): re.findall(r"`(\w+)`", row[1]) for row in table_rows(page, "group")
    }
    there: dict[str, set[str]] = {}
    for path in CONF.glob("*/**/*.yaml"):
        there.setdefault(path.parent.relative_to(CONF).as_posix(), set()).add(path.stem)
    assert {group: set(options) for group, options in printed.items()} == there
    with initialize_config_dir(str(CONF), version_base="1.3"):
        choices = compose("config", return_hydra_config=True).hydra.runtime.choices
    for group, options in printed.items():
        assert choices[group] in (options[0], None), group


def test_the_printed_defaults_are_the_defaults():
    page = ROOT / "docs" / "configuration.md"
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config")
    for group, _, keys in table_rows(page, "group"):
        for key, value in re.findall(r"`(\w+)=([^`]+)`", keys):
            default = OmegaConf.select(cfg, f"{group.strip('`')}.{key}", throw_on_missing=True)
            assert default == yaml.safe_load(value), key
    for key, value, _ in table_rows(page, "key"):
        assert cfg[key.strip("`")] == yaml.safe_load(value.strip("`")), key


def test_the_sweeps_and_their_questions_are_those_of_the_files():
    printed = {row[0].strip("`"): row[1] for row in table_rows(ROOT / "docs/sweeps.md", "sweep")}
    files = (ROOT / "sweeps").glob("*.yaml")
    there = {path.stem: path.read_text().splitlines()[0].removeprefix("# ") for path in files}
    assert printed == there


def test_the_commands_of_the_page_are_those_of_the_package():
    printed = {row[0].strip("`") for row in table_rows(ROOT / "docs/commands.md", "command")}
    assert printed == set(door.find_commands())


@pytest.mark.parametrize("name", ["best", "fast"])
def test_an_accuracy_is_the_one_that_the_experiment_expects(name):
    expected = re.search(
        r"Expected: ([\d.]+) %.*?\(sd ([\d.]+)", (CONF / f"experiment/{name}.yaml").read_text()
    )
    assert expected
    for page in (ROOT / "README.md", ROOT / "docs" / "results.md"):
        row = next(row for row in table_rows(page, "command") if f"experiment={name}`" in row[0])
        assert (row[3], row[4]) == (f"{expected[1]} %", expected[2])


def test_the_picture_of_the_rooms_is_up_to_date():
    spec = util.spec_from_file_location("architecture", ROOT / "docs" / "architecture.py")
    assert spec
    assert spec.loader
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert [*module.ROOMS] == [*test_architecture.ROOMS[:-1], "run.py"]  # the last is __main__
    assert module.PICTURE.read_text() == module.drawing(), "run: python docs/architecture.py"


def test_the_version_is_the_same_everywhere():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changes = re.findall(r"^## \[?([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == setup["metadata"]["license"] == "MIT"
    assert citation["version"] == setup["metadata"]["version"] == changes[0]
