"""Whatever is typed behind `python run.py`, or written into a YAML file, is a configuration or one
line on standard error, with status 2 and nothing left behind.

The default form draws the same few examples each time. FUZZ_EXAMPLES=5000 in the environment draws
that many new ones for each property: `FUZZ_EXAMPLES=5000 pytest tests/test_fuzz_config.py`.
"""

import os
import re
import shlex
import shutil
import sys
from functools import cache

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lenet.config import flatten
from tests.command import Answer, Commands
from tests.conftest import CONF, ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, pidfd and /proc")

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 0))
ANYTHING = settings(
    max_examples=EXAMPLES or 16,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def commands():
    with Commands() as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("given")


def accept(answer: Answer, words: list[str]) -> None:
    """Holds an answer to what is promised; `words` are those of which a refusal must name one."""
    assert isinstance(answer.status, int), answer  # neither killed nor hung
    assert "Traceback" not in answer.out + answer.err, answer
    assert answer.megabytes < 2500, answer
    if answer.status == 0:
        assert answer.err == "", answer
        return
    assert answer.status == 2, answer
    assert answer.left == [], answer
    line = answer.err.removesuffix("\n")
    assert line.startswith("error: "), answer
    assert line.isprintable(), answer
    assert len(line) < 600, answer
    said = line.removeprefix("error: ")
    assert any(word and word in said for word in words), answer
    assert re.search(r"[A-Za-z]{3}", said), answer


# ---- What may be typed -----------------------------------------------------------------------


def entries(name: str) -> list[str]:
    return (ROOT / "tests" / "nasty" / f"{name}.txt").read_text().splitlines()


VALUES = [
    *entries("values"),
    *("", " ", "10 ", "a b", "\t", "a\nb", "\x01", "\x1b[31m", "\u202e", "\udcff"),
    *("9" * 30, "-" + "9" * 30, "9" * 5000, "a" * 3000, "a" * 20_000, "1," * 2000),
    *("[" * 60 + "]" * 60, "[" * 900 + "]" * 900, "{a:" * 60 + "1" + "}" * 60),
]
TARGETS = entries("targets")
STRANGE = [*entries("keys"), "", "k" * 500]
FLAGS = [shlex.split(line.replace("SWEEPS", str(ROOT / "sweeps"))) for line in entries("flags")]
GRAMMAR = "[](){},:=$'\"\\ .+~@/*?!#&%|<>;`^-_0aé\x01\u202e🙂\udcff"


@cache
def real_keys() -> list[str]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        flat = flatten(OmegaConf.to_container(compose("config")))
    return sorted({".".join(key.split(".")[:n]) for key in flat for n in (1, 2, 3, 4)})


@cache
def groups() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        found.setdefault(path.parent.relative_to(CONF).as_posix(), []).append(path.stem)
    del found["."]
    return found


def values() -> st.SearchStrategy[str]:
    nasty = st.sampled_from(VALUES)
    inner = st.recursive(
        st.one_of(nasty.filter(lambda text: len(text) < 30), st.text(GRAMMAR, max_size=6)),
        lambda deeper: st.one_of(
            st.lists(deeper, max_size=3).map(lambda items: f"[{','.join(items)}]"),
            st.lists(deeper, max_size=2).map(lambda items: "{a:" + ",b:".join(items) + "}"),
            st.lists(deeper, min_size=1, max_size=3).map(",".join),
            st.tuples(
                st.sampled_from(["choice", "range", "sort", "glob", "str", "int"]), deeper
            ).map(lambda call: f"{call[0]}({call[1]})"),
        ),
        max_leaves=5,
    )
    return st.one_of(nasty, nasty, inner, st.text(GRAMMAR, max_size=12))


@st.composite
def overrides(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["key", "key", "key", "strange", "group", "group", "garbage"]))
    sign = draw(st.sampled_from(["", "", "", "", "+", "++", "~", "+++", "-", "!"]))
    if kind == "garbage":
        return draw(st.text(GRAMMAR, max_size=20)).lstrip("-")
    if kind == "group":
        group = draw(st.sampled_from(sorted(groups())))
        names = st.sampled_from(
            [*groups()[group], "nope", "null", f"[{','.join(groups()[group])}]"]
        )
        package = draw(st.sampled_from(["", "", "", "", "@foo", "@_global_", "@data", "@"]))
        return f"{sign}{group}{package}={draw(st.one_of(names, names, values()))}"
    key = draw(st.sampled_from(real_keys() if kind == "key" else STRANGE))
    if key.endswith("_target_"):
        return f"{sign}{key}={draw(st.one_of(st.sampled_from(TARGETS), values()))}"
    equals = draw(st.sampled_from(["=", "=", "=", "=", "=", "=", "", "==", " = "]))
    return f"{sign}{key}{equals}{draw(values()) if equals else ''}"


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    typed = draw(st.lists(overrides(), min_size=1, max_size=3))
    flags = draw(st.one_of(st.just([]), st.just([]), st.just(["-m"]), st.sampled_from(FLAGS)))
    line = [*flags, *typed] if draw(st.booleans()) else [*typed, *flags]
    return [argument.replace("\0", "") for argument in line]


