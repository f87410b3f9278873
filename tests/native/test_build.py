"""The kernels are built once, loaded only if they are the user's own, and use torch's threads."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from lenet.native import build
from lenet.native.build import BuildError, Compiler, Library, library

COMPILER = next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)
pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler"),
    pytest.mark.skipif(sys.platform == "win32", reason="no kernels on Windows"),
]
linux = pytest.mark.skipif(sys.platform != "linux", reason="threads are shared on Linux alone")

ANSWER_H = "const int ANSWER = 42;\n"
ANSWER_CPP = """
#include "answer.h"
extern "C" int answer() { return ANSWER; }
"""
THREADS_CPP = """
#ifdef _OPENMP
#include <omp.h>
extern "C" int threads(int wanted) {
    int seen = 0;
#pragma omp parallel num_threads(wanted) reduction(+ : seen)
    seen += 1;
    return seen;
}
extern "C" int most_threads() { return omp_get_max_threads(); }
#else
extern "C" int threads(int) { return 1; }
#endif
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
        return library("float", self.source)

    @property
    def compiles(self) -> list[str]:
        calls = self.log.read_text().splitlines() if self.log.exists() else []
        return [call for call in calls if "-DREAL=" in call]

    @property
    def entry(self) -> Path:
        (path,) = self.cache.glob("*.so")
        return path

    def child(self, code: str) -> "subprocess.Popen[str]":
        """A process that has `build` and `source`, but not torch, which takes seconds."""
        start = (
            f"import sys, build\nfrom pathlib import Path\nsource = Path({str(self.source)!r})\n"
        )
        return subprocess.Popen(
            [sys.executable, "-c", start + code],
            env=os.environ | {"PYTHONPATH": str(build.HERE)},
            stdin=subprocess.PIPE,
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


# ---- built once ------------------------------------------------------------------------------


def test_all_sources_become_one_library_and_the_first_start_says_so(workshop, capfd):
    (workshop.source / "threads.cpp").write_text(THREADS_CPP)
    built = workshop.library()
    assert (built.cdll.answer(), built.cdll.threads(1)) == (42, 1)
    compiler = built.about.partition(",")[0]
    expected = f"Building the CPU kernels with {compiler} (once; a few seconds)\n"
    assert capfd.readouterr() == ("", expected)
    assert len(workshop.compiles) == 1


def test_a_second_start_compiles_nothing_and_is_silent(workshop, capfd):
    first = workshop.library()
    (workshop.source / "notes.md").write_text("not a source")
    capfd.readouterr()
    assert workshop.library().about == first.about
    assert len(workshop.compiles) == 1
    assert capfd.readouterr() == ("", "")


def change_header(workshop, monkeypatch):
    (workshop.source / "answer.h").write_text(ANSWER_H.replace("42", "43"))


def change_source(workshop, monkeypatch):
    (workshop.source / "answer.cpp").write_text(ANSWER_CPP.replace("ANSWER;", "ANSWER + 1;"))


def change_arguments(workshop, monkeypatch):
    monkeypatch.setenv("CXX", f"{workshop.compiler} -DMORE")


def change_version(workshop, monkeypatch):
    workshop.script("counted", '[ "$1" = --version ] && echo "g++ 99.1.1" && exit')


def change_cpu(workshop, monkeypatch):
    (workshop.folder / "cpuinfo").write_text("model name\t: another\n")
    monkeypatch.setattr(build, "CPUINFO", workshop.folder / "cpuinfo")


@pytest.mark.parametrize(
    "change", [change_header, change_source, change_arguments, change_version, change_cpu]
)
def test_a_change_that_the_library_depends_on_builds_another(workshop, monkeypatch, change):
    workshop.library()
    change(workshop, monkeypatch)
    answer = workshop.library().cdll.answer()
    assert answer == (43 if change in (change_header, change_source) else 42)
    assert len(workshop.compiles) == 2
    # The first stays: another machine that shares the cache may still need it.
    assert len(list(workshop.cache.glob("*.so"))) == 2


# ---- the cache -------------------------------------------------------------------------------


def empty(path: Path) -> None:
    path.write_bytes(b"")


def let_others_write(path: Path) -> None:
    path.chmod(0o722)


def link(path: Path) -> None:
    path.symlink_to(path.rename(path.parent.parent / "elsewhere.so"))


@pytest.mark.parametrize("spoil", [empty, let_others_write, link])
def test_a_library_that_is_broken_or_perhaps_anothers_is_built_again(workshop, monkeypatch, spoil):
    workshop.library()
    # A copy, because this process has loaded the library under its name.
    workshop.cache = shutil.copytree(workshop.cache, workshop.folder / "copy")
    monkeypatch.setenv("LENET_CACHE", str(workshop.cache))
    spoil(workshop.entry)
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


def test_only_the_user_can_read_or_write_the_cache_whatever_the_umask(workshop):
    mask = os.umask(0)
    try:
        workshop.library()
    finally:
        os.umask(mask)
    assert workshop.cache.stat().st_mode & 0o077 == 0
    assert workshop.entry.stat().st_mode & 0o077 == 0


def test_of_three_processes_at_once_one_compiles_and_all_load(workshop, monkeypatch):
    slow = workshop.script("slow", 'case "$*" in *-DREAL=*) sleep 0.3;; esac')
    monkeypatch.setenv("CXX", str(slow))
    code = """
build.can_share_threads = lambda compiler: False
print("ready", flush=True)
sys.stdin.readline()
print(build.library("float", source).cdll.answer())
"""
    children = [workshop.child(code) for _ in range(3)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    assert [child.communicate(timeout=60)[0] for child in children] == ["42\n"] * 3
    assert len(workshop.compiles) == 1


def test_where_the_cache_cannot_be_written_each_process_builds_its_own(workshop, capfd):
    workshop.cache.write_text("a file in the way")
    for count in (1, 2):
        assert workshop.library().cdll.answer() == 42
        assert len(workshop.compiles) == count
        warning = f"Warning: {workshop.cache} can't keep the CPU kernels, each start builds them"
        assert capfd.readouterr().err.count(warning) == 1


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("/variable", "/variable"),
        ("~/kernels", os.path.expanduser("~/kernels")),
        ("here", os.path.abspath("here")),  # the loader takes a bare name for a system library's
        ("", platformdirs.user_cache_dir("lenet") + "/native"),
    ],
)
def test_the_cache_is_lenet_cache_or_the_users_own(monkeypatch, variable, expected):
    monkeypatch.setenv("LENET_CACHE", variable)
    assert str(build.cache_folder()) == expected


