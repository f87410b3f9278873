"""The kernels are built once, never loaded unless whole and our own, and share torch's threads."""

import contextlib
import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import filelock
import pooch
import psutil
import pytest

from lenet.native import build
from lenet.native.build import BuildError, Compiler, Library, library

REAL_COMPILER = next(filter(None, map(shutil.which, ("g++", "c++", "clang++"))), None)
needs_compiler = pytest.mark.skipif(REAL_COMPILER is None, reason="needs a C++ compiler")
pytestmark = [
    needs_compiler,
    pytest.mark.skipif(sys.platform == "win32", reason="no kernels on Windows"),
]
ANOTHER_USER = os.geteuid() + 1
not_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")

ANSWER_H = "const int ANSWER = 42;\n"
ANSWER_CPP = """
#include "answer.h"
extern "C" int answer() { return ANSWER; }
extern "C" int real_bytes() { return sizeof(REAL); }
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
# Without the flag that only compilers for ARM know.
WRAPPER = """#!/bin/sh
for word; do shift; [ "$word" = -mcpu=native ] || set -- "$@" "$word"; done
exec {compiler} "$@"
"""


class Workshop:
    """A source folder, an empty cache, and a compiler that keeps a log of its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source, self.cache = folder, folder / "source", folder / "cache"
        self.log, self.temporary = folder / "log", folder / "temporary"
        self.source.mkdir()
        self.temporary.mkdir()
        (self.source / "answer.h").write_text(ANSWER_H)
        (self.source / "answer.cpp").write_text(ANSWER_CPP)
        self.compiler = self.script("counted", "")

    def script(self, name: str, before: str) -> Path:
        """A compiler that writes its arguments down, runs `before`, then compiles."""
        path = self.folder / name
        head, *rest = WRAPPER.format(compiler=REAL_COMPILER).splitlines()
        path.write_text("\n".join([head, f'echo "$*" >> {self.log}', before, *rest, ""]))
        path.chmod(0o755)
        return path

    def add_threads(self) -> None:
        (self.source / "threads.cpp").write_text(THREADS_CPP)

    def library(self, real: str = "float") -> Library:
        return library(real, self.source, self.cache)

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    @property
    def compiles(self) -> list[str]:
        """The calls that were for the kernels: not for a version, not to try a flag."""
        return [call for call in self.calls if "-DREAL=" in call]

    @property
    def entry(self) -> Path:
        (path,) = self.cache.glob("*.so")
        return path

    def is_clean(self) -> bool:
        """Nothing lies about but whole libraries and locks."""
        kept = sorted(self.cache.iterdir()) if self.cache.is_dir() else []
        whole = all(
            path.suffix == ".lock" or path.stem.split("-")[1] == sha256(path) for path in kept
        )
        return whole and list(self.temporary.iterdir()) == []

    def child(self, code: str, **environment: str) -> subprocess.Popen[str]:
        """A process that has `build`, `source` and `cache`, but not torch, which takes seconds."""
        lines = [
            "import sys, build",
            "from pathlib import Path",
            "build._openmp = lambda compiler: False",
            f"source, cache = Path({str(self.source)!r}), Path({str(self.cache)!r})",
            code,
        ]
        return subprocess.Popen(
            [sys.executable, "-c", "\n".join(lines)],
            env=os.environ
            | {"PYTHONPATH": str(build.HERE), "TMPDIR": str(self.temporary)}
            | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    workshop = Workshop(tmp_path)
    monkeypatch.setenv("CXX", str(workshop.compiler))
    monkeypatch.delenv("LENET_CACHE", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(workshop.temporary))
    # Threads have tests of their own; the others take half the time without.
    monkeypatch.setattr(build, "_openmp", lambda compiler: False)
    return workshop


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(BuildError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited for a minute in vain"
        time.sleep(0.01)


# ---- built once ------------------------------------------------------------------------------


def test_every_source_is_built_into_one_library_and_the_first_start_says_so(workshop, capfd):
    workshop.add_threads()
    built = workshop.library()
    assert built.cdll.answer() == 42
    assert built.cdll.threads(1) == 1
    out, err = capfd.readouterr()
    compiler = built.about.partition(",")[0]
    assert err == f"Building the CPU kernels with {compiler} (once; a few seconds)\n"
    assert out == ""
    assert len(workshop.compiles) == 1
    assert workshop.is_clean()


def test_a_second_start_asks_the_compiler_for_its_version_alone_and_is_silent(workshop, capfd):
    first = workshop.library()
    workshop.log.unlink()
    capfd.readouterr()
    second = workshop.library()
    assert workshop.calls == ["--version"]
    assert second.about == first.about
    assert capfd.readouterr() == ("", "")


def change_header(workshop, monkeypatch):
    (workshop.source / "answer.h").write_text(ANSWER_H.replace("42", "43"))


def change_source(workshop, monkeypatch):
    text = ANSWER_CPP.replace("return ANSWER", "return ANSWER + 1")
    (workshop.source / "answer.cpp").write_text(text)


def rename_source(workshop, monkeypatch):
    (workshop.source / "answer.cpp").rename(workshop.source / "alter.cpp")


def change_flags(workshop, monkeypatch):
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-DMORE"))


def change_compiler(workshop, monkeypatch):
    monkeypatch.setenv("CXX", str(workshop.script("another", "")))


def change_arguments(workshop, monkeypatch):
    monkeypatch.setenv("CXX", f"{workshop.compiler} -DMORE")


def change_version(workshop, monkeypatch):
    workshop.script("counted", '[ "$1" = --version ] && echo "g++ 99.1.1" && exit')


def change_cpu(workshop, monkeypatch):
    monkeypatch.setattr(build, "_cpu", lambda: "another")


def change_user(workshop, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: ANOTHER_USER)


@pytest.mark.parametrize(
    "change",
    [
        *(change_header, change_source, rename_source, change_flags, change_compiler),
        *(change_arguments, change_version, change_cpu, change_user),
    ],
)
def test_whatever_the_library_depends_on_brings_a_new_one_when_it_changes(
    workshop, monkeypatch, change
):
    workshop.library()
    change(workshop, monkeypatch)
    answer = workshop.library().cdll.answer()
    assert len(workshop.compiles) == 2
    # Another machine or user may still need the first.
    assert len(list(workshop.cache.glob("*.so"))) == 2
    assert answer == (43 if change in (change_header, change_source) else 42)


def test_a_note_or_an_editors_lock_beside_the_sources_changes_nothing(workshop):
    workshop.library()
    (workshop.source / "notes.md").write_text("none")
    (workshop.source / ".#answer.cpp").symlink_to("nobody@nowhere:1")
    workshop.library()
    assert len(workshop.compiles) == 1


def test_float_and_double_are_two_libraries_side_by_side(workshop):
    single, double = workshop.library("float"), workshop.library("double")
    assert (single.cdll.real_bytes(), double.cdll.real_bytes()) == (4, 8)
    assert len(workshop.compiles) == 2
    assert workshop.library("double").cdll.real_bytes() == 8
    assert len(workshop.compiles) == 2


def test_another_kind_of_real_is_refused(workshop):
    with pytest.raises(ValueError, match="expected float or double, given half"):
        workshop.library("half")


def test_a_folder_without_sources_is_refused(workshop, tmp_path):
    (tmp_path / "answer.h").write_text(ANSWER_H)
    expected = f"{tmp_path}: expected C++ sources (*.cpp), found none"
    assert refusal(lambda: library("float", tmp_path, workshop.cache)) == expected


# ---- never loaded unless whole and our own ---------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:4000])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def let_others_write(path: Path) -> None:
    path.chmod(0o602)


def let_the_group_write(path: Path) -> None:
    path.chmod(0o620)


def link(path: Path) -> None:
    elsewhere = path.parent.parent / "elsewhere.so"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


@pytest.mark.parametrize(
    "spoil", [truncate, empty, flip, let_others_write, let_the_group_write, link]
)
def test_a_spoilt_entry_is_built_again_in_its_place(workshop, spoil):
    workshop.library()
    good = workshop.entry
    content = good.read_bytes()
    # A copy: this process has the file mapped, and must not see it change under its feet.
    good.unlink()
    good.write_bytes(content)
    good.chmod(0o600)
    spoil(good)
    assert workshop.library().cdll.answer() == 42
    assert len(workshop.compiles) == 2
    assert workshop.is_clean()
    status = workshop.entry.lstat()
    assert stat.S_ISREG(status.st_mode)
    assert status.st_mode & 0o022 == 0
    workshop.library()
    assert len(workshop.compiles) == 2


def test_an_entry_that_was_only_touched_or_copied_is_still_good(workshop):
    workshop.library()
    path = workshop.entry
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    path.chmod(0o644)
    workshop.library()
    assert len(workshop.compiles) == 1


def test_an_entry_of_another_user_is_built_again(workshop, monkeypatch):
    monkeypatch.setattr(build, "_key", lambda *parts: "same")  # or another user's has its own name
    workshop.library()
    inode = workshop.entry.stat().st_ino
    monkeypatch.setattr(os, "geteuid", lambda: ANOTHER_USER)
    assert workshop.library().cdll.answer() == 42
    assert len(workshop.compiles) == 2
    assert workshop.entry.stat().st_ino != inode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_an_entry_given_away_is_built_again(workshop):
    workshop.library()
    os.chown(workshop.entry, ANOTHER_USER, -1)
    workshop.library()
    assert len(workshop.compiles) == 2
    assert workshop.entry.stat().st_uid == 0


def test_an_entry_that_cant_be_replaced_is_left_and_the_library_loads_all_the_same(workshop, capfd):
    workshop.library()
    path = workshop.entry
    path.unlink()
    (path / "in the way").mkdir(parents=True)
    assert workshop.library().cdll.answer() == 42
    assert f"Warning: {workshop.cache} can't keep the CPU kernels" in capfd.readouterr().err
    assert list(workshop.temporary.iterdir()) == []


def test_nobody_else_may_write_what_is_stored_even_under_a_lax_umask(workshop):
    mask = os.umask(0)
    try:
        workshop.library()
    finally:
        os.umask(mask)
    assert workshop.cache.stat().st_mode & 0o077 == 0
    assert workshop.entry.stat().st_mode & 0o077 == 0


# ---- several processes -----------------------------------------------------------------------


def test_of_four_processes_at_once_one_compiles_and_all_load(workshop, monkeypatch):
    # A compile long enough for all to come while it runs.
    slow = workshop.script("slow", 'case "$*" in *-DREAL=*) sleep 0.5;; esac')
    code = """
print("ready", flush=True)
sys.stdin.readline()
print(build.library("float", source, cache).cdll.answer())
"""
    children = [workshop.child(code, CXX=str(slow)) for _ in range(4)]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("\n")
        child.stdin.flush()
    outputs = [child.communicate(timeout=60) for child in children]
    assert [out for out, _ in outputs] == ["42\n"] * 4
    assert len([err for _, err in outputs if err]) == 1  # the one that builds says so
    assert len(workshop.compiles) == 1
    assert workshop.is_clean()


def test_a_builder_that_is_killed_leaves_nothing_that_hurts(workshop, monkeypatch):
    pid = workshop.folder / "pid"
    stuck = workshop.script("stuck", f'case "$*" in *-DREAL=*) echo $$ > {pid}; sleep 100;; esac')
    child = workshop.child('build.library("float", source, cache)', CXX=str(stuck))
    try:
        wait_until(lambda: pid.exists() and pid.read_text().endswith("\n"))
    finally:
        child.kill()
        child.communicate()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(int(pid.read_text()), signal.SIGKILL)
    workshop.script("stuck", "")  # under its name, so that the same entry is asked for
    monkeypatch.setenv("CXX", str(stuck))
    monkeypatch.setattr(build, "LOCK_SECONDS", 0)  # its lock went with it
    assert workshop.library().cdll.answer() == 42
    assert workshop.entry.is_file()
    assert len(list(workshop.cache.glob("*.lock"))) == 1  # it was the same one


def test_a_half_written_file_of_a_killed_process_is_cleared_away(workshop):
    workshop.library()
    key = workshop.entry.stem.split("-")[0]
    workshop.entry.unlink()
    (workshop.cache / f"{key}-x1y2.tmp").write_bytes(b"half")
    workshop.library()
    assert workshop.is_clean()


def test_a_process_that_holds_the_lock_for_ever_does_not_stop_the_others(
    workshop, monkeypatch, capfd
):
    workshop.library()
    key = workshop.entry.stem.split("-")[0]
    workshop.entry.unlink()
    monkeypatch.setattr(build, "LOCK_SECONDS", 0.1)
    with filelock.FileLock(workshop.cache / f"{key}.lock"):
        assert workshop.library().cdll.answer() == 42
    assert "Warning: " in capfd.readouterr().err
    assert list(workshop.cache.glob("*.so")) == []


# ---- a cache that can't be written -----------------------------------------------------------


@pytest.fixture(params=["a file in the way", pytest.param("read-only", marks=not_root), "full"])
def unwritable(request, workshop, monkeypatch) -> Workshop:
    if request.param == "a file in the way":
        workshop.cache.write_text("")
        workshop.cache /= "below"
    elif request.param == "read-only":
        workshop.cache.mkdir()
        workshop.cache.chmod(0o500)
    else:

        def full(*paths):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
    return workshop


def test_where_the_cache_cant_be_written_the_library_is_built_for_this_process(unwritable, capfd):
    for count in (1, 2):
        assert unwritable.library().cdll.answer() == 42
        assert len(unwritable.compiles) == count
        warning = f"Warning: {unwritable.cache} can't keep the CPU kernels, each start builds them"
        assert capfd.readouterr().err.count(warning) == 1
    assert unwritable.is_clean()


def test_where_no_folder_can_be_written_one_line_says_so(workshop, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(workshop.folder / "nowhere"))
    assert "nowhere: no room to build in" in refusal(workshop.library)


@pytest.mark.parametrize(
    ("argument", "variable", "expected"),
    [
        ("/given", "/variable", "/given"),
        (None, "/variable", "/variable"),
        (None, "~/kernels", os.path.expanduser("~/kernels")),
        (None, "here", os.path.abspath("here")),  # the loader takes a bare name for a system one's
        (None, "", str(pooch.os_cache("lenet") / "native")),
        (None, None, str(pooch.os_cache("lenet") / "native")),
    ],
)
def test_the_cache_is_as_given_then_as_the_environment_says_then_the_users(
    monkeypatch, argument, variable, expected
):
    monkeypatch.delenv("LENET_CACHE", raising=False)
    if variable is not None:
        monkeypatch.setenv("LENET_CACHE", variable)
    assert str(build._folder(argument and Path(argument))) == expected


# ---- the compiler ----------------------------------------------------------------------------


def test_without_a_compiler_one_line_says_how_to_get_one(workshop, monkeypatch):
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(workshop.folder))
    assert refusal(workshop.library) == (
        "no C++ compiler: install g++ or clang (Debian, Ubuntu: apt install g++; "
        "macOS: xcode-select --install), or set CXX"
    )


@pytest.mark.parametrize("names", [["c++", "g++", "clang++"], ["g++", "clang++"], ["clang++"]])
@pytest.mark.parametrize("variable", [None, "", " "])
def test_without_cxx_the_first_of_three_names_is_taken(workshop, monkeypatch, names, variable):
    monkeypatch.delenv("CXX")
    if variable is not None:
        monkeypatch.setenv("CXX", variable)
    (workshop.folder / "bin").mkdir()
    monkeypatch.setenv("PATH", str(workshop.folder / "bin"))
    for name in names:
        workshop.script(f"bin/{name}", "")
    assert build._compiler().command == (str(workshop.folder / "bin" / names[0]),)


def test_cxx_that_is_not_there_is_named(workshop, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler -m64")
    assert refusal(workshop.library) == (
        "CXX=no-such-compiler -m64: expected a C++ compiler, found no command no-such-compiler"
    )


def test_cxx_with_an_open_quote_is_refused(workshop, monkeypatch):
    monkeypatch.setenv("CXX", "g++ '-m64")
    assert refusal(workshop.library).startswith("CXX=g++ '-m64: expected a C++ compiler")


def test_cxx_may_have_arguments(workshop, monkeypatch):
    (workshop.source / "answer.h").write_text("const int ANSWER = GIVEN;\n")
    monkeypatch.setenv("CXX", f"env VARIABLE=1 '{workshop.compiler}' -DGIVEN=7")
    assert workshop.library().cdll.answer() == 7


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("#!/bin/sh\nexit 3\n", "odd --version: exit status 3"),
        ("#!/bin/sh\necho all wrong >&2\nexit 1\n", "odd --version: all wrong"),
        ("no program", "odd can't be run (Exec format error)"),
        ("#!/bin/sh\ntrue\n", "odd can't build the CPU kernels: exit status 0"),
    ],
)
def test_a_command_that_is_no_compiler_is_named(workshop, monkeypatch, script, expected):
    odd = workshop.folder / "odd"
    odd.write_text(script)
    odd.chmod(0o755)
    monkeypatch.setenv("CXX", str(odd))
    assert refusal(workshop.library).removeprefix(f"{workshop.folder}/") == expected


