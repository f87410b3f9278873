"""The objective: what a search compares runs by, and the run that it ends early."""

import pickle
import time
from types import SimpleNamespace

from lenet.config.check import check
from lenet.tracking import Run
from lenet.tracking import client as store
from lenet.tracking.job import SweepJob
from lenet.tracking.objective import Result, is_hopeless
from lenet.tracking.settings import Settings
from lenet.training.progress import Epoch
from tests.conftest import copy_store


def test_the_best_epoch_so_far_is_held_against_the_bound_of_the_last():
    bounds = [None, 0.5, 0.6]
    assert not is_hopeless([0.1], bounds, maximize=True)
    assert is_hopeless([0.1, 0.2], bounds, maximize=True)
    assert not is_hopeless([0.1, 0.5], bounds, maximize=True)
    assert not is_hopeless([0.7, 0.2], bounds, maximize=True)
    assert not is_hopeless([0.1, 0.1, 0.1, 0.1], bounds, maximize=True)
    assert is_hopeless([0.9, 0.8], bounds, maximize=False)
    assert not is_hopeless([], bounds, maximize=True)


def test_a_result_is_a_number_that_travels_with_its_curve():
    copy = pickle.loads(pickle.dumps(Result(0.5, [0.4, 0.5], pruned=True)))
    assert (copy, copy.curve, copy.pruned) == (0.5, (0.4, 0.5), True)


def test_a_run_that_is_pruned_says_so(tmp_path, empty_store, composed, capsys):
    cfg = composed("data=digits", "data.val_size=100", "objective=val/loss")
    cfg.job = SweepJob("0" * 32, "1" * 64, trial=3, bounds=(None, 0.5)).plain()
    uri, folder = copy_store(empty_store, tmp_path), str(tmp_path / "waiting")
    run = Run(Settings(check(cfg), [], time.time()), uri=uri, folder=folder)
    val = SimpleNamespace(loss=0.6, accuracy=0.5)
    with run:
        for epoch in (1, 2):
            assert not run.pruned
            run.log_epoch(Epoch(1.0, 1, 2, epoch, [], 0.1, 1.0, val, True))
        assert run.pruned
    assert (run.result, run.result.curve, run.result.pruned) == (0.6, (0.6, 0.6), True)
    line = "Pruned after epoch 2: val/loss 0.6000, other trials had 0.5000"
    assert line in capsys.readouterr().out
    client = store.connect(uri)
    (one,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert one.info.status == "KILLED"
    assert (one.data.tags["lenet.pruned"], one.data.tags["lenet.trial"]) == ("2", "3")
