"""One process at a time writes a run, and whoever was overtaken sends nothing."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lenet.__main__ import main as lenet
from lenet.config.build import build
from lenet.tracking.journal import Journal
from lenet.tracking.names import HEARTBEAT_TAG, PROCESS_TAG, TrackingError
from lenet.tracking.outbox import send
from lenet.tracking.provenance import process_identity
from lenet.tracking.turns import is_worked_on
from lenet.tracking.variables import adopt_run
from lenet.training.progress import Epoch
from tests.conftest import LIMIT, ROOT, copy_store
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
def test_of_two_processes_that_extend_one_run_one_gets_it(lab):
    run_id = lab.whole(*QUICK, "schedule=constant", "epochs=2")
    both = [lab.start(f"resume={run_id}", "epochs=40") for _ in range(2)]
    ends = [process.communicate(timeout=LIMIT) for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], ends
    (loser,) = [n for n in (0, 1) if both[n].returncode == 2]
    assert "Epoch" not in ends[loser][0]
    assert ends[loser][1].count("\n") == 1
    steps = [step for key, step, _ in points_of(lab, run_id) if key == "train/loss"]
    assert steps == list(range(1, 41))
    assert list(lab.waiting.glob("*/run.json")) == []


def test_a_folder_that_comes_back_does_not_touch_the_finished_run(desk):
    run_id, folder = desk.died()
    shutil.move(folder, desk.folder / "away")
    desk.typed(f"resume={run_id}")
    before = points_of(desk, run_id)
    shutil.move(desk.folder / "away", folder)
    journal = (folder / "journal.jsonl").read_bytes()
    assert lenet(["send"]) == 2
    err = desk.capsys.readouterr().err
    assert err.count("\n") == 1
    assert "was resumed elsewhere since" in err
    assert points_of(desk, run_id) == before
    assert desk.client.get_run(run_id).info.status == "FINISHED"
    assert "lenet.error" not in desk.client.get_run(run_id).data.tags
    assert (folder / "journal.jsonl").read_bytes() == journal


def test_a_folder_that_lost_its_records_does_not_end_a_finished_run_again(desk):
    run_id, folder = desk.died()
    desk.client.set_terminated(run_id, "FINISHED")
    (folder / "journal.jsonl").write_text("")  # a power failure
    assert lenet(["send"]) == 0
    run = desk.client.get_run(run_id)
    assert (run.info.status, "lenet.error" in run.data.tags) == ("FINISHED", False)
    assert not folder.exists()


def test_a_refused_resume_keeps_the_folder_of_a_run_that_lost_its_records(desk):
    run_id, folder = desk.died()
    (folder / "journal.jsonl").write_text("")  # a power failure
    next(desk.folder.glob("mlruns/**/config.yaml")).unlink()
    assert "start it again" in desk.typed(f"resume={run_id}", status=2)
    assert lenet(["send"]) == 0
    assert desk.client.get_run(run_id).info.status == "KILLED"
    assert not folder.exists()


def test_what_is_sent_between_reading_a_run_and_taking_its_turn_is_there_once(desk):
    def log(run, *epochs):
        for epoch in epochs:
            run.log_epoch(Epoch(1.0, 1, 2, epoch, [], 0.1, 1.0, None, True))

    run_id, folder = desk.died()
    journal = Journal.open(folder)
    journal.log_points({"train/loss": 1.0}, 1)  # what it could not send
    journal.close()
    shutil.move(folder, desk.folder / "away")

    def train(settings):
        shutil.move(desk.folder / "away", folder)
        send(folder, 60)
        with build(settings.config, "tracking", settings) as run:
            log(run, 1, 2)

    desk.typed(f"resume={run_id}", train=train)
    points = desk.client.get_metric_history(run_id, "train/loss")
    assert [point.step for point in points] == [1, 2]


@pytest.mark.slow
def test_of_two_processes_with_one_mlflow_run_id_one_gets_it(lab):
    run_id = lab.client.create_run("0").info.run_id
    lab.env["MLFLOW_RUN_ID"] = run_id
    both = [lab.start(*QUICK, "epochs=2") for _ in range(2)]
    del lab.env["MLFLOW_RUN_ID"]
    ends = [process.communicate(timeout=LIMIT) for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], ends
    (loser,) = [n for n in (0, 1) if both[n].returncode == 2]
    assert ends[loser][0] == ""
    assert ends[loser][1].startswith(f"error: MLFLOW_RUN_ID={run_id}: ")
    assert ends[loser][1].count("\n") == 1
    assert [step for key, step, _ in points_of(lab, run_id) if key == "train/loss"] == [1, 2]


def test_a_run_that_two_processes_adopt_at_once_is_one_s(desk):
    client = desk.client
    run_id = client.create_run("0").info.run_id

    class Slow:
        """Another process adopts the run after this one has looked at it."""

        def __getattr__(self, name):
            return getattr(client, name)

        def get_run(self, run_id):
            run = client.get_run(run_id)
            adopt_run(client, run_id, {"who": "first"}, "host 1 1")
            return run

    with pytest.raises(TrackingError, match=rf"^MLFLOW_RUN_ID={run_id}: "):
        adopt_run(Slow(), run_id, {"who": "second"}, "host 2 2")
    assert client.get_run(run_id).data.tags["who"] == "first"


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