def words_of(arguments: list[str]) -> list[str]:
    """What of a command a message can name: an argument, its key, its value, as they are shown."""
    found = []
    for argument in arguments:
        for part in (argument, *argument.lstrip("+~-").partition("=")):
            shown = part if part.isprintable() else ascii(part)[1:-1]
            found += [shown, shown[:40], *re.findall(r"\w+", shown[:60])]
    return [word for word in found if word.strip("=")] + ["''"]


@ANYTHING
@given(command_lines())
def test_any_command_line_is_a_configuration_or_one_line(commands, arguments):
    accept(commands.answer(*arguments), words_of(arguments) + real_keys())


# ---- What may be written into a file ---------------------------------------------------------

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
MAIN = "defaults: [config, _self_]\n"
LINES = [
    *entries("lines"),
    *("? [a]\n: 1", "tags: &a {x: 1}\nnote: *a", "note: |\n  a\n  b", "\tepochs: 3", BOMB),
    *("note: " + "[" * 2000 + "]" * 2000, "tags: " + "{a: " * 90 + "1" + "}" * 90),
    *("note: " + "a" * 70_000, "note: '" + "a" * 9000 + "'"),
]


EDITS = ["drop", "double", "swap", "indent", "value", "cut", "insert"]


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A file of conf or sweeps with faults in it, one of nasty lines, or any bytes at all."""
    kind = draw(st.sampled_from(["real", "real", "real", "lines", "lines", "tree", "bytes"]))
    if kind == "bytes":
        start = draw(
            st.sampled_from([b"", MAIN.encode(), b"\xff\xfe", b"\xef\xbb\xbf" + MAIN.encode()])
        )
        return start + draw(st.binary(max_size=60))
    if kind == "tree":
        leaves = st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)
        )
        keys = st.one_of(st.sampled_from(real_keys()), st.text(max_size=4), st.integers())
        trees = st.recursive(leaves, lambda t: st.lists(t, max_size=3) | st.dictionaries(keys, t))
        return (MAIN + yaml.safe_dump(draw(st.dictionaries(keys, trees, max_size=4)))).encode()
    if kind == "lines":
        lines = draw(st.lists(st.sampled_from(LINES), min_size=1, max_size=3))
        head = draw(st.sampled_from([MAIN, MAIN, MAIN, ""]))
    else:
        real = [*CONF.rglob("*.yaml"), *(ROOT / "sweeps").glob("*.yaml")]
        lines = draw(st.sampled_from(sorted(real))).read_text().splitlines()
        head = ""
        for _ in range(draw(st.integers(1, 3))):
            at = draw(st.integers(0, len(lines) - 1))
            edit = draw(st.sampled_from(EDITS))
            if edit == "drop" and len(lines) > 1:
                del lines[at]
            elif edit == "double":
                lines.insert(at, lines[at])
            elif edit == "swap":
                lines[at], lines[-1] = lines[-1], lines[at]
            elif edit == "indent":
                lines[at] = draw(st.sampled_from([" ", "\t", "- ", "? ", "&a "])) + lines[at]
            elif edit == "value":
                lines[at] = lines[at].partition(":")[0] + ": " + draw(values())
            elif edit == "cut":
                lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
            else:
                lines.insert(at, draw(st.sampled_from(LINES)))
    return (head + "\n".join(lines)).encode("utf-8", "surrogateescape")


@ANYTHING
@given(
    files(), st.sampled_from(["main", "main", *sorted(groups())]), st.lists(overrides(), max_size=1)
)
def test_any_file_is_a_configuration_or_one_line(commands, folder, content, place, typed):
    shutil.rmtree(folder)
    path = folder / "fuzz.yaml" if place == "main" else folder / place / "fuzz.yaml"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    chosen = ["-cn", "fuzz"] if place == "main" else [f"{place}=fuzz"]
    arguments = ["-cd", str(folder), *chosen, *(text for text in typed if text[:1] != "-")]
    words = [str(path), *re.findall(r"\w+", content.decode(errors="replace"))]
    accept(commands.answer(*arguments), words_of(arguments) + real_keys() + words)
