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
import copy
import functools
import os
import re
import runpy
import shlex
import subprocess
import tomllib
from typing import NamedTuple

import nbformat
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.main import get_args_parser
from nbclient import NotebookClient
from omegaconf import OmegaConf

from lenet import __main__ as door
from lenet.config.check import check
from lenet.sweeps.plugins import register
from tests import test_architecture
from tests.conftest import CONF, LIMIT, ROOT

MYLAB = ROOT / "examples" / "mylab"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), MYLAB / "README.md"]
FENCE = re.compile(r"(?:^<!-- ([^>]+) -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def each_of(pages):
    return pytest.mark.parametrize(
        "page", pages, ids=[page.relative_to(ROOT).as_posix() for page in pages]
    )


each_page = each_of(PAGES)


class Block(NamedTuple):
    note: str
    language: str
    text: str


def blocks(page):
    return [Block(*found) for found in FENCE.findall(page.read_text())]


def commands(block):
    """Each command of a block, with the lines that it should print and its exit status."""
    text = block.text.replace("\\\n", " ")
    if block.language == "bash":
        return [(line, [], 0) for line in text.splitlines() if line]
    found = []
    for part in text.removeprefix("$ ").split("\n$ ") if block.language == "console" else ():
        line, *output = part.splitlines()
        found.append((line, output, 2 if "error: " in part else 0))
    return found


def command_words(page):
    """The words of every command on a page that should succeed, those in running text included."""
    lines = [line for block in blocks(page) for line, _, status in commands(block) if status == 0]
    prose = FENCE.sub("", page.read_text())
    for line in lines + re.findall(r"`(python (?:run\.py|-m lenet \w+) [^`\n]+)`", prose):
        words = shlex.split(line, comments=True)
        while "=" in words[0]:  # a variable for this command alone
            del words[0]
        yield words


# ---- Every command could be typed ----------------------------------------------------------------


@each_page
def test_the_configuration_of_every_run_composes(page, tmp_path, monkeypatch):
    for path in install_mylab(tmp_path):
        monkeypatch.syspath_prepend(path)
    monkeypatch.chdir(ROOT)
    register()
    for words in command_words(page):
        is_run = words[:2] in (["python", "run.py"], ["lenet", "run"])
        if is_run and not {"--help", "-sc"} & {*words}:
            compose_as_run_py_would(*words[2:])


def install_mylab(folder):
    """The folders that Python must search to find the example lab as it finds an installed one."""
    about = folder / "mylab-0.1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Name: mylab\nVersion: 0.1\n")
    groups = tomllib.loads((MYLAB / "pyproject.toml").read_text())["project"]["entry-points"]
    lines = [f"[{group}]\n{k} = {v}\n" for group, found in groups.items() for k, v in found.items()]
    (about / "entry_points.txt").write_text("".join(lines))
    return [str(folder), str(MYLAB)]


@functools.cache
def compose_as_run_py_would(*words):
    """Composes and checks a command line of run.py; of several values it takes the first."""
    options = get_args_parser().parse_args(words)
    overrides = [one_value(text) for text in options.overrides]
    folder, other = CONF, options.config_dir and ROOT / options.config_dir
    if options.config_name and other:
        folder, other = other, CONF
    if other:
        overrides.append(f"hydra.searchpath=[file://{other}]")
    with initialize_config_dir(str(folder), version_base="1.3"):
        check(compose(options.config_name or "config", overrides=overrides))


def one_value(text):
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
    for name in ("parse_args", "parse_intermixed_args"):
        parse = getattr(argparse.ArgumentParser, name)

        def parse_and_stop(self, arguments, parse=parse):
            parse(self, arguments)
            raise Parsed

        monkeypatch.setattr(argparse.ArgumentParser, name, parse_and_stop)
    for words in command_words(page):
        if words[:3] == ["python", "-m", "lenet"]:
            with pytest.raises(Parsed):
                door.main(words[3:])