# ---- the compiler ----------------------------------------------------------------------------


def test_without_a_compiler_one_line_says_how_to_get_one(workshop, monkeypatch):
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(workshop.folder))
    assert refusal(workshop) == (
        "no C++ compiler: install g++ or clang (Debian, Ubuntu: apt install g++; "
        "macOS: xcode-select --install), or set CXX"
    )


@pytest.mark.parametrize(
    ("cxx", "expected"),
    [
        ("no-such -m64", "CXX=no-such -m64: expected a C++ compiler, found no command no-such"),
        ("g++ '-m64", "CXX=g++ '-m64: expected a C++ compiler (No closing quotation)"),
        ("true", "true can't build the CPU kernels: exit status 0"),
    ],
)
def test_a_command_that_is_no_compiler_is_named(workshop, monkeypatch, cxx, expected):
    monkeypatch.setenv("CXX", cxx)
    message = refusal(workshop)
    assert message == expected or message.endswith("/" + expected)


def test_the_compilers_first_error_is_shown_and_nothing_kept(workshop):
    text = "int f() { }\nint g() { return one; }\nint h() { return two; }\n"  # a warning first
    (workshop.source / "wrong.cpp").write_text(text)
    message = refusal(workshop)
    start = f"counted can't build the CPU kernels: {workshop.source / 'wrong.cpp'}:2:"
    assert message.startswith(start)
    assert "error: " in message
    assert "one" in message
    assert list(workshop.cache.glob("*.so")) == []


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("g++ (Debian 12.2.0-14+deb12u1) 12.2.0\nFree Software Foundation, Inc.", "g++ 12.2.0"),
        ("c++ (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)\nFree Software Foundation", "g++ 14.2.1"),
        ("Apple clang version 15.0.0 (clang-1500.3.9.4)\nTarget: arm64", "clang++ 15.0.0"),
        ("another 2.1 (of 1.0)", "ccache 2.1"),
    ],
)
def test_a_compiler_is_named_by_what_it_is(version, name):
    assert Compiler(("/usr/bin/ccache", "any"), version).name == name


