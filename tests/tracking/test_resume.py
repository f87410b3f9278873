"""A run that is killed and resumed has the same bits as one that was never killed."""

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lenet.data.tensor_files import load, save
from tests.conftest import copy_store
from tests.support.lab import BASE, PLAIN, Bench, assert_same

pytestmark = pytest.mark.slow

QUICK = [*BASE, *PLAIN, "log_interval=5"]
VALIDATED = [*QUICK, "data.val_size=100", "schedule=cosine"]
SMALL = [*VALIDATED, "epochs=60"]  # about three seconds, with a checkpoint after the first epoch
LONGER = [*VALIDATED, "epochs=150"]  # and one more


@pytest.fixture(scope="module")
def lab(empty_store, tmp_path_factory):
    lab = Bench(tmp_path_factory.mktemp("resume"))
    copy_store(empty_store, lab.folder)
    return lab


@pytest.fixture(scope="module")
def finished(lab):
    """The id of the small run, which nobody killed."""
    return lab.whole(*SMALL)


@pytest.fixture(scope="module")
def never_killed(lab, finished):
    """What the small run left in MLflow."""
    return lab.found(finished)


@pytest.fixture(scope="module")
def longer(lab):
    """What the longer run left in MLflow."""
    return lab.found(lab.whole(*LONGER))


def test_a_run_that_was_killed_and_resumed_has_the_same_bits(lab, never_killed):
    run_id = lab.killed(*SMALL)
    out, _ = lab.run(f"resume={run_id}")
    assert f"Going on with run {run_id} after " in out
    assert_same(lab.found(run_id), never_killed)
    assert lab.client.get_run(run_id).data.tags["lenet.resumed"] == "1"


def test_ctrl_c_within_an_epoch_loses_nothing(lab, never_killed):
    run_id = lab.killed(*SMALL, number=signal.SIGINT)
    assert lab.client.get_run(run_id).info.status == "KILLED"
    lab.run(f"resume={run_id}")
    assert_same(lab.found(run_id), never_killed)


def test_a_run_without_a_checkpoint_starts_over(lab, never_killed):
    run_id = lab.killed(*SMALL, "checkpoint.epochs=null", "checkpoint.seconds=null")
    out, _ = lab.run(f"resume={run_id}")
    assert "from its beginning: it has no checkpoint" in out
    assert_same(lab.found(run_id) | {"params": 0}, never_killed | {"params": 0})


def test_more_epochs_extend_a_finished_run(lab):
    arguments = [*QUICK, "schedule=constant"]
    expected = lab.found(lab.whole(*arguments, "epochs=4"))
    run_id = lab.whole(*arguments, "epochs=2")
    err = lab.refuse(f"resume={run_id}")
    assert "the run is finished; epochs=4, for one, extends it" in err
    lab.run(f"resume={run_id}", "epochs=4")
    found = lab.found(run_id)
    for key in ("weights", "tags", "artifacts", "status", "inputs"):
        assert found[key] == expected[key], key
    for name, points in expected["points"].items():
        extra = set(found["points"][name]) - set(points)
        assert set(points) <= set(found["points"][name]), name
        assert all(step == 2 for step, _ in extra), name  # where the run ended first
        assert not extra or name.startswith(("test/", "seconds/")), name
    assert "epochs: 4\n" in lab.artifact(run_id, "config.yaml").read_text()
    assert found["params"]["epochs"] == "2"


def test_files_may_lie_elsewhere_when_a_run_is_repeated_or_extended(lab, tmp_path):
    """The paths count for nothing, and the other settings of the data stay."""
    for name in ("train", "test"):
        images = torch.arange(100 * 784).reshape(100, 28, 28).remainder(241).to(torch.uint8)
        torch.save((images, torch.arange(100) % 10), tmp_path / f"{name}.pt")

    def where(folder):
        return ["data=files", f"data.train=[{folder}/train.pt]", f"data.test=[{folder}/test.pt]"]

    here = tmp_path / "here"
    run_id = lab.whole(*where(tmp_path), *PLAIN, "data.val_size=20", "epochs=1", "device.threads=1")
    here.mkdir()
    for name in ("train.pt", "test.pt"):
        (tmp_path / name).rename(here / name)
    advice = lab.refuse(f"rerun={run_id}").rpartition(": ")[2].split()
    assert [word.partition("=")[0] for word in advice] == ["data", "data.train", "data.test"]
    out, _ = lab.run(f"rerun={run_id}", *where(here))
    assert f"The same bits as run {run_id}" in out
    lab.run(f"resume={run_id}", "epochs=2", *where(here))
    assert "data.val_size 20 (here 10)" in lab.refuse(
        f"rerun={run_id}", *where(here), "data.val_size=10"
    )


