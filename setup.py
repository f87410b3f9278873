"""What setup.cfg cannot say: run.py, conf/ and sweeps/ travel in the package, as lenet/lab/."""

from pathlib import Path
from shutil import copy2, copytree

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithLab(build_py):
    def run(self) -> None:
        super().run()
        if self.editable_mode:  # `lenet.config.labs.lab_folder` is the checkout then
            return
        lab = Path(self.build_lib, "lenet", "lab")
        for folder in ("conf", "sweeps"):
            copytree(folder, lab / folder, dirs_exist_ok=True)
        copy2("run.py", lab)


setup(cmdclass={"build_py": BuildWithLab})
