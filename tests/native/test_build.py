"""The kernels are built once, and loaded only if they are the user's own."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from lenet.native import build
from lenet.native.build import BuildError, Library, library
from tests.conftest import LIMIT

COMPILER = next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)
pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler"),
    pytest.mark.skipif(sys.platform == "win32", reason="no kernels on Windows"),
]

ANSWER_H = "const int ANSWER = 42;\n"
ANSWER_CPP = """
#include "answer.h"
extern "C" int answer() { return ANSWER; }
"""


class Workshop:
    """A source folder, an empty cache, and a compiler that keeps a log of its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source, self.cache = folder, folder / "source", folder / "cache"
        self.log = folder / "log"
        self.source.mkdir()
        (self.source / "answer.h").write_text(ANSWER_H)
        (self.source / "answer.cpp").write_text(ANSWER_CPP)
        self.compiler = self.script("counted", "")

    def script(self, name: str, before: str) -> Path:
        """A compiler that logs its arguments, runs `before`, then compiles."""
        path = self.folder / name
        path.write_text(f'#!/bin/sh\necho "$*" >> {self.log}\n{before}\nexec {COMPILER} "$@"\n')
        path.chmod(0o755)
        return path

    def library(self) -> Library:
        return library(self.source)

    @property
    def compiles(self) -> list[str]:
        calls = self.log.read_text().splitlines() if self.log.exists() else []
        return [call for call in calls if " -o " in call]

    @property
    def entry(self) -> Path:
        (path,) = self.cache.glob("*.so")
        return path

    def child(self, code: str, torch: Path | None = None) -> "subprocess.Popen[str]":
        """A process that has `build` and `source`; a folder in place of torch saves seconds."""
        start = f"import pathlib, sys, types, build\nsource = pathlib.Path('{self.source}')\n"
        if torch:
            start += f"sys.modules['torch'] = types.SimpleNamespace(__file__='{torch}/torch.py')\n"
        return subprocess.Popen(
            [sys.executable, "-c", start + code],
            env=os.environ | {"PYTHONPATH": str(build.HERE)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    workshop = Workshop(tmp_path)
    monkeypatch.setenv("CXX", str(workshop.compiler))
    monkeypatch.setenv("LENET_CACHE", str(workshop.cache))
    return workshop


def refusal(workshop) -> str:
    with pytest.raises(BuildError) as caught:
        workshop.library()
    message = str(caught.value)
    assert "\n" not in message
    return message


def output(child: "subprocess.Popen[str]") -> str:
    out, err = child.communicate(timeout=LIMIT)
    assert child.returncode == 0, err
    return out


def test_all_sources_become_one_library_once_and_the_first_start_says_so(workshop, capfd):
    (workshop.source / "more.cpp").write_text('extern "C" int more() { return 43; }\n')
    first = workshop.library()
    assert (first.cdll.answer(), first.cdll.more()) == (42, 43)
    expected = f"Building the CPU kernels with {first.compiler} (a few seconds)\n"
    assert capfd.readouterr() == ("", expected)
    assert workshop.library().compiler == first.compiler
    assert capfd.readouterr() == ("", "")
    assert len(workshop.compiles) == 1
    assert "-ffast-math" not in workshop.compiles[0]  # it would change the whole process


def change_header(workshop, monkeypatch):
    (workshop.source / "answer.h").write_text(ANSWER_H.replace("42", "43"))


def change_processor(workshop, monkeypatch):
    workshop.script("counted", 'case "$*" in *-dM*) set -- "$@" -mno-avx2 -DANOTHER;; esac')


@pytest.mark.parametrize("change", [change_header, change_processor])
def test_a_change_that_the_library_depends_on_builds_another(workshop, monkeypatch, change):
    workshop.library()
    change(workshop, monkeypatch)
    assert workshop.library().cdll.answer() == (43 if change is change_header else 42)
    # The first stays: another machine that shares the cache may still need it.
    assert len(workshop.compiles) == len(list(workshop.cache.glob("*.so"))) == 2


def test_a_broken_library_is_built_again(workshop, monkeypatch):
    workshop.library()
    # A copy, because this process has loaded the library under its name.
    workshop.cache = shutil.copytree(workshop.cache, workshop.folder / "copy")
    monkeypatch.setenv("LENET_CACHE", str(workshop.cache))
    workshop.entry.write_bytes(b"")
    for _ in range(2):
        assert workshop.library().cdll.answer() == 42
    assert len(workshop.compiles) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_library_of_another_user_is_built_again(workshop):
    workshop.library()
    os.chown(workshop.entry, 1000, -1)
    workshop.library()
    assert len(workshop.compiles) == 2
    assert workshop.entry.stat().st_uid == 0


def test_only_the_user_can_enter_the_cache_whatever_the_umask(workshop):
    mask = os.umask(0)
    try:
        workshop.library()
    finally:
        os.umask(mask)
    assert workshop.cache.stat().st_mode & 0o077 == 0


def test_of_three_processes_at_once_one_compiles_and_all_load(workshop, monkeypatch):
    slow = workshop.script("slow", 'case "$*" in *" -o "*) sleep 0.5;; esac')
    monkeypatch.setenv("CXX", str(slow))
    code = "print(build.library(source).cdll.answer())"
    children = [workshop.child(code, torch=workshop.folder) for _ in range(3)]
    assert [output(child) for child in children] == ["42\n"] * 3
    assert len(workshop.compiles) == 1


def test_a_cache_that_cannot_be_written_is_one_line_with_what_helps(workshop, monkeypatch):
    workshop.cache.write_text("a file in the way")
    message = refusal(workshop)
    assert message.startswith(f"the CPU kernels can't be kept in {workshop.cache} (")
    (variable,) = re.findall("; set (.*) to another folder$", message)
    monkeypatch.setenv(variable, str(workshop.folder / "another"))
    assert workshop.library().cdll.answer() == 42


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("~/kernels", os.path.expanduser("~/kernels")),
        ("here", os.path.abspath("here")),  # the loader takes a bare name for a system library's
        ("", platformdirs.user_cache_dir("lenet") + "/native"),
    ],
)
def test_the_cache_is_lenet_cache_or_the_users_own(monkeypatch, variable, expected):
    monkeypatch.setenv("LENET_CACHE", variable)
    assert str(build.cache_folder()) == expected


