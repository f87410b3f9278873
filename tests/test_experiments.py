"""Every shipped experiment trains, here for one short epoch."""

import pytest

from tests.conftest import CONF
from tests.support.lab import PLAIN, Lab

# lecun1998_as_printed is lecun1998 by another name: a sweep runs no job twice.
EXPERIMENTS = sorted(
    path.stem
    for path in (CONF / "experiment").glob("*.yaml")
    if path.stem != "lecun1998_as_printed"
)


@pytest.mark.slow
def test_every_experiment_trains_for_one_short_epoch(tmp_path, mnist_root):
    lab = Lab(tmp_path)
    lab.env["LENET_DATA"] = str(mnist_root)
    short = ("epochs=1", "data.train_size=300", "sweep.report=false", *PLAIN)
    lab.run("-m", f"experiment={','.join(EXPERIMENTS)}", *short)
    sweep, *runs = lab.runs()
    assert len(runs) == len(EXPERIMENTS)
    for run in (sweep, *runs):
        assert run.info.status == "FINISHED", run.info.run_name
    for run in runs:
        # Chance is 0.1. One short epoch need not learn, but it must not diverge.
        assert 0.05 < run.data.metrics["test/accuracy"] <= 1
        assert run.data.metrics["train/loss"] < 100
