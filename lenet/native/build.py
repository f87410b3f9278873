"""C++ sources -> a shared library: built at first use, kept in a cache, loaded by ctypes."""

import ctypes
import hashlib
import itertools
import os
import platform
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Not -ffast-math: linked into a library it sets flush-to-zero for the process that loads it.
FLAGS = (
    *("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    *("-fPIC", "-shared", "-Wall"),
)
# Compilers differ in which of these they know: the first that works is used.
NATIVE_FLAGS = (("-march=native",), ("-mcpu=native",), ())
OPENMP_FLAGS = ("-fopenmp",)
COMPILE_SECONDS = 120
LOCK_SECONDS = 300
CPUINFO = Path("/proc/cpuinfo")
CPU_LINES = ("model name", "flags", "Features", "CPU ", "isa", "cpu\t")  # x86, ARM, RISC-V, POWER


class BuildError(RuntimeError):
    """The kernels cannot be built or loaded. One line says why."""


@dataclass(frozen=True)
class Library:
    """The loaded kernels. `about` names the compiler, and says so if they run on one thread."""

    cdll: ctypes.CDLL
    about: str


@dataclass(frozen=True)
class Compiler:
    """A command and everything that its `--version` prints."""

    command: tuple[str, ...]
    version: str

    @property
    def is_clang(self) -> bool:
        return "clang" in self.version

    @property
    def name(self) -> str:
        """What it is, whatever its command is called: `c++` and `ccache` can be g++ or clang++."""
        file = os.path.basename(self.command[0])
        gcc = "g++" if "Free Software Foundation" in self.version else file
        first = re.sub(r"\(.*?\)", "", self.version.partition("\n")[0])
        number = re.search(r"\d+(\.\d+)+", first)
        return " ".join(["clang++" if self.is_clang else gcc, *([number[0]] if number else [])])


def library(real: str = "float", source: Path = HERE) -> Library:
    """The kernels of `source`, loaded from the cache, or compiled first, which takes seconds.

    If nothing can be written to the cache, they are built for this process alone.

    Raises: BuildError if there is no compiler, or it fails, or its library cannot be loaded.
    """
    if real not in ("float", "double"):
        raise ValueError(f"real: expected float or double, given {real}")
    if sys.platform == "win32":
        raise BuildError("the CPU kernels are built on Linux and macOS alone, this is Windows")
    compiler = find_compiler()
    openmp = can_share_threads(compiler)
    kept = cache_folder() / f"{_key(compiler, real, source, openmp)}.so"
    cdll = _kept_library(kept) or _build_and_keep(kept, compiler, real, source, openmp)
    # The symbol is found in the library and in what it is linked to, nowhere else.
    threads = "" if hasattr(cdll, "omp_get_max_threads") else ", no OpenMP, one thread"
    return Library(cdll, compiler.name + threads)


def _kept_library(path: Path) -> ctypes.CDLL | None:
    """The library in the cache; None if there is none, or another user could have written it, or it
    does not load.
    """
    try:
        status = path.lstat()
        ours = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid()
        return ctypes.CDLL(str(path)) if ours and not status.st_mode & 0o022 else None
    except OSError:
        return None


def _build_and_keep(
    kept: Path, compiler: Compiler, real: str, source: Path, openmp: bool
) -> ctypes.CDLL:
    """Of processes that start together one compiles, the others wait for it."""
    from filelock import FileLock

    try:
        kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(kept.with_suffix(".lock"), timeout=LOCK_SECONDS):
            if cdll := _kept_library(kept):
                return cdll  # built while this process waited
            new = kept.with_suffix(".new")
            _compile(compiler, real, source, openmp, new)
            new.chmod(0o700)
            os.replace(new, kept)
            return _load(kept)
    except (OSError, NotImplementedError) as error:  # the latter: a disk that cannot lock
        reason = getattr(error, "strerror", None) or error
        print(
            f"Warning: {kept.parent} can't keep the CPU kernels, each start builds them ({reason})",
            file=sys.stderr,
        )
    # The folder may go once the library is loaded: a mapped file stays.
    with tempfile.TemporaryDirectory(prefix="lenet-", ignore_cleanup_errors=True) as folder:
        built = Path(folder, "kernels.so")
        _compile(compiler, real, source, openmp, built)
        return _load(built)


def _load(path: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"the CPU kernels can't be loaded ({error})") from None


# ---- The compiler ----------------------------------------------------------------------------


def find_compiler() -> Compiler:
    """$CXX, else the first of c++, g++ and clang++.

    Raises: BuildError if there is none.
    """
    given = os.environ.get("CXX", "")
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise BuildError(f"CXX={given}: expected a C++ compiler ({error})") from None
    paths = map(shutil.which, words[:1] or ("c++", "g++", "clang++"))
    path = next(filter(None, paths), None)
    if path is None and words:
        raise BuildError(f"CXX={given}: expected a C++ compiler, found no command {words[0]}")
    if path is None:
        raise BuildError(
            "no C++ compiler: install g++ or clang (Debian, Ubuntu: apt install g++; "
            "macOS: xcode-select --install), or set CXX"
        )
    command = (os.path.abspath(path), *words[1:])
    status, output = _run([*command, "--version"])
    if status:
        raise BuildError(f"{path} --version: {_first_error(status, output)}")
    return Compiler(command, output)


def _run(command: list[str]) -> tuple[int, str]:
    """Exit status and output."""
    name = os.path.basename(command[0])
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"LC_ALL": "C"},
            text=True,
            errors="replace",
            timeout=COMPILE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"{name} was stopped: no end after {COMPILE_SECONDS} seconds") from None
    except OSError as error:
        raise BuildError(f"{name} can't be run ({error.strerror or error})") from None
    return done.returncode, done.stdout