@pytest.mark.parametrize(
    ("overrides", "shown"),
    [
        (["schedule=constant"], "(here lenet.optim.schedule.constant)"),  # today's default
        (["seed=1", "clip_norm=2.0"], "seed 0 (here 1), clip_norm None (here 2.0)"),
        (["optimizer=adam"], "optimizer._target_ torch.optim.SGD (here torch.optim.Adam)"),
        (["epochs=2"], "epochs 60 (here 2)"),
    ],
)
def test_another_configuration_is_refused_with_the_difference(lab, overrides, shown, finished):
    err = lab.refuse(f"resume={finished}", *overrides)
    assert shown in err
    assert "none of this can change" in err


def test_a_run_whose_schedule_knows_its_end_is_not_extended(lab, finished):
    assert lab.refuse(f"resume={finished}").endswith("the run is finished\n")
    err = lab.refuse(f"resume={finished}", "epochs=80")
    assert "other learning rates with epochs=80; start a new run" in err


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("resume=../../etc", "expected a run's id"),
        (f"rerun={'0' * 32}", "no such run"),
        ("resume=12345678901234567890123456789e12", "no such run"),  # to Hydra it is a number
    ],
)
def test_what_names_no_run_is_refused(lab, finished, argument, message):
    assert message in lab.refuse(argument)


def test_a_run_whose_process_is_alive_is_refused(lab):
    process = lab.start(*QUICK, "epochs=5000")
    for line in process.stdout:
        if line.startswith("Epoch "):
            break
    run_id, folder = lab.last(), lab.env["LENET_RUNS"]
    assert "its process is still running" in lab.refuse(f"resume={run_id}")
    lab.env["LENET_RUNS"] = str(lab.folder / "elsewhere")  # then only the store knows of it
    assert "its process is still running" in lab.refuse(f"resume={run_id}")
    lab.env["LENET_RUNS"] = folder
    process.kill()
    process.communicate()


def draw_images(folder, seed):
    folder.mkdir(exist_ok=True)
    drawn = np.random.default_rng(seed)
    for name, count in (("train", 200), ("test", 60)):
        pixels = torch.from_numpy(drawn.integers(0, 255, (count, 28, 28), dtype=np.uint8))
        labels = torch.from_numpy(drawn.integers(0, 10, count))
        torch.save((pixels, labels), folder / f"{name}.pt")


def test_files_that_have_changed_are_refused_by_their_checksum(lab):
    draw_images(lab.folder / "own", seed=1)
    files = ["data=files", "data.train=[own/train.pt]", "data.test=[own/test.pt]"]
    run_id = lab.whole(*files, *QUICK[1:], "epochs=1")
    draw_images(lab.folder / "own", seed=2)
    assert "dataset.sha256" in lab.refuse(f"rerun={run_id}")


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def change_configuration(path):
    save(load(path) | {"config_sha256": "0" * 64}, path)


@pytest.mark.parametrize("damage", [truncate, change_configuration])
def test_a_damaged_checkpoint_costs_a_warning_and_the_one_before_is_used(lab, longer, damage):
    run_id = lab.killed(*LONGER, after=130)
    (folder,) = [
        path.parent for path in lab.waiting.glob("*/run.json") if run_id in path.read_text()
    ]
    _, newest = sorted((folder / "checkpoints").glob("[0-9]*"))
    damage(newest)
    _, err = lab.run(f"resume={run_id}")
    assert err.count("the checkpoint before it is used\n") == 1
    assert_same(lab.found(run_id), longer)


@pytest.mark.parametrize("is_damaged", [False, True])
def test_another_machine_resumes_from_the_store_alone(lab, longer, is_damaged):
    process = lab.start(*LONGER)
    for line in process.stdout:
        if line.startswith("Epoch  90/"):
            break
    run_id = lab.last()
    artifacts = Path(lab.client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    end = time.monotonic() + 30
    while not (artifacts / "checkpoint.pt").exists() and time.monotonic() < end:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    shutil.rmtree(lab.waiting)
    if is_damaged:
        truncate(artifacts / "checkpoint.pt")
    out, err = lab.run(f"resume={run_id}")
    assert ("the checkpoint before it is used" in err) == is_damaged
    assert "from its beginning" not in out
    assert_same(lab.found(run_id), longer)