# ---- Every block runs ----------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path, tmp_path_factory, monkeypatch):
    """A folder that looks like the checkout, to work in, with a store of its own and no network."""
    for name in ("run.py", "conf", "sweeps", "examples", "lenet", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for name in os.environ:
        if name.startswith(("LENET_", "MLFLOW_", "HYDRA_")):
            monkeypatch.delenv(name)
    nowhere = "http://127.0.0.1:9"
    variables = {
        "HTTP_PROXY": nowhere,
        "HTTPS_PROXY": nowhere,
        "NO_PROXY": "127.0.0.1,localhost",
        "LENET_RUNS": str(tmp_path / "outputs"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}",
        "MPLBACKEND": "agg",
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "1",  # beside other tests a second thread is none
        "PYTHONPATH": os.pathsep.join(install_mylab(tmp_path_factory.mktemp("site"))),
        "PYTHONUNBUFFERED": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


@each_page
def test_the_quick_blocks_of_a_page_run(page, checkout):
    run_blocks(page, checkout, ("not run: ", "slow"))


@pytest.mark.slow
@each_of([page for page in PAGES if any(block.note.startswith("slow") for block in blocks(page))])
def test_all_blocks_of_a_page_run(page, checkout):
    run_blocks(page, checkout, ("not run: ",))


def run_blocks(page, checkout, left_out):
    """Runs the blocks whose notes do not start with any of `left_out`."""
    names = {}
    for block in blocks(page):
        if block.note.startswith(left_out):
            continue
        if block.language == "python":
            exec(compile(block.text, "a block of the page", "exec"), names)
        for command in commands(block):
            run_command(*command)
        for file in block.note.partition("makes ")[2].split():
            assert (checkout / file).is_file(), file


def run_command(line, output, status):
    """Runs a command; what it prints must have the lines of `output`, in this order."""
    done = subprocess.run(
        ["bash", "-c", line],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LIMIT,
    )
    assert done.returncode == status, f"{line}\n{done.stdout}"
    printed = map(without_numbers, done.stdout.splitlines())
    for expected in map(without_numbers, output):
        start = expected.removesuffix("...")  # these stand for any text
        found = start == "" or any(
            each == expected or (each.startswith(start) and start != expected) for each in printed
        )
        assert found, f"{line}\nexpected {expected!r} in\n{done.stdout}"


def without_numbers(line):
    """A line without spaces, in which all numbers and all ids are the same."""
    line = re.sub(r"[0-9a-f]{32}", "ID", line)
    return re.sub(r"\d[\d,.]*(?:e[-+]?\d+)?", "0", "".join(line.split()))


NOTEBOOK = nbformat.read(ROOT / "examples" / "first_steps.ipynb", as_version=4)


@pytest.mark.slow
def test_the_notebook_runs_and_shows_frames_and_pictures(checkout, monkeypatch):
    monkeypatch.delenv("MPLBACKEND")  # a kernel has its own
    there = {"metadata": {"path": str(checkout)}}
    done = NotebookClient(copy.deepcopy(NOTEBOOK), timeout=LIMIT, resources=there).execute()
    outputs = [output for cell in done.cells for output in cell.get("outputs", ())]
    shown = [output.get("data", {}) for output in outputs]
    pages = [data["text/html"] for data in shown if "text/html" in data]
    assert sum("<table" in page for page in pages) == 3  # frames
    assert sum("<iframe" in page for page in pages) == 1  # the sweep's report
    assert sum("image/png" in data for data in shown) == 3
    assert any("did you mean optimizer.lr?" in output.get("text", "") for output in outputs)


def test_the_notebook_is_kept_without_outputs():
    assert not any(cell.get("outputs") for cell in NOTEBOOK.cells)


# ---- What is said is so --------------------------------------------------------------------------


@each_page
def test_links_and_pictures_of_a_page_are_there(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            plain = [re.sub(r"[^\w -]", "", title) for title in titles]
            assert heading in [title.lower().replace(" ", "-") for title in plain]


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


def table_rows(page, heading):
    """The rows of the table that has `heading` as its first column."""
    text = page.read_text()
    (table,) = re.findall(rf"^\| {heading} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()]


@pytest.fixture
def defaults():
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", return_hydra_config=True)


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "configuration.md"])
def test_the_groups_and_their_options_are_those_of_conf(page, defaults):
    rows = table_rows(page, "group")
    printed = {row[0].strip("`"): re.findall(r"`(\w+)`", row[1]) for row in rows}
    there = {group: set() for group in printed}
    for path in CONF.glob("*/**/*.yaml"):
        there[path.parent.relative_to(CONF).as_posix()].add(path.stem)
    assert {group: set(options) for group, options in printed.items()} == there
    for group, options in printed.items():
        assert defaults.hydra.runtime.choices[group] in (options[0], None), group


def test_the_printed_defaults_are_the_defaults(defaults):
    page = ROOT / "docs" / "configuration.md"
    for group, _, keys in table_rows(page, "group"):
        for key, value in re.findall(r"`(\w+)=([^`]+)`", keys):
            default = OmegaConf.select(defaults, f"{group.strip('`')}.{key}", throw_on_missing=True)
            assert default == yaml.safe_load(value), key
    for key, value, _ in table_rows(page, "key"):
        assert defaults[key.strip("`")] == yaml.safe_load(value.strip("`")), key


def test_the_sweeps_and_their_questions_are_those_of_the_files():
    printed = {row[0].strip("`"): row[1] for row in table_rows(ROOT / "docs/sweeps.md", "sweep")}
    files = (ROOT / "sweeps").glob("*.yaml")
    there = {path.stem: path.read_text().splitlines()[0].removeprefix("# ") for path in files}
    assert printed == there


def test_the_commands_of_the_page_are_those_of_the_package():
    printed = {row[0].strip("`") for row in table_rows(ROOT / "docs/commands.md", "command")}
    assert printed == set(door.find_commands())


def test_the_results_are_those_of_the_recorded_runs():
    names = runpy.run_path(str(ROOT / "docs" / "results.py"))
    for path, text in names["written"]().items():
        assert path.read_text() == text, "run: python docs/results.py"


def test_the_picture_of_the_rooms_is_up_to_date():
    names = runpy.run_path(str(ROOT / "docs" / "architecture.py"))
    assert [*names["ROOMS"]] == [*test_architecture.ROOMS[:-1], "run.py"]  # the last is __main__
    assert names["PICTURE"].read_text() == names["drawing"](), "run: python docs/architecture.py"


def test_the_version_is_the_same_everywhere():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changes = re.findall(r"^## \[?([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == setup["metadata"]["license"] == "MIT"
    assert citation["version"] == setup["metadata"]["version"] == changes[0]
