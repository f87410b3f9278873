"""The commands as a shell sees them: one door, one kind of help, one answer to a mistake."""

import importlib
import os
import pty
import re
import shutil
import subprocess
import sys

import pytest

from lenet.__main__ import find_commands, main
from lenet.cli import answer, format_duration, shortened
from lenet.tracking.provenance import code_state
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
    "export latest": "error: --onnx: missing (see",
    "runs --sort": "error: --sort: no such option (see",
    "demo latest --port 65536": "error: --port: expected 0 to 65,535, got '65536'",
    "send --wait nan": "error: --wait: expected 0 to 1,000,000,000, got 'nan'",
    "benchmark --batches 16,0": "error: --batches: expected 1 to 4,096, got '0'",
    "benchmark --variants fast": "expected some of eager, channels_last, compile, native, got",
    "data minst": "error: NAME: expected 'auto', 'mnist',",
}


@pytest.mark.parametrize("line", WRONG_OPTIONS)
def test_a_wrong_option_is_one_line_that_says_what_is_accepted(line, capsys):
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert WRONG_OPTIONS[line] in err
    assert err.count("\n") == 1
    (advice,) = re.findall(r" \(see python -m lenet (.*)\)\n$", err)
    with pytest.raises(SystemExit, match="0"):
        main(advice.split())
    assert capsys.readouterr().out.startswith(f"usage: python -m lenet {line.split()[0]} ")


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"run"}))  # its help is run.py's
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
    ("line", "expected"),
    [
        ("data=digits optimizer.l", "optimizer.lr="),
        ("model/pool", "model/po"),
        ("-cd sw", "sweeps"),
        ("-cd sweeps -cn mom", "activation batch_size best learning_rate lecun1998 "),
    ],
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
    code = f"import sys; from lenet.cli import answer, start; start(); sys.exit(answer({work}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": ""} | env,
        encoding="utf-8",
        errors="replace",
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


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("work", ["lambda: print('short')", LONG], ids=["short", "long"])
def test_a_full_disk_is_one_line(work):
    with open("/dev/full", "w") as full:
        assert run_answer(work, full) == (2, "error: [Errno 28] No space left on device\n")


CALLBACK = """
import gc
from lenet.cli import start
start()
gc.callbacks.append(lambda *_: signal.raise_signal(signal.SIGINT))  # Python drops its exceptions
gc.collect()
"""
MODULE_IN_C = """
import builtins
from lenet.cli import start
start()
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt as error:  # as pybind11 does it in a module's start
    raise ImportError("initialization failed") from error
"""
AT_THE_END = """
import atexit
atexit.register(signal.raise_signal, signal.SIGINT)
from lenet.cli import start
start()
"""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("lenet.cli.start(); signal.raise_signal(signal.SIGINT)", (130, "Interrupted.\n")),
        (CALLBACK, (130, "Interrupted.\n")),
        (MODULE_IN_C, (130, "Interrupted.\n")),
        (AT_THE_END, (0, "")),  # the work is done
    ],
    ids=["anywhere", "callback", "module in C", "at the end"],
)
def test_ctrl_c_is_one_word_and_status_130_wherever_it_comes(code, expected):
    # The tests may run in a shell's background, which ignores the signal.
    heard = "signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"import signal, lenet.cli\n{heard}\n{code}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == expected


def test_ctrl_c_beside_a_bar_clears_its_line_and_shows_the_cursor_again():
    code = """
import signal
from lenet.cli import start
from lenet.cli.screen import getting_ready
signal.signal(signal.SIGINT, signal.default_int_handler)
start()
getting_ready().__enter__()
signal.raise_signal(signal.SIGINT)
"""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stderr=theirs, env=os.environ | {"TERM": "xterm"}
    )
    os.close(theirs)
    assert process.wait() == 130
    shown = os.read(ours, 10_000).decode()
    os.close(ours)
    assert "Getting ready" in shown
    assert shown.endswith("\r\x1b[K\x1b[?25hInterrupted.\r\n")


def test_a_notebooks_own_streams_and_handlers_stay():
    code = """
import io, signal, sys
from lenet.cli import start
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a shell's background
sys.stdout = own = io.StringIO()
start()
sys.exit(sys.stdout is not own or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN)
"""
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# A character that no ASCII terminal has, and a file name that is no UTF-8.
NAMES = r"lambda: print('é░\udcff', flush=True) or print('é░\udcff', file=sys.stderr)"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8", "latin-1:strict"])
def test_a_character_that_the_terminal_lacks_is_replaced(encoding):
    status, err = run_answer(NAMES, PYTHONIOENCODING=encoding)
    assert status == 0
    assert err.endswith("\\udcff\n")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("as it is", "as it is"),
        ("a sentence of several words", "a sentence of ..."),
        ("oneverylongwordwithoutanyspace", "oneverylongwordw ..."),
    ],
)
def test_a_long_message_ends_with_a_whole_word(text, expected):
    assert len(expected) <= 20
    assert shortened(text, 20) == expected


