"""The commands as a shell sees them: all listed, all with an example, completed by Tab, and of one
voice where something is wrong.
"""

import importlib
import os
import re
import subprocess
import sys

import pytest
from PIL import Image

from lenet.__main__ import COMMANDS
from lenet.cli import answer
from lenet.model.lenet5 import LeNet5
from lenet.tracking import store
from lenet.tutorial import save_model
from tests.conftest import ROOT


def python(*arguments, **env):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_lists_every_command():
    out = python("-m", "lenet")
    assert all(f"python -m lenet {command} " in out for command in COMMANDS)


def test_an_unknown_command_is_told_the_known_ones():
    done = subprocess.run(
        [sys.executable, "-m", "lenet", "serve"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: serve: expected one of data, predict")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_has_help_with_an_example(command):
    out = python("-m", "lenet", command, "--help")
    assert out.startswith(f"usage: python -m lenet {command} ")
    assert re.search(rf"Example: python -m lenet {command}\b", out)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("optimizer=", "optimizer=adam optimizer=adamw optimizer=rmsprop optimizer=sdlm"),
        ("data=digits optimizer.l", "optimizer.lr="),
        ("model/pool", "model/pooling="),
        ("experiment=be", "experiment=best"),
    ],
)
def test_tab_completes_groups_options_and_keys(line, expected):
    out = python("run.py", "-sc", "query=bash", COMP_LINE=f"python run.py {line}")
    assert out.startswith(expected)


# ---- How they end ----------------------------------------------------------------------------

ANSWER = "import os, signal, sys; from lenet.cli import answer; sys.exit(answer({}))"
EVERY = "lambda: [print('x' * 99) for _ in range(999)] and 1"