def test_the_first_error_of_a_compiler_that_fails_is_told_and_nothing_kept(workshop):
    # A warning goes before the two errors.
    text = "int f() { }\nint g() { return one; }\nint h() { return two; }\n"
    (workshop.source / "wrong.cpp").write_text(text)
    message = refusal(workshop.library)
    start = f"counted can't build the CPU kernels: {workshop.source / 'wrong.cpp'}:2:"
    assert message.startswith(start)
    assert "error: " in message
    assert "one" in message
    assert list(workshop.cache.glob("*.so")) == []
    assert workshop.is_clean()


def test_the_linkers_own_error_is_told_not_its_drivers(workshop, monkeypatch):
    monkeypatch.setenv("CXX", f"{workshop.compiler} -lno_such_library")
    assert "no_such_library" in refusal(workshop.library)


def test_a_library_that_cant_be_loaded_is_refused_in_one_line(workshop):
    (workshop.source / "more.cpp").write_text(
        'extern "C" int missing(); extern "C" int more() { return missing(); }'
    )
    message = refusal(workshop.library)
    assert message.startswith("the CPU kernels can't be loaded (")
    assert "missing" in message


def test_a_compiler_that_hangs_is_stopped_with_its_children(workshop, monkeypatch):
    pid = workshop.folder / "pid"
    hang = f"sleep 100 & echo $! > {pid}; wait"
    # It answers nothing but --version, so that nothing but the hanging takes time.
    text = f'case "$*" in --version) exit;; *-DREAL=*) {hang};; esac; exit'
    monkeypatch.setenv("CXX", str(workshop.script("hanging", text)))
    monkeypatch.setattr(build, "COMPILE_SECONDS", 1)
    assert refusal(workshop.library) == "hanging was stopped: no end after 1 seconds"
    sleeper = int(pid.read_text())

    def has_ended() -> bool:
        try:
            return psutil.Process(sleeper).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    wait_until(has_ended)
    assert workshop.is_clean()


