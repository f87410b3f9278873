"""A run that is killed and resumed has the same bits as one that was never killed.

One kind of run is killed at three random moments; with LENET_LONG=1 in the environment five kinds
are, ten times each. LENET_SEED gives other moments.
"""

import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from lenet.data.tensor_files import load, save
from lenet.tracking.read import RUN_ID
from lenet.tracking.resume import check_state
from lenet.tracking.stored_config import read_config
from lenet.training.checkpoints import load_newest
from tests.conftest import ROOT, copy_store
from tests.support.lab import Bench, assert_same

QUICK = ["data=digits", "device.threads=1", "tracking.pictures=false", "tracking.model=false"]
BASE = [*QUICK, "log_interval=5", "data.val_size=100", "schedule=cosine"]
SMALL = [*BASE, "epochs=60"]  # about three seconds, with a checkpoint after the first epoch
LONGER = [*BASE, "epochs=150"]  # and one more
long = pytest.mark.skipif(os.environ.get("LENET_LONG") != "1", reason="needs LENET_LONG=1")


@pytest.fixture(scope="module")
def lab(empty_store, tmp_path_factory):
    lab = Bench(tmp_path_factory.mktemp("resume"))
    copy_store(empty_store, lab.folder)
    return lab


@pytest.fixture(scope="module")
def finished(lab):
    """The id of the small run, done without a kill."""
    return lab.whole(*SMALL)


@pytest.fixture(scope="module")
def never_killed(lab, finished):
    """What it leaves."""
    return lab.found(finished)


# ---- Once ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_run_that_goes_on_is_the_one_that_was_never_killed(lab, never_killed):
    run_id = lab.killed(*SMALL)
    out, _ = lab.run(f"resume={run_id}")
    assert f"Going on with run {run_id} after " in out
    assert_same(lab.found(run_id), never_killed)
    assert lab.client.get_run(run_id).data.tags["resumed"] == "1"


@pytest.mark.slow
def test_ctrl_c_in_mid_epoch_and_again_loses_nothing(lab, never_killed):
    run_id = lab.killed(*SMALL, number=signal.SIGINT)
    assert lab.client.get_run(run_id).info.status == "KILLED"
    lab.run(f"resume={run_id}")
    assert_same(lab.found(run_id), never_killed)


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_begins_again(lab, never_killed):
    run_id = lab.killed(*SMALL, "checkpoint.epochs=null", "checkpoint.seconds=null")
    out, _ = lab.run(f"resume={run_id}")
    assert "from its beginning: it has no checkpoint" in out
    assert_same(lab.found(run_id) | {"params": 0}, never_killed | {"params": 0})


@long
@pytest.mark.slow
def test_patience_counts_on_after_a_kill(lab):
    arguments = [*BASE, "patience=12", "optimizer.lr=0.1", "epochs=300", "schedule=constant"]
    expected = lab.found(lab.whole(*arguments))
    assert 10 < len(expected["points"]["val/loss"]) < 300
    run_id = lab.killed(*arguments, after=8)
    lab.run(f"resume={run_id}")
    assert_same(lab.found(run_id), expected)


@long
@pytest.mark.slow
def test_a_run_that_diverged_does_so_again(lab):
    lab.run(*QUICK, "optimizer.lr=1e38", "log_interval=5", status=1)
    run_id = lab.last()
    _, err = lab.run(f"resume={run_id}", status=1)
    assert err.splitlines()[-1].startswith("error: the training loss is ")
    assert lab.client.get_run(run_id).info.status == "FAILED"


# ---- More epochs -----------------------------------------------------------------------------


@pytest.mark.slow
def test_more_epochs_extend_a_finished_run(lab):
    arguments = [*QUICK, "log_interval=5", "schedule=constant"]
    longer = lab.found(lab.whole(*arguments, "epochs=4"))
    run_id = lab.whole(*arguments, "epochs=2")
    err = lab.refuse(f"resume={run_id}")
    assert "the run is finished; epochs=4, for one, extends it" in err
    lab.run(f"resume={run_id}", "epochs=4")
    found = lab.found(run_id)
    for key in ("weights", "tags", "artifacts", "status", "inputs"):
        assert found[key] == longer[key], key
    for name, points in longer["points"].items():
        extra = set(found["points"][name]) - set(points)
        assert set(points) <= set(found["points"][name]), name
        assert all(step == 2 for step, _ in extra), name  # the first end
        assert not extra or name.startswith(("test/", "seconds/")), name
    assert "epochs: 4\n" in lab.artifact(run_id, "config.yaml").read_text()
    assert found["params"]["epochs"] == "2"


@pytest.mark.slow
def test_a_finished_run_is_not_gone_on_with(lab, finished):
    assert "the run is finished; epochs=120" in lab.refuse(f"resume={finished}")
    err = lab.refuse(f"resume={finished}", "epochs=2")
    assert "epochs 60 (here 2)" in err
    assert "none of this can change" in err


