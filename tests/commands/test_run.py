"""A run and a sweep from Python: what a notebook gets, and that it is what run.py makes."""

import os
import re
import signal
import sys
import threading
import time

import pandas as pd
import pytest
import torch

import lenet
from lenet.tracking.records import weights_sha256
from tests.conftest import copy_store
from tests.support.lab import PLAIN, Lab

SMALL = ["data=digits", "data.train_size=200", "data.val_size=100", "device.threads=1", "epochs=2"]


@pytest.fixture(scope="module")
def lab(empty_store, tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    copy_store(empty_store, lab.folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "LENET_RUNS"):
            patch.setenv(name, lab.env[name])
        patch.chdir(lab.folder)
        yield lab


@pytest.fixture(scope="module")
def made(lab):
    return lenet.run(*SMALL, "tracking.model=false")


def test_a_run_from_python_is_the_run_of_run_py(lab, made):
    lab.run(*SMALL, "tracking.model=false")
    ours, theirs = lab.runs()[0], lab.runs()[-1]
    assert ours.info.run_id == made.id != theirs.info.run_id
    assert ours.data.params == theirs.data.params
    assert ours.info.run_name == theirs.info.run_name
    ours, theirs = ours.data.tags, theirs.data.tags
    assert ours.keys() == theirs.keys()
    assert ours["lenet.weights.sha256"] == theirs["lenet.weights.sha256"]
    assert ours["lenet.weights.sha256"] == weights_sha256(made.model)


def test_a_run_has_its_results_as_frames_and_pictures(made):
    assert list(made.curves.index) == [1, 2]
    assert made.curves["val/accuracy"].between(0, 1).all()
    assert isinstance(made.metrics, pd.DataFrame)
    assert 0 <= made.metrics.value["test/accuracy"] <= 1
    assert made.params["data.train_size"] == 200
    assert {"curves", "mistakes"} <= made.figures.keys()
    assert made.figures["curves"].width > 100
    assert made.model(torch.zeros(1, 1, 32, 32)).shape == (1, 10)
    assert f"Run {made.id[:8]} " in repr(made)
    assert "test accuracy" in repr(made)


def test_a_run_is_loaded_by_the_beginning_of_its_id(made):
    assert lenet.load_run(made.id[:8]).metrics.equals(made.metrics)


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        (["optimizer.lrr=1"], "optimizer.lrr: no such key; did you mean optimizer.lr?"),
        (["optimizer=sgdd"], "optimizer=sgdd: no such option; expected one of"),
        (["optimizer.lr=-1"], "optimizer.lr=-1: should be greater than 0"),
        (["--epochs"], "--epochs: no such flag"),
        (["resume=abcd"], "no run id starts with 'abcd'"),
        # Hydra would read it as a number.
        ([f"resume={'1' * 29}e12"], f"{'1' * 29}e12: no such run"),
    ],
)
def test_a_mistake_is_an_exception_with_one_line(lab, mistake, line, capfd):
    with pytest.raises(ValueError, match=re.escape(line)) as caught:
        lenet.run(*mistake)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_run_leaves_the_process_as_it_was(made):
    before = sys.argv, torch.get_num_threads(), os.environ.get("HYDRA_FULL_ERROR", "0")
    with pytest.raises(ArithmeticError, match="loss is nan"):
        lenet.run(*SMALL, *PLAIN, "optimizer.lr=1e9")
    assert before == (sys.argv, torch.get_num_threads(), os.environ.get("HYDRA_FULL_ERROR"))
    assert lenet.load_run("latest").summary.status == "FAILED"


def test_an_interrupted_run_can_be_resumed_in_the_same_process(lab, made):
    def interrupt():
        while not list(lab.folder.glob("waiting/*/checkpoints/*.pt")):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        lenet.run(*SMALL[:-1], *PLAIN, "epochs=100")
    stopped = lenet.load_run("latest")
    assert stopped.summary.status == "KILLED"
    assert len(stopped.curves) < 100
    resumed = lenet.run(f"resume={stopped.id}")
    assert resumed.id == stopped.id
    assert len(resumed.curves) == 100


def test_flags_work_as_on_the_command_line(lab, capsys):
    assert lenet.run("--cfg", "job", "-p", "optimizer") is None
    assert "_target_: torch.optim.SGD" in capsys.readouterr().out
    assert lenet.sweep("-cd", "sweeps", "-cn", "momentum", "data=digits", "sweep.dry=true") is None
    assert "3 jobs to run" in capsys.readouterr().out


@pytest.mark.slow
def test_a_sweep_from_python_gives_frames_and_the_verdict(lab, monkeypatch, capfd):
    monkeypatch.setenv("FORCE_COLOR", "1")  # a notebook's kernel has it
    made = lenet.sweep(*SMALL[:-1], *PLAIN, "epochs=1", "optimizer.momentum=0.5,0.9", "seed=0,1")
    assert "Getting ready" not in capfd.readouterr().err
    assert len(made.runs) == 4
    assert list(made.settings["label"]) == list(made.verdict.settings["label"])
    assert made.verdict.best in ("momentum=0.5", "momentum=0.9")
    assert "4 finished runs, 2 settings" in repr(made)
    assert set(made.curves["run_id"]) == set(made.runs["run_id"])
    assert made.verdict.best in made.page
    again = lenet.load_sweep("latest")
    assert again.id == made.id
    assert again.runs.equals(made.runs)