def _first_error(status: int, output: str) -> str:
    """The first error line. A driver's own line about its linker says nothing."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    lines = [line for line in lines if not re.search("ld returned|linker command failed", line)]
    first = lines[0] if lines else f"exit status {status}"
    return next((line for line in lines if "error:" in line), first)


def _compile(compiler: Compiler, real: str, source: Path, openmp: bool, built: Path) -> None:
    print(f"Building the CPU kernels with {compiler.name} (once; a few seconds)", file=sys.stderr)
    files = map(str, sorted(source.resolve().glob("[!.]*.cpp")))
    command = [*compiler.command, *FLAGS, f"-DREAL={real}", *files, "-o", str(built)]
    for threads in (OPENMP_FLAGS, ()) if openmp else ((),):
        for native in NATIVE_FLAGS:
            status, output = _run([*command, *native, *threads])
            if status == 0 and built.is_file():
                return
    name = os.path.basename(compiler.command[0])
    raise BuildError(f"{name} can't build the CPU kernels: {_first_error(status, output)}")


# ---- One pool of threads ---------------------------------------------------------------------


class _Symbol(ctypes.Structure):
    """Dl_info of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def can_share_threads(compiler: Compiler) -> bool:
    """Whether the kernels can run on torch's threads. If so, torch's OpenMP runtime is now global.

    Another runtime would keep threads of its own beside torch's. Wheels bring a libgomp of their
    own, not always under a name that the linker knows, so the runtime is looked up from torch.
    """
    if sys.platform != "linux":
        return False  # macOS binds a symbol to the library it was linked with, not to torch's
    import torch

    try:
        function = ctypes.CDLL(torch._C.__file__).omp_get_max_threads
    except AttributeError:
        return False
    symbol = _Symbol()
    ctypes.CDLL(None).dladdr(ctypes.cast(function, ctypes.c_void_p), ctypes.byref(symbol))
    runtime = ctypes.CDLL(os.fsdecode(symbol.file), ctypes.RTLD_GLOBAL)
    # g++ calls GOMP_*, which all runtimes have; clang calls __kmpc_*, which libgomp lacks.
    return not compiler.is_clang or hasattr(runtime, "__kmpc_fork_call")


# ---- The cache -------------------------------------------------------------------------------


def cache_folder() -> Path:
    """$LENET_CACHE, else lenet/native in the user's cache folder."""
    if chosen := os.environ.get("LENET_CACHE"):
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("lenet"), "native")


def _key(compiler: Compiler, real: str, source: Path, openmp: bool) -> str:
    """A hash of everything the library depends on, and of its user."""
    files = [path for path in sorted(source.glob("[!.]*")) if path.suffix in (".cpp", ".h")]
    contents = [(path.name, path.read_bytes()) for path in files]
    flags = (FLAGS, NATIVE_FLAGS, OPENMP_FLAGS if openmp else (), real)
    machine = (platform.machine(), _cpu(), os.geteuid())
    return hashlib.sha256(repr((contents, flags, compiler, machine)).encode()).hexdigest()[:32]


def _cpu() -> str:
    """What "native" stands for. Where machines of several kinds share a home folder, a library of
    one would crash another.
    """
    try:
        with CPUINFO.open() as file:
            first = itertools.takewhile(str.strip, file)  # the other cores say the same
            return "".join(line for line in first if line.startswith(CPU_LINES))
    except OSError:
        return platform.processor()
