"""One process at a time writes a run, and whoever was overtaken sends nothing."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lenet.tracking.client import HEARTBEAT_TAG, PROCESS_TAG
from lenet.tracking.provenance import process_identity
from lenet.tracking.turns import is_worked_on
from tests.conftest import ROOT, copy_store
from tests.support.lab import BASE, PLAIN, Bench

QUICK = [*BASE, *PLAIN, "log_interval=5"]


@pytest.fixture(scope="module")
def lab(empty_store, tmp_path_factory):
    lab = Bench(tmp_path_factory.mktemp("turns"))
    copy_store(empty_store, lab.folder)
    return lab


def points_of(lab, run_id):
    run = lab.client.get_run(run_id)
    history = [p for name in run.data.metrics for p in lab.client.get_metric_history(run_id, name)]
    return sorted((point.key, point.step, point.timestamp) for point in history)


@pytest.mark.slow
def test_a_folder_that_comes_back_does_not_touch_the_finished_run(lab):
    run_id = lab.killed(*QUICK, "epochs=60")
    (folder,) = [p.parent for p in lab.waiting.glob("*/run.json") if run_id in p.read_text()]
    shutil.move(folder, lab.folder / "away")
    lab.run(f"resume={run_id}")
    before = points_of(lab, run_id)
    shutil.move(lab.folder / "away", folder)
    journal = (folder / "journal.jsonl").read_bytes()
    command = [sys.executable, "-m", "lenet", "send"]
    env = lab.env | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "was resumed elsewhere since" in done.stderr
    assert points_of(lab, run_id) == before
    assert lab.client.get_run(run_id).info.status == "FINISHED"
    assert "lenet.error" not in lab.client.get_run(run_id).data.tags
    assert (folder / "journal.jsonl").read_bytes() == journal
    assert "was resumed elsewhere since" in lab.refuse(f"resume={run_id}")
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_run_goes_on_in_the_store_where_it_began_and_says_so(lab):
    run_id = lab.killed(*QUICK, "epochs=60")
    elsewhere = Bench(lab.folder)
    elsewhere.env["MLFLOW_TRACKING_URI"] = f"sqlite:///{lab.folder}/other.db"
    out, _ = elsewhere.run(f"resume={run_id}")
    assert f"; it is in {lab.uri}\n" in out
    assert lab.client.get_run(run_id).info.status == "FINISHED"
    assert not (lab.folder / "other.db").exists()


@pytest.mark.slow
def test_of_two_processes_that_extend_one_run_one_gets_it(lab):
    run_id = lab.whole(*QUICK, "schedule=constant", "epochs=2")
    both = [lab.start(f"resume={run_id}", "epochs=40") for _ in range(2)]
    ends = [process.communicate(timeout=120) for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], ends
    (loser,) = [n for n in (0, 1) if both[n].returncode == 2]
    assert "Epoch" not in ends[loser][0]
    assert ends[loser][1].count("\n") == 1
    steps = [step for key, step, _ in points_of(lab, run_id) if key == "train/loss"]
    assert steps == list(range(1, 41))
    assert list(lab.waiting.glob("*/run.json")) == []


def test_a_process_of_another_machine_is_alive_as_long_as_it_gives_signs():
    tags, now = {PROCESS_TAG: "another 1 1 boot 1"}, int(time.time())
    assert is_worked_on("RUNNING", tags, "") is None
    assert is_worked_on("RUNNING", tags | {HEARTBEAT_TAG: str(now - 60)}, "")
    assert is_worked_on("RUNNING", tags | {HEARTBEAT_TAG: str(now - 3600)}, "") is False
    assert is_worked_on("FINISHED", tags | {HEARTBEAT_TAG: str(now)}, "") is False


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="needs root, unshare")
def test_a_process_is_not_declared_dead_from_another_namespace():
    code = (
        "import sys; from lenet.tracking.provenance import is_alive; print(is_alive(sys.argv[1]))"
    )
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    done = subprocess.run(
        [*command, process_identity()], cwd=Path(ROOT), capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"no namespaces here: {done.stderr[-80:]}")
    assert done.stdout == "None\n"
