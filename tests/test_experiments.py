"""Every shipped experiment runs from its command, here for one short epoch."""

import pytest

from tests.conftest import CONF
from tests.support.lab import Bench

EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_trains_for_one_short_epoch(name, tmp_path, mnist_root):
    bench = Bench(tmp_path)
    bench.env["LENET_DATA"] = str(mnist_root)
    short = ("epochs=1", "data.train_size=300", "tracking.pictures=false", "tracking.model=false")
    bench.run(f"experiment={name}", *short)
    (run,) = bench.runs()
    assert run.info.status == "FINISHED"
    assert run.data.tags["lenet.dataset"] == "mnist"
    # Chance is 0.1. One short epoch need not learn, but it must not diverge.
    assert 0.05 < run.data.metrics["test/accuracy"] <= 1
    assert run.data.metrics["train/loss"] < 100
