"""C++ sources -> a shared library: built at first use, kept in a cache, loaded by ctypes."""

import ctypes
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

HERE = Path(__file__).resolve().parent
# Not -ffast-math: linked into a library it sets flush-to-zero for the process that loads it.
FLAGS = (
    *("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    *("-fPIC", "-shared", "-pthread", "-Wall"),
)
NATIVE_FLAGS = ("-march=native", "-mcpu=native")  # each compiler knows one of them
LOCK_SECONDS = 300


class BuildError(RuntimeError):
    """The kernels cannot be built or loaded. One line says why."""


@dataclass(frozen=True)
class Compiler:
    """A command with its flags, its name, and the macros that it defines for this processor."""

    command: tuple[str, ...]
    name: str
    macros: str


@dataclass(frozen=True)
class Library:
    """The loaded kernels, and the name of the compiler that built them."""

    cdll: ctypes.CDLL
    compiler: str


def library(source: Path = HERE) -> Library:
    """The kernels of `source`, loaded from the cache, or compiled first, which takes seconds.

    Raises: BuildError if there is no compiler, or it fails, or its library cannot be kept or
    loaded.
    """
    if sys.platform == "win32":
        raise BuildError("the CPU kernels are built on Linux and macOS alone, this is Windows")
    compiler = find_compiler()
    share_threads()
    kept = cache_folder() / f"{_key(compiler, source)}.so"
    try:
        return Library(_load(kept) or _build(compiler, source, kept), compiler.name)
    except (OSError, NotImplementedError) as error:  # the latter: a disk that cannot lock
        reason = getattr(error, "strerror", None) or error
        raise BuildError(
            f"the CPU kernels can't be kept in {kept.parent} ({reason}); "
            "set LENET_CACHE to another folder"
        ) from None


def _load(path: Path) -> ctypes.CDLL | None:
    """The library in the cache; None if there is none, or it is another user's, or broken."""
    try:
        return ctypes.CDLL(str(path)) if path.stat().st_uid == os.geteuid() else None
    except OSError:
        return None


def _build(compiler: Compiler, source: Path, kept: Path) -> ctypes.CDLL:
    """Of processes that start together one compiles, the others wait for it."""
    kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Before the lock, which waits for minutes in some folders that cannot be written.
    with tempfile.TemporaryDirectory(prefix=".new-", dir=kept.parent) as folder:
        with FileLock(kept.with_suffix(".lock"), timeout=LOCK_SECONDS):
            if cdll := _load(kept):
                return cdll  # built while this process waited
            print(f"Building the CPU kernels with {compiler.name} (a few seconds)", file=sys.stderr)
            new = Path(folder, kept.name)
            done = _run([*compiler.command, *map(str, source.glob("*.cpp")), "-o", str(new)])
            if done.returncode:
                why = _first_error(done)
                raise BuildError(f"{compiler.name} can't build the CPU kernels: {why}")
            os.replace(new, kept)
            return ctypes.CDLL(str(kept))


def find_compiler() -> Compiler:
    """$CXX, else the first of c++, g++ and clang++.

    Raises: BuildError if there is none.
    """
    try:
        given = shlex.split(os.environ.get("CXX", ""))
    except ValueError as error:
        raise BuildError(f"CXX: expected a C++ compiler ({error})") from None
    paths = map(shutil.which, given[:1] or ("c++", "g++", "clang++"))
    path = next(filter(None, paths), None)
    if path is None and given:
        raise BuildError(f"CXX: expected a C++ compiler, found no command {given[0]}")
    if path is None:
        raise BuildError(
            "no C++ compiler: install g++ or clang (Debian, Ubuntu: apt install g++; "
            "macOS: xcode-select --install), or set CXX"
        )
    for flag in NATIVE_FLAGS:
        command = (path, *given[1:], *FLAGS, flag)
        done = _run([*command, "-dM", "-E", "-x", "c++", os.devnull])
        if not (version := re.search(r'__VERSION__ "\D*([\d.]+)', done.stdout)):
            continue
        name = f"{'clang++' if '__clang__' in done.stdout else 'g++'} {version[1]}"
        openmp = ("-fopenmp",) if sys.platform == "linux" and name.startswith("g++") else ()
        return Compiler((*command, *openmp), name, done.stdout)
    raise BuildError(f"{path}: expected a compiler like g++ or clang ({_first_error(done)})")


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    env = os.environ | {"LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, text=True, errors="replace", env=env)


def _first_error(done: "subprocess.CompletedProcess[str]") -> str:
    lines = done.stderr.splitlines() or [f"exit status {done.returncode}"]
    return next((line for line in lines if "error:" in line), lines[0]).strip()


def share_threads() -> None:
    """Loads torch's OpenMP runtime for the kernels to find. They would bring another one, with
    threads of its own, if torch's has a name like libgomp-1a2b3c4d.so.1, as in some of its wheels.
    """
    import torch

    for path in Path(torch.__file__).parent.glob("lib/libgomp*"):
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


def cache_folder() -> Path:
    """$LENET_CACHE, else lenet/native in the user's cache folder."""
    if chosen := os.environ.get("LENET_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(platformdirs.user_cache_dir("lenet"), "native")


def _key(compiler: Compiler, source: Path) -> str:
    """A hash of all that the library depends on. The macros tell apart processors of which one
    cannot run the other's code; machines of both kinds may share a home folder.
    """
    files = [path for path in sorted(source.iterdir()) if path.suffix in (".cpp", ".h")]
    contents = [(path.name, path.read_bytes()) for path in files]
    return hashlib.sha256(repr((contents, compiler, os.geteuid())).encode()).hexdigest()[:32]
