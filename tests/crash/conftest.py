"""A lab in which commands cost a tenth of their time."""

import os
from collections.abc import Iterator

import pytest

from tests.crash.effects import library
from tests.crash.lab import Lab
from tests.crash.typist import Typist

SEED = int(os.environ.get("LENET_SEED", "1"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("crash")
    built = library(folder)
    with Typist(built) as typist:
        yield Lab.at(folder / "lab", typist, built)
