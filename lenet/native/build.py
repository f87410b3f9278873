"""C++ sources -> a shared library: built at first use, kept, loaded by ctypes."""

import contextlib
import ctypes
import functools
import hashlib
import itertools
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Not -ffast-math: linked into a library it sets flush-to-zero for the process that loads it.
FLAGS = (
    *("-std=c++17", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    *("-fPIC", "-shared", "-Wall"),
)
NATIVE = ("-march=native", "-mcpu=native")  # the first that is accepted, or none
OPENMP = "-fopenmp"
PROBE = "#ifdef _OPENMP\n#include <omp.h>\n#endif\n"
COMPILE_SECONDS = 120
LOCK_SECONDS = 300
CPUINFO = Path("/proc/cpuinfo")
CPU_LINES = ("model name", "flags", "Features", "CPU ", "isa", "cpu\t")  # x86, ARM, RISC-V, POWER


class BuildError(RuntimeError):
    """The kernels can't be had: one line that says why."""


@dataclass(frozen=True)
class Library:
    """The loaded kernels; `about` names the compiler, and says so where they run on one thread."""

    cdll: ctypes.CDLL
    about: str


@dataclass(frozen=True)
class Compiler:
    """A command and all that its `--version` prints."""

    command: tuple[str, ...]
    version: str

    @property
    def file(self) -> str:
        return os.path.basename(self.command[0])

    @property
    def is_clang(self) -> bool:
        return "clang" in self.version

    @property
    def name(self) -> str:
        """By what it is, not by what it is called: `c++` and `ccache` can be either."""
        gcc = "g++" if "Free Software Foundation" in self.version else self.file
        first = re.sub(r"\(.*?\)", "", self.version.partition("\n")[0])
        number = re.search(r"\d+(\.\d+)+", first)
        return " ".join(["clang++" if self.is_clang else gcc, *([number[0]] if number else [])])


def library(real: str = "float", source: Path = HERE, cache: Path | None = None) -> Library:
    """Loads the kernels of `source`, from the cache or compiled first, which takes a few seconds.

    The cache is $LENET_CACHE unless given, else the user's own. Where it can't be written, the
    kernels are built for this process alone.

    Raises: BuildError where there is no compiler, or it fails, or its library can't be loaded.
    """
    if real not in ("float", "double"):
        raise ValueError(f"real: expected float or double, given {real}")
    if sys.platform == "win32":
        raise BuildError("the CPU kernels are built on Linux and macOS alone, this is Windows")
    compiler = _compiler()
    openmp = _openmp(compiler)
    key = _key(compiler, real, source, openmp)
    folder = _folder(cache)
    if path := _cached(folder, key):
        return _loaded(path, compiler)
    try:
        # It may go once the library is loaded: what is mapped stays.
        with tempfile.TemporaryDirectory(prefix="lenet-", ignore_cleanup_errors=True) as private:
            built = Path(private, "kernels.so")
            compile_all = functools.partial(_compile, compiler, real, source, openmp, built)
            return _loaded(_once(folder, key, built, compile_all), compiler)
    except OSError as error:
        raise BuildError(f"{tempfile.gettempdir()}: no room to build in ({error})") from None


def _loaded(path: Path, compiler: Compiler) -> Library:
    try:
        cdll = ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"the CPU kernels can't be loaded ({error})") from None
    # Found in the library or in what it is linked to, but not in what else is loaded.
    threads = hasattr(cdll, "omp_get_max_threads")
    return Library(cdll, compiler.name + ("" if threads else ", no OpenMP, one thread"))


# ---- The compiler ----------------------------------------------------------------------------


def _compiler() -> Compiler:
    given = os.environ.get("CXX", "")
    try:
        words = shlex.split(given)
    except ValueError as error:
        raise BuildError(f"CXX={given}: expected a C++ compiler ({error})") from None
    if words:
        path = shutil.which(words[0])
        if path is None:
            raise BuildError(f"CXX={given}: expected a C++ compiler, found no command {words[0]}")
    else:
        path = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
        if path is None:
            raise BuildError(
                "no C++ compiler: install g++ or clang (Debian, Ubuntu: apt install g++; "
                "macOS: xcode-select --install), or set CXX"
            )
    command = (os.path.abspath(path), *words[1:])
    status, output = _run([*command, "--version"])
    if status:
        raise BuildError(f"{words[0] if words else path} --version: {_reason(status, output)}")
    return Compiler(command, output)


def _run(command: list[str]) -> tuple[int, str]:
    """Exit status and output."""
    name = os.path.basename(command[0])
    try:
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"LC_ALL": "C"},
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            try:
                output, _ = process.communicate(timeout=COMPILE_SECONDS)
            except BaseException:
                # The driver's children too: cc1plus and ld would go on.
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
    except subprocess.TimeoutExpired:
        raise BuildError(f"{name} was stopped: no end after {COMPILE_SECONDS} seconds") from None
    except OSError as error:
        raise BuildError(f"{name} can't be run ({error.strerror or error})") from None
    return process.returncode, output


