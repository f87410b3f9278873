"""The lab as an installed package in a folder without a checkout, beside a lab of one's own."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lenet import __main__ as door
from tests.conftest import LIMIT, ROOT
from tests.support.lab import PLAIN

BUILD = "from setuptools import build_meta; build_meta.build_{kind}({folder!r})"
SOURCES = ("setup.py", "setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
MYLAB = ROOT / "examples" / "mylab"


def build(kind: str, source: Path, folder: Path) -> Path:
    """An `sdist` or a `wheel` of a source tree."""
    code = BUILD.format(kind=kind, folder=str(folder))
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    (found,) = folder.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a source distribution, as a package registry would have it."""
    source = tmp_path_factory.mktemp("source")
    for name in (*SOURCES, "run.py"):
        shutil.copy(ROOT / name, source)
    for name in ("conf", "sweeps", "lenet"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    unpacked = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(build("sdist", source, tmp_path_factory.mktemp("sdist"))) as archive:
        archive.extractall(unpacked, filter="data")
    (tree,) = unpacked.iterdir()
    return build("wheel", tree, tmp_path_factory.mktemp("wheel"))


def test_a_wheel_has_the_package_its_story_its_options_and_its_sweeps(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = [*ROOT.glob("lenet/**/*.*"), *ROOT.glob("conf/**/*.*"), *ROOT.glob("sweeps/*.yaml")]
    paths = [path.relative_to(ROOT) for path in [ROOT / "run.py", *files] if path.is_file()]
    kept = [path for path in paths if path.suffix not in (".pyc", ".so")]
    inside = {str(p if p.parts[0] == "lenet" else Path("lenet/lab", p)) for p in kept}
    assert names == inside


@pytest.fixture(scope="module")
def lenet(wheel, tmp_path_factory):
    """Runs `lenet` with these words where it and `mylab` are installed. Returns: what it prints."""
    site, folder = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("empty")
    mylab = shutil.copytree(MYLAB, tmp_path_factory.mktemp("own") / "mylab")
    for package in (wheel, mylab):
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", site]
        subprocess.run([sys.executable, "-m", "pip", "install", *options, package], check=True)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "LENET_RUNS", "LENET_DATA", "HYDRA_FULL_ERROR"):
            patch.delenv(name, raising=False)
        patch.setenv("PYTHONPATH", str(site))
        patch.chdir(folder)
        yield call


def call(*words: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "lenet", *words],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LIMIT,
    )
    assert done.returncode == status, done.stdout
    return done.stdout


@pytest.mark.slow
def test_an_installed_lab_runs_sweeps_judges_and_predicts(lenet):
    small = ("data=digits", "epochs=1", *PLAIN)
    out = lenet("run", *small)
    assert "Accuracy of the network on the 360 test images" in out
    assert Path("mlflow.db").is_file(), "the store is in the current folder"
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save("bar.png")
    assert lenet("predict", "latest", "bar.png").startswith("bar.png: ")
    out = lenet("run", "-m", *small, "optimizer.momentum=0.5,0.9")
    assert "2 finished runs, 2 settings" in out
    assert "2 finished runs, 2 settings" in lenet("report", "latest")
    assert "3 jobs to run" in lenet("run", "-cd", "sweeps", "-cn", "momentum", "sweep.dry=true")
    assert "_target_: torch.optim.SGD" in lenet("run", "--cfg", "job")
    mistake = "error: optimizer.lrr: no such key; did you mean optimizer.lr?\n"
    assert lenet("run", "optimizer.lrr=1", status=2) == mistake


@pytest.mark.slow
def test_a_lab_of_ones_own_adds_its_options_by_its_installation(lenet):
    help = lenet("run", "--help")
    for group, option in [("model", "wide"), ("loss", "focal"), ("data", "bars")]:
        (line,) = [line for line in help.splitlines() if line.startswith(f"  {group} ")]
        assert option in line.split(maxsplit=1)[1].split(", ")
    out = lenet("run", "experiment=bars", *PLAIN)
    assert "Accuracy of the network on the 100 test images: 100.00%" in out
    assert "Epoch 4/4" in lenet("run", "resume=latest", "epochs=4")
    out = lenet("run", "-cn", "width", "epochs=1", *PLAIN)
    assert "4 finished runs, 2 settings" in out
    Image.fromarray(np.eye(28, dtype=np.uint8) * 255).save("bar.png")
    assert "horizontal" in lenet("predict", "latest", "bar.png")
    assert "width" in lenet("run", "-cn", "widht", status=2).split(" has ")[1].strip().split(", ")
    mistake = "error: model.widht: no such key; did you mean model.width?\n"
    assert lenet("run", "model=wide", "model.widht=8", status=2) == mistake


@pytest.mark.slow
def test_the_targets_of_a_lab_that_is_not_installed_are_refused(lenet, monkeypatch, capsys):
    lenet("run", "experiment=bars", *PLAIN, "epochs=1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{Path.cwd() / 'mlflow.db'}")
    assert door.main(["predict", "latest", "none.png"]) == 2
    assert "data._target_='mylab.load_bars': not allowed" in capsys.readouterr().err


def test_the_example_of_a_lab_has_60_lines_at_most():
    files = [*MYLAB.rglob("*.py"), *MYLAB.rglob("*.yaml")]
    assert 0 < sum(len(path.read_text().splitlines()) for path in files) <= 60