# ---- What can't change -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "shown"),
    [
        (
            ["schedule=constant"],
            "(here lenet.optim.schedule.constant)",
        ),  # the default, not the run's
        (["model/activation=relu"], "model.activation._target_ torch.nn.Tanh (here torch.nn.ReLU)"),
        (["seed=1", "clip_norm=2.0"], "seed 0 (here 1), clip_norm None (here 2.0)"),
    ],
)
@pytest.mark.slow
def test_another_configuration_is_refused_with_the_difference(lab, overrides, shown, stopped):
    err = lab.refuse(f"resume={stopped}", *overrides)
    assert shown in err


@pytest.fixture(scope="module")
def stopped(lab, never_killed):
    """A run that was killed, and that nobody goes on with."""
    return lab.killed(*SMALL)


@pytest.mark.slow
def test_a_group_of_another_optimizer_is_refused_with_the_difference(lab, finished):
    err = lab.refuse(f"resume={finished}", "optimizer=adam")
    assert "optimizer._target_ torch.optim.SGD (here torch.optim.Adam)" in err
    assert "optimizer.lr 0.01 (here 0.001)" in err


@long
@pytest.mark.slow
def test_where_it_reads_and_how_long_it_waits_may_change(lab, never_killed):
    run_id = lab.killed(*SMALL)
    other = lab.folder / "other"
    lab.run(f"resume={run_id}", "tracking.wait=5", f"data.root={other}", "checkpoint.seconds=1")
    assert_same(lab.found(run_id) | {"checkpoint": 0}, never_killed | {"checkpoint": 0})


@pytest.mark.slow
@pytest.mark.parametrize("key", ["resume", "rerun"])
@pytest.mark.parametrize("run_id", ["../../etc", "0" * 32, "12345678901234567890123456789e12"])
def test_what_names_no_run_is_refused(lab, finished, key, run_id):
    err = lab.refuse(f"{key}={run_id}")
    if RUN_ID.fullmatch(run_id):
        assert f"{run_id}: no such run" in err


@long
@pytest.mark.slow
@pytest.mark.parametrize(
    "digits", ["0" + "1234567890" * 3 + "1", "12345678901234567890123456789e12"]
)
def test_an_id_that_reads_as_a_number_is_still_an_id(lab, never_killed, digits):
    """Such a run, made from another by renaming it in the database."""
    run_id = lab.killed(*SMALL)
    columns = ("run_uuid", "run_id", "source_id", "destination_id", "source_run_id")
    with closing(sqlite3.connect(lab.folder / "mlflow.db")) as database, database:
        tables = database.execute("select name from sqlite_master where type = 'table'").fetchall()
        for (table,) in tables:
            for _, column, *_ in database.execute(f"pragma table_info({table})").fetchall():
                if column in columns:
                    change = f"update {table} set {column} = ? where {column} = ?"
                    database.execute(change, (digits, run_id))
    for path in lab.waiting.glob("*/run.json"):
        path.write_text(path.read_text().replace(run_id, digits))
    out, _ = lab.run(f"resume={digits}")
    assert f"Going on with run {digits} after" in out
    assert lab.found(digits)["points"] == never_killed["points"]