def _reason(status: int, output: str) -> str:
    """The first error line; the linker's drivers say theirs after the linker's own."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    lines = [line for line in lines if not re.search("ld returned|linker command failed", line)]
    first = lines[0] if lines else f"exit status {status}"
    return next((line for line in lines if "error:" in line), first)


def _compile(compiler: Compiler, real: str, source: Path, openmp: bool, built: Path) -> None:
    print(f"Building the CPU kernels with {compiler.name} (once; a few seconds)", file=sys.stderr)
    probe = built.with_name("probe.cpp")
    probe.write_text(PROBE)

    def accepted(flag: str) -> bool:
        trial = [flag, "-fPIC", "-shared", str(probe), "-o", str(probe.with_suffix(".so"))]
        return _run([*compiler.command, *trial])[0] == 0

    flags = [*FLAGS, f"-DREAL={real}"]
    flags += itertools.islice(filter(accepted, NATIVE), 1)
    flags += [OPENMP] if openmp and accepted(OPENMP) else []
    files = map(str, [*sorted(source.resolve().glob("[!.]*.cpp")), "-o", built])
    status, output = _run([*compiler.command, *flags, *files])
    if status or not built.is_file():
        reason = _reason(status, output)
        raise BuildError(f"{compiler.file} can't build the CPU kernels: {reason}")


# ---- One pool of threads ---------------------------------------------------------------------


class _Symbol(ctypes.Structure):
    """Dl_info of dlfcn.h."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def _openmp(compiler: Compiler) -> bool:
    """Whether the kernels can run on torch's threads; its OpenMP runtime is made global for that.

    Another runtime would keep threads of its own beside torch's. Wheels bring a libgomp of their
    own, not always by a name that the linker takes for it, so it is asked what torch is bound to.
    """
    if sys.platform != "linux":
        return False  # macOS binds a symbol to the library it was linked with, so to another one
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


def _folder(cache: Path | None) -> Path:
    chosen = cache or os.environ.get("LENET_CACHE")
    if not chosen:
        import platformdirs  # pooch.os_cache is this, behind an import of 0.1 s

        chosen = Path(platformdirs.user_cache_dir("lenet"), "native")
    return Path(os.path.expanduser(chosen)).absolute()


def _key(compiler: Compiler, real: str, source: Path, openmp: bool) -> str:
    """Names all that the library depends on, and whose it is: nobody loads what another built."""
    files = [path for path in sorted(source.glob("[!.]*")) if path.suffix in (".cpp", ".h")]
    if not any(path.suffix == ".cpp" for path in files):
        raise BuildError(f"{source}: expected C++ sources (*.cpp), found none")
    contents = [(path.name, path.read_bytes()) for path in files]
    flags = (FLAGS, NATIVE, OPENMP if openmp else "", real)
    machine = (platform.machine(), _cpu(), os.geteuid())
    return hashlib.sha256(repr((contents, flags, compiler, machine)).encode()).hexdigest()[:32]


def _cpu() -> str:
    """What "native" stands for: in a home of many machines one's library would crash another."""
    try:
        with CPUINFO.open() as file:
            first = itertools.takewhile(str.strip, file)  # the other cores say the same
            return "".join(line for line in first if line.startswith(CPU_LINES))
    except OSError:
        with contextlib.suppress(BuildError):
            status, output = _run(["sysctl", "-n", "machdep.cpu.brand_string"])
            return output if status == 0 else platform.processor()
        return platform.processor()


def _cached(folder: Path, key: str) -> Path | None:
    return next(filter(_is_intact, sorted(folder.glob(f"{key}-*.so"))), None)


def _is_intact(path: Path) -> bool:
    """Our own, and whole: to load a truncated library can end the process (SIGBUS)."""
    try:
        status = path.lstat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return False
        return path.stem.endswith("-" + hashlib.sha256(path.read_bytes()).hexdigest())
    except OSError:
        return False


def _once(folder: Path, key: str, built: Path, compile_all: Callable[[], None]) -> Path:
    """Of processes that start together one compiles. Returns where the library lies."""
    from filelock import FileLock

    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with FileLock(folder / f"{key}.lock", timeout=LOCK_SECONDS):
            if path := _cached(folder, key):
                return path  # built while this process waited
            compile_all()
            return _stored(built, folder, key)
    except (OSError, NotImplementedError) as error:  # the latter: filelock, on a disk without locks
        reason = getattr(error, "strerror", None) or error
        warning = f"Warning: {folder} can't keep the CPU kernels, each start builds them ({reason})"
        print(warning, file=sys.stderr)
    if not built.is_file():
        compile_all()
    return built


def _stored(built: Path, folder: Path, key: str) -> Path:
    content = built.read_bytes()
    for old in folder.glob(f"{key}-*"):
        old.unlink()  # damaged, not ours, or left by a process that was killed
    handle, temporary = tempfile.mkstemp(prefix=f"{key}-", suffix=".tmp", dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        path = folder / f"{key}-{hashlib.sha256(content).hexdigest()}.so"
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path
