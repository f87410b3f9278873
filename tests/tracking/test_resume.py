"""A run that is killed and resumed has the same bits as one that was never killed."""

import os
import shlex
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from lenet.data.tensor_files import load, save
from tests.conftest import LIMIT, copy_store
from tests.support.lab import BASE, PLAIN, Bench, assert_same

pytestmark = pytest.mark.slow

QUICK = [*BASE, *PLAIN, "log_interval=5"]
VALIDATED = [*QUICK, "data.val_size=100", "schedule=cosine"]
SMALL = [*VALIDATED, "epochs=60"]  # about three seconds, with a checkpoint after the first epoch
LONGER = [*VALIDATED, "epochs=150"]  # long enough for a second checkpoint


@pytest.fixture(scope="module")
def lab(empty_store, tmp_path_factory):
    lab = Bench(tmp_path_factory.mktemp("resume"))
    copy_store(empty_store, lab.folder)
    return lab


@pytest.fixture(scope="module")
def finished(lab):
    """The id of the small run, never killed."""
    return lab.whole(*SMALL)


@pytest.fixture(scope="module")
def never_killed(lab, finished):
    """What MLflow holds about the small run."""
    return lab.found(finished)


@pytest.fixture(scope="module")
def longer(lab):
    """What MLflow holds about the longer run."""
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
        assert all(step == 2 for step, _ in extra), name  # the run's first end
        assert not extra or name.startswith(("test/", "seconds/")), name
    assert "epochs: 4\n" in lab.artifact(run_id, "config.yaml").read_text()
    assert found["params"]["epochs"] == "2"


def test_a_run_can_be_repeated_or_extended_after_its_files_have_moved(lab, tmp_path):
    """Paths may change; the other settings of the data may not."""
    for name in ("train", "test"):
        images = torch.arange(100 * 784).reshape(100, 28, 28).remainder(241).to(torch.uint8)
        torch.save((images, torch.arange(100) % 10), tmp_path / f"{name}.pt")

    def files_in(folder):
        return ["data=files", f"data.train=[{folder}/train.pt]", f"data.test=[{folder}/test.pt]"]

    here = tmp_path / "here"
    run_id = lab.whole(
        *files_in(tmp_path), *PLAIN, "data.val_size=20", "epochs=1", "device.threads=1"
    )
    here.mkdir()
    for name in ("train.pt", "test.pt"):
        (tmp_path / name).rename(here / name)
    advice = shlex.split(lab.refuse(f"rerun={run_id}").rpartition(": ")[2])
    assert [word.partition("=")[0] for word in advice] == ["data", "data.train", "data.test"]
    out, _ = lab.run(f"rerun={run_id}", *files_in(here))
    assert f"The same bits as run {run_id}" in out
    lab.run(f"resume={run_id}", "epochs=2", *files_in(here))
    assert "data.val_size 20 (here 10)" in lab.refuse(
        f"rerun={run_id}", *files_in(here), "data.val_size=10"
    )


def test_another_configuration_is_refused_with_the_difference(lab, finished):
    err = lab.refuse(f"resume={finished}", "seed=1", "clip_norm=2.0")
    assert "seed 0 (here 1), clip_norm None (here 2.0)" in err
    assert "none of this can change" in err


def test_a_run_whose_schedule_depends_on_the_number_of_epochs_is_not_extended(lab, finished):
    assert lab.refuse(f"resume={finished}").endswith("the run is finished\n")
    err = lab.refuse(f"resume={finished}", "epochs=80")
    assert "other learning rates with epochs=80; start a new run" in err


def test_a_run_whose_process_is_alive_is_refused(lab):
    process = lab.start(*QUICK, "epochs=5000")
    for line in process.stdout:
        if line.startswith("Epoch "):
            break
    run_id, folder = lab.last(), lab.env["LENET_RUNS"]
    assert "its process is still running" in lab.refuse(f"resume={run_id}")
    lab.env["LENET_RUNS"] = str(lab.folder / "elsewhere")  # then only the store shows that it runs
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


def test_files_whose_contents_have_changed_are_refused(lab):
    draw_images(lab.folder / "own", seed=1)
    files = ["data=files", "data.train=[own/train.pt]", "data.test=[own/test.pt]"]
    run_id = lab.whole(*files, *QUICK[1:], "epochs=1")
    draw_images(lab.folder / "own", seed=2)
    assert "dataset.sha256" in lab.refuse(f"rerun={run_id}")


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def replace_config_hash(path):
    save(load(path) | {"config_sha256": "0" * 64}, path)


@pytest.mark.parametrize("damage", [truncate, replace_config_hash])
def test_a_damaged_checkpoint_gives_a_warning_and_the_previous_one_is_used(lab, longer, damage):
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
    end = time.monotonic() + LIMIT
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