def answered(work, stdout=subprocess.PIPE, **env):
    """Status and standard error of a process that does no more than the work."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"} | env
    done = subprocess.run(
        [sys.executable, "-c", ANSWER.format(work)],
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=env,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.fixture
def broken():
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("work", ["lambda: print('short') or 1", EVERY], ids=["short", "long"])
def test_output_that_nobody_reads_ends_quietly(broken, work, unbuffered):
    assert answered(work, broken, PYTHONUNBUFFERED=unbuffered) == (141, "")


def test_a_mistake_is_told_even_where_nobody_reads_the_output(broken):
    assert answered("lambda: print('short') or int('x')", broken) == (
        *(2, "error: invalid literal for int() with base 10: 'x'\n"),
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("work", ["lambda: print('short')", EVERY], ids=["short", "long"])
def test_output_that_finds_no_room_is_one_line(work):
    with open("/dev/full", "w") as full:
        assert answered(work, full) == (2, "error: [Errno 28] No space left on device\n")


def test_ctrl_c_is_a_word_and_its_status():
    assert answered("lambda: signal.raise_signal(signal.SIGINT)") == (130, "Interrupted.\n")


def test_a_name_that_the_terminal_lacks_is_shown_as_it_can():
    assert answered("lambda: print('é░')", PYTHONIOENCODING="ascii") == (0, "")


def raising(error):
    def work(*args, **kwargs):
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("x: expected\n1, \x1b[31mgot \udcff"), r"x: expected\n1, \x1b[31mgot \udcff"),
        (ValueError(), "ValueError"),
        (OSError("no more"), "no more"),
        (NotADirectoryError(20, "Not a directory", "a\n/b"), r"a\n/b: Not a directory"),
    ],
)
def test_a_mistake_is_one_line_that_any_terminal_shows(error, line, capsys):
    assert answer(raising(error)) == 2
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_the_works_own_status_is_the_commands_and_a_bug_keeps_its_traceback():
    assert [answer(lambda status=status: status) for status in (None, 0, 1)] == [0, 0, 1]
    with pytest.raises(RuntimeError):
        answer(raising(RuntimeError("a bug")))


# ---- All of them with one voice --------------------------------------------------------------

TINY = ["--batches", "16", "--threads", "1", "--variants", "eager", "--no-startup"]
OF_A_RUN = [  # the module that has the main, and what is given with a run
    ("predict", ["RUN", "seven.png"]),
    ("robustness", ["RUN"]),
    ("export", ["RUN", "--onnx", "net.onnx"]),
    ("explain", ["RUN"]),
    ("diff", ["RUN", "latest"]),
    ("report", ["RUN"]),
    ("demo.__main__", ["RUN", "--port", "0"]),
]
OTHERS = [
    ("data", ["digits"], "load"),
    ("send", [], "left"),
    ("benchmark.__main__", TINY, "run"),
]


def main_of(name):
    return importlib.import_module(f"lenet.{name}").main


def test_no_command_is_left_out_here():
    names = {name.removesuffix(".__main__") for name, *_ in (*OF_A_RUN, *OTHERS)}
    assert {f"lenet.{'evaluate' if n == 'robustness' else n}" for n in names} == set(MODULES)


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    root = tmp_path_factory.mktemp("stores")
    store.connect(f"sqlite:///{root}/mlflow.db")
    return root


@pytest.mark.parametrize(("name", "arguments"), OF_A_RUN, ids=[name for name, _ in OF_A_RUN])
@pytest.mark.parametrize(
    ("uri", "run", "said"),
    [
        ("sqlite:///ROOT/mlflow.db", "f" * 32, "f" * 32 + ": no such run (Run with id="),
        ("sqlite:///ROOT/mlflow.db", "ffff", "ffff: no run's id begins so in sqlite:///"),
        ("sqlite:///ROOT/mlflow.db", "abc", "abc: expected a run's id, 32 hexadecimal digits or"),
        ("sqlite:///ROOT/mlflow.db", "", "'': expected a run's id"),
        ("sqlite:///ROOT/mlflow.db", "a\n\x1b[31m", r"'a\n\x1b[31m': expected a run's id"),
        ("sqlite:///ROOT/mlflow.db", "\udcff", r"'\udcff': expected a run's id"),
        ("sqlite:///ROOT/none/mlflow.db", "f" * 32, "/none/mlflow.db: no such database"),
        ("sqlite:///ROOT/none/mlflow.db", "latest", "/none/mlflow.db: no such database"),
        ("http://127.0.0.1:9", "f" * 32, "127.0.0.1:9: cannot be used (connection refused)"),
        ("http://127.0.0.1:9", "latest", "127.0.0.1:9: cannot be used (connection refused)"),
        ("ROOT", "latest", "cannot be used (expected sqlite:///FILE or http://HOST:PORT)"),
    ],
)
def test_a_run_that_cannot_be_had_is_one_line_and_leaves_nothing(
    stores, tmp_path, monkeypatch, capsys, name, arguments, uri, run, said
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("ROOT", str(stores)))
    before = sorted(stores.rglob("*"))
    assert main_of(name)([run if each == "RUN" else each for each in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    assert list(tmp_path.iterdir()) == []
    assert sorted(stores.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "arguments", "kind"),
    [
        ("robustness", ["0" * 32, "--output"], "folder"),
        ("report", ["0" * 32, "--output"], "folder"),
        ("benchmark.__main__", [*TINY, "--output"], "folder"),
        ("export", ["0" * 32, "--onnx"], "file"),
        ("explain", ["0" * 32, "--output"], "file"),
    ],
)
def test_where_nothing_can_be_written_is_told_before_the_work(
    tmp_path, monkeypatch, capsys, name, arguments, kind
):
    monkeypatch.setattr(store, "connect", raising(AssertionError("the work began")))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    wrong = {"file/x": "the file", "file": "the file", "pipe": "the file"}
    if kind == "file":
        wrong = {"file/x": "no folder", "no/x": "no folder", "folder": "a folder", "pipe": "a dev"}
    for place, found in wrong.items():
        assert main_of(name)([*arguments, str(tmp_path / place)]) == 2
        expected = f"error: {tmp_path / place}: expected a {kind} to write to, found {found}"
        assert capsys.readouterr().err.startswith(expected)
    with pytest.raises(SystemExit, match="2"):
        main_of(name)([*arguments, ""])
    assert "expected a path, got ''" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "pipe"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "arguments", "where"),
    [*((name, arguments, None) for name, arguments in OF_A_RUN), *OTHERS],
    ids=[name for name, *_ in (*OF_A_RUN, *OTHERS)],
)
@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "Interrupted"),
        (BrokenPipeError(32, "Broken pipe"), 141, ""),
        (OSError(28, "No space left on device"), 2, "error: [Errno 28] No space left on device\n"),
    ],
)
def test_every_command_ends_as_the_shell_expects(
    tmp_path, monkeypatch, capsys, name, arguments, where, error, status, said
):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(f"lenet.{name}")
    monkeypatch.setattr(*((module, where) if where else (store, "connect")), raising(error))
    if name == "demo.__main__" and status == 130:  # for which it's the way to end
        status, said = 0, ""
    assert module.main(["latest" if each == "RUN" else each for each in arguments]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(said)
    assert err.count("\n") == (said != "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["data", "send", "predict"])
def test_a_commands_output_that_nobody_reads_ends_it_quietly(
    broken, tmp_path, monkeypatch, capsys, name
):
    save_model(LeNet5(), tmp_path / "net.pth")
    Image.new("L", (28, 28), 255).save(tmp_path / "blank.png")
    drawn = Image.new("L", (28, 28), 255)
    drawn.paste(0, (12, 5, 16, 23))
    drawn.save(tmp_path / "one.png")
    arguments = {
        "data": ["digits"],
        "send": ["--folder", str(tmp_path)],
        "predict": [str(tmp_path / each) for each in ("net.pth", "blank.png", "one.png")],
    }[name]
    with open(os.dup(broken), "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main_of(name)(arguments) == 141
    assert capsys.readouterr().err.count("error: ") == (name == "predict")  # a blank picture
