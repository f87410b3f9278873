"""The commands as a shell sees them: one door, one kind of help, one answer to a mistake."""

import importlib
import os
import re
import subprocess
import sys

import pytest

from lenet.__main__ import find_commands, main
from lenet.cli import answer, check_file, check_folder
from tests.conftest import ROOT

COMMANDS = list(find_commands())


def test_the_help_lists_every_command_with_what_it_does(capsys):
    assert main([]) == main(["--help"]) == 0
    out = capsys.readouterr().out
    for command in COMMANDS:
        doc = importlib.import_module(f"lenet.commands.{command}").__doc__
        assert f"  {command:<10} {doc.splitlines()[0]}\n" in out
    assert max(map(len, out.splitlines())) <= 100


def test_an_unknown_command_is_refused_with_the_names_of_all(capsys):
    assert main(["serve"]) == 2
    assert capsys.readouterr().err == f"error: serve: expected one of {', '.join(COMMANDS)}\n"


WRONG_OPTIONS = {
    "export latest": "the following arguments are required: --onnx",
    "diff latest": "the following arguments are required: RUN_ID",
    "runs --sort": "unrecognized arguments: --sort",
    "runs -n 0": "argument -n: expected 1 to 1,000,000, got '0'",
    "demo latest --port 65536": "argument --port: expected 0 to 65,535, got '65536'",
    "demo latest --port -1": "argument --port: expected 0 to 65,535, got '-1'",
    "send --wait nan": "argument --wait: expected 0 to 1,000,000,000, got 'nan'",
    "benchmark --batches 16,0": "argument --batches: expected 1 to 4,096, got '0'",
    "benchmark --threads 9999": ", or all, got '9999'",
    "benchmark --variants fast": "expected some of eager, channels_last, compile, native, got",
    "benchmark --seconds x": "argument --seconds: expected 0.001 to 60, got 'x'",
    "data minst": "argument NAME: invalid choice: 'minst' (choose from 'auto', 'mnist',",
}


@pytest.mark.parametrize("line", WRONG_OPTIONS)
def test_a_wrong_option_is_one_line_that_says_what_is_accepted(line, capsys):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert WRONG_OPTIONS[line] in err
    assert err.endswith(f" (see python -m lenet {line.split()[0]} --help)\n")
    assert err.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    out = capsys.readouterr().out
    assert out.startswith(f"usage: python -m lenet {command} ")
    assert re.search(rf"Example: python -m lenet {command}\b", out)


def test_the_list_of_commands_needs_no_torch():
    code = "import sys; from lenet.__main__ import main; main([]); sys.exit('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).returncode == 0
    )


@pytest.mark.parametrize(
    ("line", "expected"), [("data=digits optimizer.l", "optimizer.lr="), ("model/pool", "model/po")]
)
def test_tab_completes_groups_and_keys(line, expected):
    command = [sys.executable, "run.py", "-sc", "query=bash"]
    env = os.environ | {"COMP_LINE": f"python run.py {line}"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(expected)


# ---- How a command ends --------------------------------------------------------------------------

LONG = "lambda: [print('x' * 99) for _ in range(999)] and 1"


def run_answer(work, stdout=subprocess.PIPE, **env):
    """Status and standard error of a process that does only this work."""
    code = f"import signal, sys; from lenet.cli import answer; sys.exit(answer({work}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": ""} | env,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


