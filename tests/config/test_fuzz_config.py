"""Whatever is typed behind `python run.py`, or written into a YAML file, is a configuration or one
line on standard error, with status 2 and nothing left behind.

The default form draws the same few examples each time. FUZZ_EXAMPLES=5000 in the environment draws
that many new ones for each property: `FUZZ_EXAMPLES=5000 pytest tests/test_fuzz_config.py`.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lenet.config.record import flatten
from tests.config.command_server import Answer, Commands
from tests.conftest import CONF, ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs fork, pidfd and /proc")

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", 0))
ANYTHING = settings(
    max_examples=EXAMPLES or 8,
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
    """Holds an answer to what is promised; of `words` a refusal must name one."""
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
    return (ROOT / "tests" / "config" / "nasty" / f"{name}.txt").read_text().splitlines()


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
def defaults() -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config"))


@cache
def real_keys() -> list[str]:
    flat = flatten(defaults())
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
    kind = draw(
        st.sampled_from(["key", "key", "key", "strange", "group", "real", "real", "garbage"])
    )
    if kind == "real":  # so that more than the first fault is reached
        key, value = draw(st.sampled_from(sorted(flatten(defaults()).items())))
        return f"{key}={'null' if value is None else value}"
    sign = draw(st.sampled_from([*[""] * 8, "+", "+", "++", "++", "~", "~", "+++", "-", "!"]))
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


# Each was a traceback, a usage text, a warning, a false explanation, a folder left behind, a run
# begun, or a machine out of memory.
REFUSED = {
    "--epochs=3": "--epochs=3: no such flag; did you mean epochs=3?",
    "-model=lenet5": "-model=lenet5: no such flag; did you mean model=lenet5?",
    "--multi-run epochs=1,2": "--multi-run: no such flag; did you mean --multirun?",
    "seed=0 -m epochs=1,2": "epochs=1,2: stands behind a flag; write -m first, say, or last",
    "--cfg tree": "argument --cfg/-c: invalid choice: 'tree'",
    "--cfg job -p nope": "--package=nope: package 'nope' not found in config",
    "--experimental-rerun x.pickle": "--experimental-rerun: not offered",
    "-m hydra.mode=RUN": "Running Hydra app with --multirun, overriding with `hydra.mode=MULTIRUN`",
    "-cp nope": "Primary config module 'nope' not found",
    "note='": "note=': is no KEY=VALUE (it can't be read from ' on",
    "epochs=}": "epochs=}: is no KEY=VALUE (extraneous input '}')",
    "optimizer.lr=-1 hydra.run.dir=there": "optimizer.lr=-1: should be greater than 0",
    "epochs=0 hydra.output_subdir=there": "epochs=0: should be greater than or equal to 1",
    "epochs=0 hydra/job_logging=default": "epochs=0: should be greater than or equal to 1",
    "-m epochs=0": "epochs=0: should be greater than or equal to 1",
    "-m epochs=1,0": "epochs=0: should be greater than or equal to 1",
    "-m optimizer=sgd,nope": "optimizer=nope: no such option; expected one of adam,",
    "-m seed=range(1000000000)": "seed=range(1000000000): more than 10,000 runs",
    "-m seed=range(0,1,1e-9)": "seed=range(0,1,1e-9): more than 10,000 runs",
    "-m seed=range(200) epochs=range(1,200)": "epochs=range(1,200): more than 10,000 runs",
    "-m seed=range(0,1,0)": "seed=range(0,1,0): expected a step that leads on",
    "-m seed=interval(0,1)": "seed=interval(0,1): an interval has no list of values",
    "-m optimizer=glob(x*)": "optimizer=glob(x*): no value to sweep over",
    "-m hydra.sweeper.max_batch_size=0": "hydra.sweeper.max_batch_size=0: should be 1 or more",
    "-m +hydra.sweeper.params.epochs=0": "epochs=0: should be greater",
    "-m hydra.launcher._target_=os.system": "-m hydra.launcher._target_=os.system: Inv",
    "hydra.verbose=5": "hydra.verbose=5: AssertionError: assert isinstance(verbose_config,",
    "hydra.job.env_copy=[NOPE]": "hydra.job.env_copy=[NOPE]: KeyError: 'NOPE'",
    "hydra.searchpath=[nope]": "provider=hydra.searchpath in command-line, path=nope",
    "hydra.searchpath=[http://x]": "hydra.searchpath=[http://x]: No config source registered",
    "+hydra.callbacks.x._target_=builtins.print": "+hydra.callbacks.x._target_=builtins.print: C",
    "hydra.run.dir=null": "hydra.run.dir: field 'hydra.run.dir' is not Optional",
    "hydra/launcher=nope": "hydra/launcher=nope: no such option; expected one of basic",
    "experiment={a:1}": "experiment: is a group; expected the name of one of its options",
    "experiment=[one_batch]": "experiment=one_batch: no such option; expected one of "
    + ", ".join(sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))),
    "optimizer=5": "optimizer=5: Config group override must be a string or a list",
    f"note={'a' * 20_000}": f"note={'a' * 35} ... {'a' * 20}: has more than 10,000 characters",
    f"epochs={'a' * 9_000}": f"epochs={'a' * 40} ... {'a' * 20}: should be a valid integer",
    f"note={'[' * 900}{']' * 900}": f"note={'[' * 35} ... {']' * 20}: refers to itself, or is",
}


@pytest.mark.parametrize(("line", "said"), REFUSED.items(), ids=[line[:50] for line in REFUSED])
def test_a_command_line_that_cannot_be_run_leaves_one_line(commands, line, said):
    answer = commands.answer(*line.split(" "))
    accept(answer, [said])


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


REFUSED_FILES = {
    "a bomb": (BOMB, "with its aliases written out it may have up to 10,000 values"),
    "a cycle": ("note: &a [*a]", "with its aliases written out it may have up to 10,000 values"),
    "too large": ("note: " + "a" * 70_000, "a configuration may have up to 65,536 bytes"),
    "deep": ("note: " + "[" * 500 + "]" * 500, "nested too deeply"),
    "UTF-16": ("seed: 1".encode("utf-16"), "expected UTF-8 text"),
    "binary": (bytes(range(256)), "expected UTF-8 text"),
    "NUL": ("seed: 1\0", "unacceptable character #x0000"),
    "a tab": ("\tseed: 1", ", line 1: while scanning for the next token, found character '\\t'"),
    "twice": (
        "seed: 1\nseed: 2",
        ", line 2: while constructing a mapping, found duplicate key seed",
    ),
    "two": ("seed: 1\n---\nseed: 2", ", line 2: expected a single document in the stream"),
    "a number": ("5", "Invalid loaded object type: int"),
    "a date": ("note: !!timestamp 2020-01-01", "Value 'date' is not a supported primitive type"),
    "a header": ("# @package a b", "Too many components in '@package a b'"),
    "digits": (f"seed: {'9' * 5000}", "Exceeds the limit (4300 digits)"),
}


@pytest.mark.parametrize(("content", "said"), REFUSED_FILES.values(), ids=list(REFUSED_FILES))
def test_a_file_that_cannot_be_read_is_named(commands, tmp_path, content, said):
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    answer = commands.answer("-cd", str(tmp_path), "-cn", "fuzz")
    accept(answer, [f"{path}{said}" if said.startswith(",") else f"{path}: {said}"])


@pytest.mark.parametrize("content", ["", "seed: 1", "hydra: {run: {dir: there}}\nepochs: 0"])
def test_a_main_file_of_ones_own_is_checked_before_a_folder_is_made(commands, tmp_path, content):
    (tmp_path / "fuzz.yaml").write_text(content)
    accept(commands.answer("-cd", str(tmp_path), "-cn", "fuzz"), ["expected one of its options"])


def test_a_folder_a_loop_and_a_pipe_are_no_files(commands, tmp_path):
    (tmp_path / "fuzz.yaml").mkdir()
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("fuzz", "loop", "pipe"):
        answer = commands.answer("-cd", str(tmp_path), "-cn", name)
        accept(answer, [f"--config-name={name}: no such file in "])


def test_what_hydra_offers_besides_a_run_still_works(commands):
    for line in ("--help", "--hydra-help", "--version", "--cfg job --resolve", "--info searchpath"):
        answer = commands.answer(*line.split(" "))
        accept(answer, [])
        assert answer.out
    named = "tracking.run_name=run-${seed}-${hydra:job.num}"
    numbered = commands.answer("-m", named, "seed=1,2", "sweep.dry=true")
    assert (numbered.status, numbered.err) == (0, "")
    momentum = commands.answer("-cd", str(ROOT / "sweeps"), "-cn", "momentum", "sweep.dry=true")
    assert (momentum.status, momentum.err) == (0, "")


def test_composing_that_never_ends_is_ended():
    code = "import lenet.config.bounds as b; b.SECONDS = 0.2; b.watch()\nwhile True: pass"
    done = subprocess.run(
        [sys.executable, "-c", code, "epochs=3"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: epochs=3: takes more than 0 s or 2 GB to compose")


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
