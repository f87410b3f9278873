"""One short run that several commands work on."""

import pytest

from tests.support.lab import Bench


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A lab with one run: an epoch on the embedded digits."""
    lab = Bench(tmp_path_factory.mktemp("trained"))
    lab.run("data=digits", "epochs=1", "tracking.pictures=false", "tracking.model=false")
    return lab


@pytest.fixture
def latest(trained, monkeypatch):
    """That lab, whose store the commands use."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", trained.uri)
    return trained