@pytest.mark.parametrize(
    ("version", "name"),
    [
        ("g++ (Debian 12.2.0-14+deb12u1) 12.2.0\nFree Software Foundation, Inc.", "g++ 12.2.0"),
        ("c++ (GCC) 14.2.1 20240912 (Red Hat 14.2.1-3)\nFree Software Foundation", "g++ 14.2.1"),
        ("Debian clang version 14.0.6\nTarget: x86_64-pc-linux-gnu", "clang++ 14.0.6"),
        ("Apple clang version 15.0.0 (clang-1500.3.9.4)\nTarget: arm64", "clang++ 15.0.0"),
        ("another 2.1 (of 1.0)", "ccache 2.1"),
        ("", "ccache"),
    ],
)
def test_a_compiler_is_named_by_what_it_is(version, name):
    assert Compiler(("/usr/bin/ccache", "any"), version).name == name


def test_windows_is_refused_in_one_line(workshop, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    assert "this is Windows" in refusal(workshop.library)


# ---- flags -----------------------------------------------------------------------------------


def refuse(*flags: str) -> str:
    cases = "|".join(f"*\\ {flag}\\ *" for flag in flags)
    return f'case " $* " in {cases}) echo "error: no such option"; exit 1;; esac'


@pytest.mark.parametrize(
    ("refused", "taken"),
    [
        ([], ["-march=native"]),
        (["-march=native"], ["-mcpu=native"]),
        (["-march=native", "-mcpu=native"], []),
    ],
)
def test_the_first_name_of_the_native_machine_that_is_accepted_is_used(
    workshop, monkeypatch, refused, taken
):
    if refused:
        monkeypatch.setenv("CXX", str(workshop.script("choosy", refuse(*refused))))
    assert workshop.library().cdll.answer() == 42
    words = workshop.compiles[-1].split()
    assert [word for word in words if word in build.NATIVE] == taken


def test_a_compiler_without_openmp_builds_a_library_of_one_thread_and_says_so(
    workshop, monkeypatch
):
    workshop.add_threads()
    monkeypatch.setattr(build, "_openmp", lambda compiler: True)
    monkeypatch.setenv("CXX", str(workshop.script("choosy", refuse("-fopenmp"))))
    for _ in ("built", "from the cache"):
        got = workshop.library()
        assert got.about.endswith(", no OpenMP, one thread")
        assert got.cdll.threads(2) == 1
    assert len(workshop.compiles) == 1


def test_denormals_live_on_after_loading(workshop):
    smallest_normal = sys.float_info.min
    assert smallest_normal / 4 > 0
    workshop.library()
    assert smallest_normal / 4 > 0
    assert not any("fast-math" in call for call in workshop.calls)


def test_the_cpu_is_known_by_what_stays_the_same_from_start_to_start(tmp_path, monkeypatch):
    text = (
        "processor\t: 0\nmodel name\t: one\ncpu MHz\t\t: {}\nflags\t\t: sse {}\n\nprocessor\t: 1\n"
    )
    monkeypatch.setattr(build, "CPUINFO", tmp_path / "cpuinfo")

    def cpu(megahertz: float, flags: str) -> str:
        build.CPUINFO.write_text(text.format(megahertz, flags))
        return build._cpu()

    assert cpu(1000.0, "avx2") == cpu(2000.5, "avx2")
    assert cpu(1000.0, "avx2") != cpu(1000.0, "avx512f")


@pytest.mark.parametrize("command", ["echo Apple M1", None])
def test_the_cpu_is_known_where_there_is_no_cpuinfo(workshop, monkeypatch, command):
    monkeypatch.setattr(build, "CPUINFO", workshop.folder / "nothing")
    monkeypatch.setattr("platform.processor", lambda: "arm")
    monkeypatch.setenv("PATH", str(workshop.folder))
    if command:
        sysctl = workshop.folder / "sysctl"
        sysctl.write_text(f"#!/bin/sh\n{command}\n")
        sysctl.chmod(0o755)
    assert build._cpu() == ("Apple M1\n" if command else "arm")


# ---- one pool of threads ---------------------------------------------------------------------

OMP_H = "#include <omp.h>\n"
IN_LIBGOMP = 'extern "C" int omp_get_max_threads() { return 1998; }\n'
IN_LIBOMP = IN_LIBGOMP + 'extern "C" void __kmpc_fork_call() { }\n'
NOTHING = "int nothing() { return 0; }\n"


@pytest.fixture
def threads(workshop) -> Workshop:
    if sys.platform != "linux":
        pytest.skip("threads are shared on Linux alone")
    trial = shared(workshop.folder / "trial.so", OMP_H, "-fopenmp")
    if trial is None:
        pytest.skip(f"{REAL_COMPILER} has no OpenMP")
    workshop.add_threads()
    return workshop


def shared(path: Path, text: str, *more: str) -> Path | None:
    """A shared library of one source, None where the compiler refuses."""
    source = path.with_suffix(".cpp")
    source.write_text(text)
    command = [REAL_COMPILER, "-fPIC", "-shared", source, *more, "-o", path]
    done = subprocess.run(command, capture_output=True)
    return path if done.returncode == 0 else None


def fake_torch(folder: Path, text: str, name: str = "libgomp-1a2b3c4d.so.1") -> str:
    """Code that puts in torch's place a library bound to a runtime of its own, of another name."""
    runtime = shared(folder / name, text, f"-Wl,-soname,{name}")
    needs_it = ("-Wl,--no-as-needed", str(runtime), f"-Wl,-rpath,{folder}")
    torch = shared(folder / "torch.so", NOTHING, *needs_it)
    assert torch is not None
    return f"""
import ctypes, importlib, types
importlib.reload(build)  # with its own _openmp
ctypes.CDLL({str(torch)!r})
sys.modules["torch"] = types.SimpleNamespace(_C=types.SimpleNamespace(__file__={str(torch)!r}))
"""


def output(child: subprocess.Popen[str]) -> str:
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    return out


def test_the_kernels_call_the_runtime_torch_is_bound_to_whatever_its_name(threads):
    """Some wheels bring a libgomp-1a2b3c4d.so.1: to the linker that is not libgomp.so.1."""
    if "clang" in build._compiler().version:
        pytest.skip("needs g++")
    code = fake_torch(threads.folder, IN_LIBGOMP)
    code += 'print(build.library("float", source, cache).cdll.most_threads())'
    assert output(threads.child(code)) == "1998\n"


@pytest.mark.parametrize(
    ("runtime", "expected"),
    [
        (IN_LIBGOMP, "True False"),
        (IN_LIBOMP, "True True"),
        (NOTHING, "False False"),
    ],
)
def test_threads_are_had_where_torchs_runtime_serves_the_compiler(workshop, runtime, expected):
    """clang calls what libgomp lacks: it would bring a second runtime, with threads of its own."""
    if sys.platform != "linux":
        pytest.skip("threads are shared on Linux alone")
    code = fake_torch(workshop.folder, runtime)
    code += """
gcc, clang = build.Compiler((), "g++ (GCC) 12.2.0"), build.Compiler((), "clang version 14.0.6")
print(build._openmp(gcc), build._openmp(clang))
"""
    assert output(workshop.child(code)) == f"{expected}\n"


def test_macos_gets_no_threads(monkeypatch):
    """There a symbol is bound to the library it was linked with, which is not torch's."""
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not build._openmp(Compiler((), "g++ (GCC) 12.2.0"))


def test_torch_and_the_kernels_run_on_the_same_two_threads(threads):
    code = """
import importlib, os, torch
importlib.reload(build)  # with its own _openmp
torch.set_num_threads(2)
alone = len(os.listdir("/proc/self/task"))
torch.ones(1 << 20).add(1)
before = len(os.listdir("/proc/self/task"))
got = build.library("float", source, cache)
seen = got.cdll.threads(2)
print("no OpenMP" in got.about, seen, alone < before, len(os.listdir("/proc/self/task")) - before)
"""
    # Two threads, or one where torch's runtime does not serve the compiler: never others.
    expected = ("False 2 True 0\n", "True 1 True 0\n")
    got = output(threads.child(code))
    assert got == expected["clang" in build._compiler().version], got
