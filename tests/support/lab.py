"""Folders with a tracking store of their own, where run.py is started as a user would."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import mlflow
import pytest
import yaml
from mlflow.tracking import MlflowClient

from lenet.data.tensor_files import load
from lenet.tracking.client import connect
from lenet.tracking.compare import is_timed
from tests.conftest import LIMIT, ROOT

BASE = ["data=digits", "device.threads=1"]
PLAIN = ["tracking.pictures=false", "tracking.model=false"]


class Lab:
    """A folder in which run.py is started, with a store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        self.env = {k: v for k, v in os.environ.items() if k != "HYDRA_FULL_ERROR"} | {
            "MLFLOW_TRACKING_URI": self.uri,
            "LENET_RUNS": str(folder / "waiting"),
            "PYTHONUNBUFFERED": "1",
        }

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *arguments],
            cwd=self.folder,
            env=self.env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=LIMIT)
        assert process.returncode == status, out + err
        return out, err

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.uri)

    def runs(self):
        ids = [e.experiment_id for e in self.client.search_experiments()]
        return self.client.search_runs(ids, order_by=["attributes.start_time ASC"])

    def points(self, run):
        """How often the run has each point; those of timed metrics without their values."""
        return Counter(
            (point.key, point.step, 0 if is_timed(name) else point.value)
            for name in run.data.metrics
            for point in self.client.get_metric_history(run.info.run_id, name)
        )

    def artifacts(self, run, path=""):
        found = []
        for item in self.client.list_artifacts(run.info.run_id, path):
            found += self.artifacts(run, item.path) if item.is_dir else [item.path]
        return found


class SweepLab(Lab):
    """A lab for sweeps, in an experiment of its own."""

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        experiment = f"tracking.experiment={self.folder.name}"
        return super().start("-m", "data=digits", *PLAIN, experiment, *arguments)

    def runs(self):
        found = self.client.get_experiment_by_name(self.folder.name)
        ids = [found.experiment_id] if found else []
        order = ["attributes.start_time ASC"]
        return self.client.search_runs(ids, order_by=order) if ids else []

    def family(self):
        """The parent run of the only sweep, and the runs of its jobs."""
        runs = self.runs()
        (parent,) = [run for run in runs if "lenet.sweep" in run.data.tags]
        found = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        assert len(found) + 1 == len(runs)
        return parent, found

    def steps(self, run):
        history = self.client.get_metric_history(run.info.run_id, "train/loss")
        return sorted(point.step for point in history)

    def wait_for_training(self, process, among=lambda pid: True):
        """A running job with more than three epochs in the store, and its process id."""
        connect(self.uri)  # it waits where another process makes the database
        end = time.monotonic() + LIMIT
        while time.monotonic() < end and process.poll() is None:
            for run in self.runs():
                if "lenet.sweep.job" in run.data.tags and run.info.status == "RUNNING":
                    pid = int(run.data.tags["lenet.process"].split()[1])
                    if among(pid) and len(self.steps(run)) > 3:
                        return run, pid
            time.sleep(0.2)
        process.kill()
        out, err = process.communicate()
        return pytest.fail(f"no job trains\n{out}{err}")


class Bench(Lab):
    """A lab whose runs are killed, refused and compared."""

    @property
    def waiting(self) -> Path:
        return Path(self.env["LENET_RUNS"])

    def last(self) -> str:
        return self.runs()[-1].info.run_id

    def killed(self, *arguments, after=20, number=signal.SIGKILL):
        """The id of a run that got this signal in the epoch after `after`."""
        process = self.start(*arguments)
        for line in process.stdout:
            if re.match(f"Epoch +{after}/", line):
                break
        process.send_signal(number)
        out, err = process.communicate(timeout=LIMIT)
        assert process.returncode != 0, out + err
        return self.last()

    def refuse(self, *arguments):
        """The error line of a command that is refused and changes nothing."""
        runs = [(r.info.run_id, r.info.status) for r in self.runs()]
        folders = sorted(self.waiting.glob("*"))
        _, err = self.run(*arguments, status=2)
        assert err.startswith("error: "), err
        assert err.count("\n") == 1, err
        assert [(r.info.run_id, r.info.status) for r in self.runs()] == runs
        assert sorted(self.waiting.glob("*")) == folders
        return err

    def whole(self, *arguments):
        self.run(*arguments)
        return self.last()

    def found(self, run_id):
        """What MLflow holds about a run and must be the same bits when the run is repeated."""
        run = self.client.get_run(run_id)
        points = {}
        for name in run.data.metrics:
            history = self.client.get_metric_history(run_id, name)
            timed = name.startswith("seconds/") or name == "images_per_second"
            points[name] = sorted((p.step, 0 if timed else p.value.hex()) for p in history)
        return {
            "status": run.info.status,
            "params": {k: v for k, v in run.data.params.items() if not k.startswith("lenet.")},
            "points": points,
            "tags": sorted(run.data.tags.keys() - {"lenet.resumed"}),
            "weights": run.data.tags["lenet.weights.sha256"],
            "inputs": [entry.dataset.digest for entry in run.inputs.dataset_inputs],
            # The patch is left out: the checkout may change while the tests run.
            "artifacts": sorted(set(self.artifacts(run)) - {"uncommitted.patch"}),
            "checkpoint": checkpoint_bits(self.artifact(run_id, "checkpoint.pt")),
            "model": self.logged_model(run),
        }

    def artifact(self, run_id, name):
        return Path(self.client.download_artifacts(run_id, name))

    def logged_model(self, run):
        """The weights of the logged model, as bits, and its step; None without a model."""
        outputs = run.outputs.model_outputs if run.outputs else []
        config = yaml.safe_load(self.artifact(run.info.run_id, "config.yaml").read_text())
        assert len(outputs) == int(config["tracking"]["model"])
        if not outputs:
            return None
        mlflow.set_tracking_uri(self.uri)
        model = mlflow.pytorch.load_model(f"models:/{outputs[0].model_id}")
        return as_bits(model.state_dict()), outputs[0].step


def as_bits(state):
    """Nested tensors, numbers and texts as one text, which differs where a bit differs."""
    return json.dumps(state, sort_keys=True, default=lambda t: [str(t.dtype), t.tolist()])


def checkpoint_bits(path):
    """The state in a checkpoint, as bits, without the times."""
    state = load(path)
    for epoch in state["progress"]["history"]:
        del epoch["steps"], epoch["seconds"]
    return as_bits(state)


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert one[key] == other[key], key
