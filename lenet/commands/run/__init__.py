"""Train one network or a sweep: the same as `python run.py`."""

import runpy
import sys
from collections.abc import Sequence

from lenet.config.labs import lab_folder


def main(argv: Sequence[str]) -> None:
    story = str(lab_folder() / "run.py")
    sys.argv = [story, *argv]
    runpy.run_path(story, run_name="__main__")
