"""The process that sends a run: no signal ends it too early, and it never outlives its run."""

import re
import signal
import subprocess
import sys

import psutil
import pytest

from tests.conftest import LIMIT, ROOT, copy_store
from tests.support.lab import BASE, PLAIN, Bench

pytestmark = pytest.mark.slow
CHILD = "lenet.tracking.sender.child"


@pytest.fixture(scope="module")
def lab(empty_store, tmp_path_factory):
    lab = Bench(tmp_path_factory.mktemp("lab"))
    copy_store(empty_store, lab.folder)
    return lab


def training(lab):
    """A run in its fifth epoch, and the process that sends it."""
    process = lab.start(*BASE, *PLAIN, "epochs=1000")
    for line in process.stdout:
        if line.startswith("Epoch    5/"):
            break
    (sender,) = senders(lab)
    return process, sender


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_all_processes_leaves_a_run_with_its_status(lab, number):
    process, sender = training(lab)
    for pid in (sender.pid, process.pid):
        psutil.Process(pid).send_signal(number)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + number, err
    assert "Traceback" not in err
    assert lab.runs()[-1].info.status == "KILLED"
    assert not list(lab.waiting.glob("*"))
    sender.wait(LIMIT)


def test_a_killed_training_takes_its_sender_along(lab):
    process, sender = training(lab)
    process.kill()
    process.communicate()
    sender.wait(LIMIT)


def test_without_its_sender_a_training_goes_on_and_its_records_can_be_sent(lab):
    process = lab.start(*BASE, *PLAIN, "epochs=300")
    for line in process.stdout:
        if line.startswith("Epoch   5/"):
            break
    psutil.Process(process.pid).children()[0].kill()
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 0, err
    assert "Traceback" not in err
    assert "the process that sends records to MLflow has died" in err
    (command,) = re.findall(r"lenet send ([0-9a-f]{32})", err)
    send = [sys.executable, "-m", "lenet", "send", command]
    subprocess.run(send, env=lab.env, cwd=ROOT, check=True, capture_output=True)
    run = lab.runs()[-1]
    assert run.info.status == "FINISHED"
    points = lab.client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in points] == list(range(1, 301))


def test_a_refused_run_leaves_no_sender(lab):
    lab.refuse(*BASE, "tracking.experiment=99")
    lab.refuse("data=mnist", "data.download=false", "data.root=nowhere")
    assert not senders(lab)


def senders(lab):
    """The living processes that send runs of this lab; other tests have theirs meanwhile."""
    found = psutil.process_iter(["cwd", "cmdline"])
    return [p for p in found if p.info["cwd"] == str(lab.folder) and CHILD in p.info["cmdline"]]
