"""Where run.py, conf/ and sweeps/ are, and the packages of others that add options to them.

A package of yours is a lab of its own if it has an entry point in the group `lenet.labs` that names
it: its folders conf/ and sweeps/ are then searched after those here.
"""

from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
GROUP = "lenet.labs"  # of entry points


def lab_folder() -> Path:
    """The folder of run.py, conf/ and sweeps/: the checkout, or lenet/lab/ where the package was
    installed without one.
    """
    installed = PACKAGE / "lab"
    return installed if installed.is_dir() else PACKAGE.parent


def labs() -> list[Path]:
    """The folders with conf/ and sweeps/, first this lab's."""
    found = [find_spec(each.module) for each in entry_points(group=GROUP)]
    # None: the package is gone, its entry point was left behind.
    folders = [Path(str(spec.origin)).parent for spec in found if spec]
    return [lab_folder(), *sorted(folders)]


def conf_folders() -> list[Path]:
    """The folders of the config groups, first this lab's."""
    return [lab / "conf" for lab in labs()]


def sweep_files() -> list[Path]:
    """The files of all sweeps, by name. With `-cd sweeps` Hydra finds each of them."""
    files = [path for lab in labs() for path in (lab / "sweeps").glob("*.yaml")]
    return sorted(files, key=lambda path: path.name)