@pytest.mark.slow
def test_a_living_run_is_left_alone(lab):
    process = lab.start(*QUICK, "epochs=5000")
    for line in process.stdout:
        if line.startswith("Epoch "):
            break
    run_id = lab.last()
    assert "its process is still running" in lab.refuse(f"resume={run_id}")
    elsewhere = {**lab.env, "LENET_RUNS": str(lab.folder / "elsewhere")}
    done = subprocess.run(
        [sys.executable, ROOT / "run.py", f"resume={run_id}"],
        env=elsewhere,
        cwd=lab.folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "its process is still running" in done.stderr
    assert not list((lab.folder / "elsewhere").glob("*"))
    process.kill()
    process.communicate()


# ---- Data ------------------------------------------------------------------------------------


def images(folder, seed):
    folder.mkdir(exist_ok=True)
    drawn = np.random.default_rng(seed)
    for name, count in (("train", 200), ("test", 60)):
        pixels = torch.from_numpy(drawn.integers(0, 255, (count, 28, 28), dtype=np.uint8))
        labels = torch.from_numpy(drawn.integers(0, 10, count))
        torch.save((pixels, labels), folder / f"{name}.pt")


@long
@pytest.mark.slow
def test_files_that_have_changed_are_named_by_their_checksum(lab, tmp_path):
    folder = lab.folder / "own"
    images(folder, 1)
    own = ["data=files", "data.train=[own/train.pt]", "data.test=[own/test.pt]", "device.threads=1"]
    quick = [*own, *QUICK[2:], "epochs=200"]
    run_id = lab.killed(*quick)
    images(folder, 2)
    err = lab.refuse(f"resume={run_id}")
    assert "dataset.sha256" in err
    images(folder, 1)
    # What a run says of files elsewhere is not read, be it one's own: it is said anew.
    shutil.move(str(folder), tmp_path)
    moved = [f"data.{name}=[{tmp_path}/own/{name}.pt]" for name in ("train", "test")]
    moved = ["data=files", *moved]
    lab.run(f"resume={run_id}", *moved)
    assert lab.client.get_run(run_id).info.status == "FINISHED"
    lab.run(*moved, *quick[3:-1], "epochs=1")
    absolute = lab.last()
    assert "the current folder are read" in lab.refuse(f"rerun={absolute}")
    out, _ = lab.run(f"rerun={absolute}", *moved)
    assert f"The same bits as run {absolute}" in out


# ---- Checkpoints -----------------------------------------------------------------------------


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def of_an_older_version(path):
    state = load(path)
    del state["progress"], state["random"]
    save(state, path)


def of_another_configuration(path):
    save(load(path) | {"config_sha256": "0" * 64}, path)


@pytest.fixture(scope="module")
def longer(lab):
    return lab.found(lab.whole(*LONGER))


DAMAGE = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "flipped": flipped,
    "emptied": lambda path: os.truncate(path, 0),
    "of an older version": of_an_older_version,
    "of another configuration": of_another_configuration,
}


@pytest.mark.parametrize("what", DAMAGE)
def test_each_kind_of_damage_is_noticed(lab, finished, tmp_path, capsys, what):
    """A finished run's state, of which one copy is damaged."""
    good, bad = tmp_path / "1.pt", tmp_path / "2.pt"
    for path in (good, bad):
        shutil.copyfile(lab.artifact(finished, "checkpoint.pt"), path)
    DAMAGE[what](bad)
    config = read_config(lab.artifact(finished, "config.yaml").read_text())
    state = load_newest([bad, good], lambda state: check_state(state, config))
    assert state["progress"]["epochs"] == 60
    assert capsys.readouterr().err.count("\n") == 1
    assert not bad.exists()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["truncated", "of another configuration"])
def test_a_damaged_checkpoint_is_told_and_the_one_before_is_used(lab, longer, what):
    run_id = lab.killed(*LONGER, after=130)
    places = [path for path in lab.waiting.glob("*/run.json") if run_id in path.read_text()]
    folder = places[0].parent
    kept = sorted((folder / "checkpoints").glob("[0-9]*"))
    assert len(kept) == 2
    DAMAGE[what](kept[1])
    _, err = lab.run(f"resume={run_id}")
    warnings = [
        line for line in err.splitlines() if line.endswith("the checkpoint before it is used")
    ]
    assert len(warnings) == 1
    assert_same(lab.found(run_id), longer)


@long
@pytest.mark.slow
def test_with_both_damaged_and_the_stores_gone_it_begins_again(lab, never_killed):
    run_id = lab.killed(*SMALL)
    for path in lab.waiting.glob("*/checkpoints/[0-9]*"):
        os.truncate(path, 100)
    artifacts = lab.client.get_run(run_id).info.artifact_uri
    for path in Path(artifacts.removeprefix("file://")).glob("checkpoint*"):
        os.truncate(path, 100)
    lab.run(f"resume={run_id}")
    assert_same(lab.found(run_id), never_killed)


# ---- Another machine -------------------------------------------------------------------------


def uploaded(lab, run_id, seconds=30):
    """Waits until the store has a checkpoint of the run."""
    artifacts = Path(lab.client.get_run(run_id).info.artifact_uri.removeprefix("file://"))
    end = time.monotonic() + seconds
    while not (artifacts / "checkpoint.pt").exists() and time.monotonic() < end:
        time.sleep(0.05)
    return artifacts


@pytest.mark.slow
@pytest.mark.parametrize("cut", [False, True])
def test_another_machine_goes_on_by_the_store_alone(lab, longer, cut):
    process = lab.start(*LONGER)
    for line in process.stdout:
        if line.startswith("Epoch  90/"):
            break
    run_id = lab.last()
    artifacts = uploaded(lab, run_id)
    process.kill()
    process.communicate()
    shutil.rmtree(lab.waiting)
    if cut:
        os.truncate(artifacts / "checkpoint.pt", 1000)
    out, err = lab.run(f"resume={run_id}")
    assert ("the checkpoint before it is used" in err) == cut
    assert "from its beginning" not in out
    assert_same(lab.found(run_id), longer)


# ---- At random moments -----------------------------------------------------------------------


