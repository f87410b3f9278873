"""What several test modules need: configurations composed as run.py would, and the real data."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

# Several test processes share the cores. Torch reads this when it is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import HealthCheck, settings
from omegaconf import DictConfig

from lenet.model.layers import ScaledTanh, Subsample
from lenet.model.lenet5 import LeNet5

ROOT = Path(__file__).resolve().parents[1]
CONF = ROOT / "conf"

LONG = os.environ.get("LENET_LONG") == "1"
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


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    root = Path(os.environ.get("LENET_DATA", ""))
    if not (root / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip("needs MNIST's files: set LENET_DATA to their folder")
    return root.resolve()