# A user whom the system does not know, and who owns nothing here but may read everything.
CAN_READ = "+dac_read_search"
STRANGER = [
    *("setpriv", "--reuid=12345", "--regid=12345", "--clear-groups"),
    *(f"--inh-caps=-all,{CAN_READ}", f"--ambient-caps=-all,{CAN_READ}"),
    *(f"--bounding-set=-all,{CAN_READ}", "env", "-u", "USER", "-u", "LOGNAME"),
]


@pytest.mark.skipif(
    sys.platform == "win32" or os.geteuid() != 0 or not shutil.which("setpriv"),
    reason="needs root and setpriv to become another user",
)
@pytest.mark.parametrize(
    ("home", "expected"), [(["-u", "HOME"], "/"), (["HOME=/nonexistent"], "/nonexistent")]
)
def test_a_user_whom_the_system_does_not_know_has_a_name_a_home_and_the_codes_commit(
    home, expected
):
    code = """
from lenet.cli import start
start()
import getpass, pathlib, lenet.tracking.provenance as code
print(getpass.getuser(), pathlib.Path.home(), code.code_state())
"""
    command = [*STRANGER, *home, sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"12345 {expected} {code_state()}\n"


@pytest.mark.parametrize("shell", [">&-", "2>&-", "<&- >&- 2>&-", "2>/dev/full"])
def test_a_closed_stream_or_a_full_disk_behind_standard_error_stops_no_work(shell, tmp_path):
    work = (
        f"lambda: print('a') or print('b', file=sys.stderr) or open('{tmp_path}/f', 'x').fileno()"
    )
    code = f"import sys; from lenet.cli import answer, start; start(); sys.exit(answer({work}))"
    done = subprocess.run(
        ["sh", "-c", f'exec "$0" -c "$1" {shell}', sys.executable, code], cwd=ROOT
    )
    assert done.returncode > 2  # no file is opened in place of a closed stream


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


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (120, "2 min"), (7200, "2.0 h"), (864_000, "10.0 d")]
)
def test_a_duration_is_shown_in_its_largest_unit(seconds, text):
    assert format_duration(seconds) == text


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
MISSING = "f" * 32
STORE, NO_STORE = "sqlite:///ROOT/mlflow.db", "sqlite:///ROOT/none/mlflow.db"


@pytest.mark.parametrize(
    ("command", "uri", "run", "expected"),
    [
        *((command, STORE, MISSING, f"{MISSING}: no such run") for command in OF_A_RUN),
        ("evaluate", STORE, "ffff", "ffff: no run"),
        ("evaluate", STORE, "abc", "abc: expected a run's id"),
        ("evaluate", STORE, "", "'': expected a run's id"),
        ("evaluate", STORE, "a\n\x1b[31m", r"'a\n\x1b[31m': expected a run's id"),
        ("evaluate", NO_STORE, MISSING, "/none/mlflow.db: no such database"),
        ("evaluate", NO_STORE, "latest", "/none/mlflow.db: no such database"),
        ("evaluate", "http://127.0.0.1:9", MISSING, "cannot be used (connection refused)"),
        ("evaluate", "ROOT", "latest", "cannot be used (expected sqlite:///FILE or http://HOST:P"),
    ],
)
def test_a_run_that_cannot_be_read_is_one_line_and_nothing_is_written(
    command, uri, run, expected, empty_store, monkeypatch, capsys, tmp_path
):
    root = empty_store.parent
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("ROOT", str(root)))
    before = sorted(root.rglob("*"))
    assert main([command, *(run if word == "RUN" else word for word in OF_A_RUN[command])]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert expected in err
    assert err.removesuffix("\n").isprintable()
    assert list(tmp_path.iterdir()) == []
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("command", ["evaluate", "benchmark"])
def test_a_folder_that_cannot_be_written_is_refused_before_the_work(command, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    run = ["f" * 32] if command == "evaluate" else []
    assert main([command, *run, "--output", str(tmp_path / "file" / "x")]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path}/file/x: Not a directory\n"


def test_an_empty_path_is_no_folder_to_write_to(capsys):
    assert main(["evaluate", "f" * 32, "--output", ""]) == 2
    assert capsys.readouterr().err.startswith("error: --output: expected a path, got ''")