def test_without_a_compiler_one_line_says_how_to_get_one(workshop, monkeypatch):
    monkeypatch.delenv("CXX")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(workshop.folder))
        message = refusal(workshop)
    start = "no C++ compiler: install g++ or clang (Debian, Ubuntu: apt install g++; "
    assert message.startswith(start + "macOS: xcode-select --install), ")
    (variable,) = re.findall(", or set (.*)$", message)
    monkeypatch.setenv(variable, str(workshop.compiler))
    assert workshop.library().cdll.answer() == 42


@pytest.mark.parametrize(
    ("cxx", "expected"),
    [
        ("no-such -m64", "CXX: expected a C++ compiler, found no command no-such"),
        ("g++ 'a", "CXX: expected a C++ compiler (No closing quotation)"),
        ("false", "false: expected a compiler like g++ or clang (exit status 1)"),
    ],
)
def test_a_command_that_is_no_compiler_is_named(workshop, monkeypatch, cxx, expected):
    monkeypatch.setenv("CXX", cxx)
    assert refusal(workshop).rpartition("/")[2] == expected


def test_the_compilers_first_error_is_shown_and_nothing_kept(workshop):
    text = "int f() { }\nint g() { return one; }\nint h() { return two; }\n"  # a warning first
    (workshop.source / "wrong.cpp").write_text(text)
    message = refusal(workshop)
    assert f" can't build the CPU kernels: {workshop.source / 'wrong.cpp'}:2:" in message
    assert "error: " in message
    assert list(workshop.cache.glob("*.so")) == []


def test_a_compiler_that_does_not_know_march_gets_mcpu(workshop, monkeypatch):
    choose = 'case "$*" in *-march=native*) exit 1;; esac\n'
    choose += 'for word; do shift; [ "$word" = -mcpu=native ] || set -- "$@" "$word"; done'
    monkeypatch.setenv("CXX", str(workshop.script("choosy", choose)))
    assert workshop.library().cdll.answer() == 42
    assert " -mcpu=native " in workshop.compiles[-1]


@pytest.mark.skipif(sys.platform != "linux", reason="threads are shared on Linux alone")
def test_the_kernels_call_torchs_openmp_runtime_whatever_its_name(workshop):
    """Some wheels bring a libgomp-1a2b3c4d.so.1. To the linker that is not libgomp.so.1."""
    if not build.find_compiler().name.startswith("g++"):
        pytest.skip("needs g++")
    (workshop.source / "threads.cpp").write_text(
        '#include <omp.h>\nextern "C" int most_threads() { return omp_get_max_threads(); }\n'
    )
    runtime = workshop.folder / "lib" / "libgomp-1a2b3c4d.so.1"
    runtime.parent.mkdir()
    text = 'extern "C" int omp_get_max_threads() { return 1998; }\n'
    command = [COMPILER, "-fPIC", "-shared", "-x", "c++", "-", "-o", runtime]
    subprocess.run(command, input=text, text=True, check=True)
    code = "print(build.library(source).cdll.most_threads())"
    assert output(workshop.child(code, torch=workshop.folder)) == "1998\n"
