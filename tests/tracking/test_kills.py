"""A run that is killed at random moments and resumed again and again has the same bits.

One kind of run is killed at three moments. With LENET_LONG=1 in the environment there are four
kinds, each killed ten times. LENET_SEED gives other moments.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import LONG, ROOT, copy_store
from tests.support.lab import BASE, PLAIN, Bench, assert_same

pytestmark = pytest.mark.slow

VALIDATED = [*BASE, *PLAIN, "log_interval=5", "data.val_size=100", "schedule=cosine"]


class Killer:
    """Kills a run again and again. Half of the time it deletes the runs' folder, too."""

    def __init__(self, lab, seed):
        self.lab, self.random = lab, random.Random(seed)
        self.kills, self.story = 0, []

    def run_to_the_end(self, arguments, kills, seconds):
        """The id of a run that was killed and resumed until it ended. After that many kills it is
        left alone.
        """
        before = {run.info.run_id for run in self.lab.runs()}
        command = arguments
        while True:
            status, output = self.start(command, seconds if self.kills < kills else None)
            if status == 0:
                return self.run_id(before)
            if status == 2 and "the run is finished" in output:  # the kill came too late
                self.send()
                return self.run_id(before)
            is_lost = status == 2 and "no run of this lab that has begun" in output
            assert is_lost or status == -signal.SIGKILL, self.story[-1]
            if self.random.random() < 0.5:
                shutil.rmtree(self.lab.waiting, ignore_errors=True)
                self.story.append("LENET_RUNS deleted")
            run_id = self.run_id(before)
            command = [f"resume={run_id}"]
            if run_id is None or is_lost:  # nothing of it is there but its name
                shutil.rmtree(self.lab.waiting, ignore_errors=True)
                before.add(run_id)
                command = arguments

    def start(self, arguments, seconds):
        """Starts a run and kills it at a random moment within `seconds`, unless it ends before."""
        process = self.lab.start(*arguments)
        moment = self.random.uniform(0, seconds) if seconds else 1000
        try:
            out, err = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
        self.kills += process.returncode == -signal.SIGKILL
        self.story.append((f"{moment:.2f} s", process.returncode, (out + err)[-400:]))
        return process.returncode, (out + err)[-400:]

    def send(self):
        if self.lab.waiting.exists():
            command = [sys.executable, "-m", "lenet", "send"]
            env = self.lab.env | {"PYTHONPATH": str(ROOT)}
            subprocess.run(command, check=True, capture_output=True, env=env)

    def run_id(self, before):
        """The id of the only run that is new, by the store or else by its folder; None without."""
        new = [run.info.run_id for run in self.lab.runs() if run.info.run_id not in before]
        assert len(new) <= 1, "two runs of one"
        facts = [json.loads(path.read_text()) for path in self.lab.waiting.glob("*/run.json")]
        return (new or [each["run_id"] or each["id"] for each in facts] or [None])[0]


KINDS = {
    "within an epoch": ["checkpoint.epochs=null", "checkpoint.seconds=0.05"],
    "adam": ["optimizer=adam", "schedule=one_cycle", "checkpoint.seconds=0.05"],
    "eager": ["device.kernels=eager", "clip_norm=1.0", "checkpoint.seconds=0.05"],
    "a long end": ["tracking.pictures=true", "tracking.model=true"],
}


@pytest.mark.parametrize("kind", KINDS if LONG else ["within an epoch"])
def test_kills_at_random_moments_leave_no_trace(tmp_path, empty_store, kind):
    copy_store(empty_store, tmp_path)
    lab, kills = Bench(tmp_path), 10 if LONG else 3
    arguments = [*VALIDATED, "epochs=100", *KINDS[kind]]
    start = time.monotonic()
    expected = lab.found(lab.whole(*arguments))
    seconds = time.monotonic() - start
    seed = os.environ.get("LENET_SEED", "1")
    killer = Killer(lab, f"{seed} {kind}")
    try:
        while killer.kills < kills:
            run_id = killer.run_to_the_end(arguments, kills, seconds)
            assert_same(lab.found(run_id), expected)
    except BaseException:
        print(f"LENET_SEED={seed}", *killer.story, sep="\n")
        raise