def test_windows_is_refused_in_one_line(workshop, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert "this is Windows" in refusal(workshop)


# ---- flags and threads -----------------------------------------------------------------------


def refuse(*flags: str) -> str:
    cases = "|".join(f"*\\ {flag}\\ *" for flag in flags)
    return f'case " $* " in {cases}) echo "error: no such option"; exit 1;; esac'


@pytest.mark.parametrize(
    ("refused", "taken"),
    [
        (["-mcpu=native"], ["-march=native"]),
        (["-march=native", "-mcpu=native"], []),
    ],
)
def test_the_first_native_flag_that_the_compiler_knows_is_used(
    workshop, monkeypatch, refused, taken
):
    monkeypatch.setenv("CXX", str(workshop.script("choosy", refuse(*refused))))
    assert workshop.library().cdll.answer() == 42
    words = workshop.compiles[-1].split()
    assert [word for word in words if word.endswith("=native")] == taken
    assert "-ffast-math" not in words  # it would change denormals for the whole process


def test_a_compiler_without_openmp_builds_for_one_thread_and_says_so(workshop, monkeypatch):
    (workshop.source / "threads.cpp").write_text(THREADS_CPP)
    monkeypatch.setenv("CXX", str(workshop.script("choosy", refuse("-fopenmp"))))
    for _ in ("built", "from the cache"):
        got = workshop.library()
        assert got.about.endswith(", no OpenMP, one thread")
        assert got.cdll.threads(2) == 1


IN_LIBGOMP = 'extern "C" int omp_get_max_threads() { return 1998; }\n'
IN_LIBOMP = IN_LIBGOMP + 'extern "C" void __kmpc_fork_call() { }\n'
NOTHING = "int nothing() { return 0; }\n"


def shared(path: Path, text: str, *more: str) -> None:
    """A shared library of one source."""
    source = path.with_suffix(".cpp")
    source.write_text(text)
    subprocess.run([COMPILER, "-fPIC", "-shared", source, *more, "-o", path], check=True)


def fake_torch(folder: Path, text: str, name: str = "libgomp-1a2b3c4d.so.1") -> str:
    """Code that replaces torch by a library with an OpenMP runtime of that name."""
    shared(folder / name, text, f"-Wl,-soname,{name}")
    torch = folder / "torch.so"
    shared(torch, NOTHING, "-Wl,--no-as-needed", str(folder / name), f"-Wl,-rpath,{folder}")
    return f"""
import ctypes, types
ctypes.CDLL({str(torch)!r})
sys.modules["torch"] = types.SimpleNamespace(_C=types.SimpleNamespace(__file__={str(torch)!r}))
"""


def output(child: "subprocess.Popen[str]") -> str:
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    return out


@linux
def test_the_kernels_call_torchs_openmp_runtime_whatever_its_name(workshop):
    """Some wheels bring a libgomp-1a2b3c4d.so.1. To the linker that is not libgomp.so.1."""
    if build.find_compiler().is_clang:
        pytest.skip("needs g++")
    (workshop.source / "threads.cpp").write_text(THREADS_CPP)
    code = fake_torch(workshop.folder, IN_LIBGOMP)
    code += 'print(build.library("float", source).cdll.most_threads())'
    assert output(workshop.child(code)) == "1998\n"


@linux
@pytest.mark.parametrize(
    ("runtime", "expected"),
    [(IN_LIBGOMP, "True False"), (IN_LIBOMP, "True True"), (NOTHING, "False False")],
)
def test_threads_are_shared_where_torchs_runtime_serves_the_compiler(workshop, runtime, expected):
    """clang calls what libgomp lacks. It would bring a second runtime with threads of its own."""
    code = fake_torch(workshop.folder, runtime)
    code += """
gcc, clang = build.Compiler((), "g++ (GCC) 12.2.0"), build.Compiler((), "clang version 14.0.6")
print(build.can_share_threads(gcc), build.can_share_threads(clang))
"""
    assert output(workshop.child(code)) == f"{expected}\n"


@linux
def test_torch_and_the_kernels_run_on_the_same_two_threads(workshop):
    (workshop.source / "threads.cpp").write_text(THREADS_CPP)
    code = """
import os, torch
torch.set_num_threads(2)
alone = len(os.listdir("/proc/self/task"))
torch.ones(1 << 20).add(1)
before = len(os.listdir("/proc/self/task"))
got = build.library("float", source)
seen = got.cdll.threads(2)
print("no OpenMP" in got.about, seen, alone < before, len(os.listdir("/proc/self/task")) - before)
"""
    # Two threads, or one where torch's runtime does not serve the compiler.
    expected = ("False 2 True 0\n", "True 1 True 0\n")[build.find_compiler().is_clang]
    assert output(workshop.child(code)) == expected