@pytest.fixture
def broken_pipe():
    """The writing end of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    yield writing
    os.close(writing)


@pytest.mark.parametrize("work", ["lambda: print('short') or 1", LONG], ids=["short", "long"])
def test_a_closed_pipe_ends_the_work_quietly(broken_pipe, work):
    assert run_answer(work, broken_pipe) == (141, "")


def test_a_mistake_is_printed_even_if_nobody_reads_the_output(broken_pipe):
    status, error = run_answer("lambda: print('short') or int('x')", broken_pipe)
    assert (status, error) == (2, "error: invalid literal for int() with base 10: 'x'\n")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("work", ["lambda: print('short')", LONG], ids=["short", "long"])
def test_a_full_disk_is_one_line(work):
    with open("/dev/full", "w") as full:
        assert run_answer(work, full) == (2, "error: [Errno 28] No space left on device\n")


def test_ctrl_c_is_one_word_and_status_130():
    assert run_answer("lambda: signal.raise_signal(signal.SIGINT)") == (130, "Interrupted.\n")


def test_a_character_that_the_terminal_lacks_is_replaced():
    assert run_answer("lambda: print('é░')", PYTHONIOENCODING="ascii") == (0, "")


def raising(error):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("x: expected 1, \x1b[31mgot \udcff\nor"), r"x: expected 1, \x1b[31mgot \udcff"),
        (ValueError(), "ValueError"),
        (OSError("no more"), "no more"),
        (NotADirectoryError(20, "Not a directory", "a\n/b"), r"a\n/b: Not a directory"),
    ],
)
def test_a_mistake_is_one_line_that_any_terminal_can_show(error, line, capsys):
    assert answer(raising(error)) == 2
    assert capsys.readouterr() == ("", f"error: {line}\n")


def test_the_works_status_is_kept_and_a_bug_has_a_traceback():
    assert [answer(lambda status=status: status) for status in (None, 0, 1)] == [0, 0, 1]
    with pytest.raises(RuntimeError):
        answer(raising(RuntimeError("a bug")))


# ---- All commands --------------------------------------------------------------------------------

OF_A_RUN = {  # the arguments of each command that works on a run
    "predict": ["RUN", "seven.png"],
    "evaluate": ["RUN"],
    "export": ["RUN", "--onnx", "net.onnx"],
    "explain": ["RUN"],
    "diff": ["RUN", "RUN"],
    "report": ["RUN"],
    "demo": ["RUN", "--port", "0"],
}


def check_refusal(command, run, uri, expected, root, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("ROOT", str(root)))
    before = sorted(root.rglob("*"))
    assert main([command, *(run if word == "RUN" else word for word in OF_A_RUN[command])]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert expected in err
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    assert list(tmp_path.iterdir()) == []
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("command", OF_A_RUN)
def test_each_command_refuses_an_unknown_run_in_one_line(
    command, empty_store, monkeypatch, capsys, tmp_path
):
    expected = "f" * 32 + ": no such run"
    uri = "sqlite:///ROOT/mlflow.db"
    root = empty_store.parent
    check_refusal(*(command, "f" * 32, uri, expected, root), monkeypatch, capsys, tmp_path)


@pytest.mark.parametrize(
    ("uri", "run", "expected"),
    [
        ("sqlite:///ROOT/mlflow.db", "ffff", "ffff: no run"),
        ("sqlite:///ROOT/mlflow.db", "abc", "abc: expected a run's id"),
        ("sqlite:///ROOT/mlflow.db", "", "'': expected a run's id"),
        ("sqlite:///ROOT/mlflow.db", "a\n\x1b[31m", r"'a\n\x1b[31m': expected a run's id"),
        ("sqlite:///ROOT/none/mlflow.db", "f" * 32, "/none/mlflow.db: no such database"),
        ("sqlite:///ROOT/none/mlflow.db", "latest", "/none/mlflow.db: no such database"),
        ("http://127.0.0.1:9", "f" * 32, "127.0.0.1:9: cannot be used (connection refused)"),
        ("ROOT", "latest", "cannot be used (expected sqlite:///FILE or http://HOST:PORT)"),
    ],
)
def test_a_run_that_cannot_be_read_is_one_line(
    uri, run, expected, empty_store, monkeypatch, capsys, tmp_path
):
    root = empty_store.parent
    check_refusal("evaluate", run, uri, expected, root, monkeypatch, capsys, tmp_path)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (["evaluate", "0" * 32, "--output"], "folder"),
        (["report", "0" * 32, "--output"], "folder"),
        (["benchmark", "--output"], "folder"),
        (["export", "0" * 32, "--onnx"], "file"),
        (["explain", "0" * 32, "--output"], "file"),
    ],
    ids=["evaluate", "report", "benchmark", "export", "explain"],
)
def test_an_output_that_cannot_be_written_is_refused_before_the_work(
    command, kind, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # the work would fail otherwise
    (tmp_path / "file").write_text("mine")
    assert main([*command, str(tmp_path / "file" / "x")]) == 2
    expected = f"error: {tmp_path / 'file' / 'x'}: expected a {kind} to write to, found "
    assert capsys.readouterr().err.startswith(expected)
    assert main([*command, ""]) == 2
    assert "expected a path, got ''" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_place_to_write_to_is_checked_and_nothing_is_created(tmp_path):
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    for check, wrong in (
        (check_folder, {"file/x": "the file", "file": "the file", "pipe": "the file"}),
        (check_file, {"file/x": "no folder", "no/x": "no folder", "": "a folder", "pipe": "a dev"}),
    ):
        for place, found in wrong.items():
            with pytest.raises(ValueError, match=f"to write to, found {found}"):
                check(tmp_path / place)
    check_folder(tmp_path / "new" / "folder")
    check_file(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe"]


def test_a_closed_pipe_ends_a_command_quietly(broken_pipe, monkeypatch, capsys):
    with open(os.dup(broken_pipe), "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["data", "digits"]) == 141
    assert capsys.readouterr().err == ""