class Killer:
    """Kills a run again and again, half of the time with the runs' folder deleted after it."""

    def __init__(self, lab, seed):
        self.lab, self.random = lab, random.Random(seed)
        self.kills, self.anew, self.story = 0, 0, []

    def once(self, arguments, until):
        """Starts a run; kills it at some moment until then, unless it ends before."""
        process = self.lab.start(*arguments)
        moment = self.random.uniform(0, until) if until else 1000
        try:
            out, err = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        self.kills += process.returncode == -signal.SIGKILL
        self.story.append((f"{moment:.2f} s", process.returncode, (out + err)[-400:]))
        return process.returncode

    def run_id(self, before):
        """Of the one run that is not from before, by the store or, where that has none, here."""
        runs = self.lab.runs() if (self.lab.folder / "mlflow.db").exists() else []
        new = [run.info.run_id for run in runs if run.info.run_id not in before]
        assert len(new) <= 1, "two runs of one"
        facts = [json.loads(path.read_text()) for path in self.lab.waiting.glob("*/run.json")]
        return (new or [one["run_id"] or one["id"] for one in facts] or [None])[0]

    def to_the_end(self, arguments, most, seconds):
        """The id of a run that was killed and gone on with until it ended."""
        before = {run.info.run_id for run in self.lab.runs()}
        command = arguments
        while True:
            status = self.once(command, seconds if self.kills < most else None)
            if status == 0:
                return self.run_id(before)
            said = self.story[-1][2]
            if status == 2 and "the run is finished" in said:  # it was killed a moment too late
                if self.lab.waiting.exists():
                    command = [sys.executable, "-m", "lenet", "send"]
                    env = self.lab.env | {"PYTHONPATH": str(ROOT)}
                    subprocess.run(command, check=True, capture_output=True, env=env)
                return self.run_id(before)
            lost = status == 2 and "killed before it began" in said
            assert lost or status == -signal.SIGKILL, self.story[-1]
            if self.random.random() < 0.5:
                shutil.rmtree(self.lab.waiting, ignore_errors=True)
                self.story.append("LENET_RUNS deleted")
            run_id = self.run_id(before)
            command = [f"resume={run_id}"]
            if run_id is None or lost:  # nothing of it is there but its name
                self.anew += 1
                shutil.rmtree(self.lab.waiting, ignore_errors=True)
                before.add(run_id)
                command = arguments


KINDS = {
    "by epochs": [],
    "in mid-epoch": ["checkpoint.epochs=null", "checkpoint.seconds=0.05"],
    "adam": ["optimizer=adam", "schedule=one_cycle", "checkpoint.seconds=0.05"],
    "eager": ["device.kernels=eager", "clip_norm=1.0", "checkpoint.seconds=0.05"],
    "a long end": ["tracking.pictures=true", "tracking.model=true"],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [kind if kind == "in mid-epoch" else pytest.param(kind, marks=long) for kind in KINDS],
)
def test_kills_at_random_moments_leave_no_trace(tmp_path, kind):
    """Three kills, with LENET_LONG=1 ten, each at a random moment of a whole run."""
    lab, most = Bench(tmp_path), 10 if os.environ.get("LENET_LONG") == "1" else 3
    seed = int(os.environ.get("LENET_SEED", "1"))
    arguments = [*BASE, "epochs=100", *KINDS[kind]]
    start = time.monotonic()
    expected = lab.found(lab.whole(*arguments))
    seconds = time.monotonic() - start
    killer = Killer(lab, f"{seed} {kind}")
    try:
        while killer.kills < most:
            run_id = killer.to_the_end(arguments, most, seconds)
            assert_same(lab.found(run_id), expected)
        print(f"{kind}: {killer.kills} kills within {seconds:.0f} s, anew {killer.anew}")
    except BaseException:
        print(f"LENET_SEED={seed}", *killer.story, sep="\n")
        raise


@long
@pytest.mark.slow
def test_a_kill_in_the_midst_of_mnist_leaves_no_trace(tmp_path, mnist_root):
    lab = Bench(tmp_path)
    lab.env |= {"LENET_DATA": str(mnist_root)}
    arguments = ["data=mnist", *QUICK[1:], "epochs=3", "data.val_size=5000", "checkpoint.seconds=1"]
    expected = lab.found(lab.whole(*arguments))
    run_id = lab.killed(*arguments, after=2)
    uploaded(lab, run_id, 0)
    shutil.rmtree(lab.waiting)
    lab.run(f"resume={run_id}")
    assert_same(lab.found(run_id), expected)


def test_a_state_of_the_store_is_what_a_client_finds(lab, finished):
    """The names by which another machine finds a run's state."""
    names = {item.path for item in MlflowClient(lab.uri).list_artifacts(finished)}
    assert {"checkpoint.pt", "checkpoint.previous.pt", "config.yaml", "environment.txt"} <= names
