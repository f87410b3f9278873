"""What several test modules need: configurations composed as run.py would, and the real data."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Several test processes share the cores. Torch reads this when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# As where the environment is activated: what the lab tells people to type begins with `python`.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, settings
from omegaconf import DictConfig

from lenet.model.layers import ScaledTanh, Subsample
from lenet.model.lenet5 import LeNet5
from lenet.native.op import build_once

if TYPE_CHECKING:
    from tests.support.typed import Desk

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"
LIMIT = 600  # seconds: a process that needs more hangs; a slow machine needs many

LONG = os.environ.get("LENET_LONG") == "1"
long = pytest.mark.skipif(not LONG, reason="needs LENET_LONG=1")
settings.register_profile(
    "lenet",
    deadline=None,
    max_examples=1000 if LONG else 8,
    derandomize=not LONG,
    # Examples may share a folder that each of them writes anew, and other processes the processor.
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("lenet")


def lenet5_1998() -> LeNet5:
    """The paper's network, as conf/model/lenet5_1998.yaml has it."""
    return LeNet5(
        activation=ScaledTanh,
        pooling=Subsample,
        connections="table_i",
        output="rbf",
        initialisation="released",
    )


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., DictConfig]]:
    monkeypatch.delenv("LENET_DATA", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield lambda *overrides: compose("config", overrides=list(overrides))


@pytest.fixture
def use_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Sets $CXX, and has this process look for the kernels again; once more after the test."""

    def use(command: str) -> None:
        monkeypatch.setenv("CXX", command)
        build_once.cache_clear()

    yield use
    build_once.cache_clear()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database to copy, because it takes seconds to make one."""
    from lenet.tracking.client import connect  # late: MLflow takes a second to import

    path = tmp_path_factory.mktemp("empty_store") / "mlflow.db"
    connect(f"sqlite:///{path}")
    return path


def copy_store(empty_store: Path, folder: Path) -> str:
    """The address of a new store in `folder`."""
    return f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}"


@pytest.fixture
def desk(
    empty_store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> "Desk":
    from tests.support.typed import Desk  # late: MLflow takes a second to import

    return Desk(tmp_path, copy_store(empty_store, tmp_path), capsys, monkeypatch)


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    root = Path(os.environ.get("LENET_DATA", ""))
    if not (root / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("needs MNIST's files: set LENET_DATA to their folder")
    return root.resolve()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("needs Debian's chromium")
    with playwright.sync_playwright() as running:
        options = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = running.chromium.launch(executable_path=chromium, args=options)
        yield browser
        browser.close()
