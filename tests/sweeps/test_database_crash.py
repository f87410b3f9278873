"""A sweep that is recorded to PostgreSQL, while the database crashes again and again."""

import subprocess
import time

import pytest

from lenet.tracking.client import connect
from tests.conftest import LIMIT, long
from tests.support.lab import SweepLab
from tests.support.servers import Postgres

SWEEP = ["optimizer.lr=0.01,0.05", "seed=0,1", "epochs=100", "hydra.launcher.workers=2"]
SWEEP += ["tracking.wait=20"]  # a job that ends in a short crash waits, in a long one it gives up
SECONDS_DOWN = 4
pytestmark = [pytest.mark.slow, long]


class CrashLab(SweepLab):
    """A lab whose database is killed."""

    def wait_for(self, process, runs, training):
        """Returns when the store has so many runs, and four epochs of so many jobs."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end and process.poll() is None:
            found = self.runs()
            if len(found) >= runs and sum(len(self.steps(r)) > 3 for r in found) >= training:
                return
            time.sleep(0.1)
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"no {runs} runs, {training} of which train\n{out}{err}")

    def follow_advice(self, output):
        """Runs the `send` commands that a sweep has printed. Returns: their number."""
        commands = [line.split(":  ", 1)[1] for line in output.splitlines() if " send " in line]
        env = {k: v for k, v in self.env.items() if k != "MLFLOW_TRACKING_URI"}
        for command in commands:
            done = subprocess.run(command, shell=True, capture_output=True, text=True, env=env)
            assert done.returncode == 0, done.stdout + done.stderr
            assert done.stdout.startswith("Sent run "), done.stdout
        return len(commands)

    def contents(self):
        """The weights, points and files of each job of the only sweep, all of which must be done
        and delivered.
        """
        parent, children = self.family()
        assert {run.info.status for run in (parent, *children)} == {"FINISHED"}
        assert list((self.folder / "waiting").glob("*")) == []
        found = {run.data.tags["lenet.sweep.job"]: self.contents_of(run) for run in children}
        assert len(found) == len(children)
        return found

    def contents_of(self, run):
        # The checkout may change while the tests run.
        files = sorted(set(self.artifacts(run)) - {"uncommitted.patch"})
        return run.data.tags["lenet.weights.sha256"], self.points(run), files


def test_a_sweep_whose_postgresql_is_killed_three_times_loses_and_doubles_nothing(tmp_path):
    labs = [CrashLab(tmp_path / name) for name in ("undisturbed", "crashed")]
    for lab in labs:
        lab.folder.mkdir()
    undisturbed, crashed = labs
    with Postgres() as postgres:
        crashed.uri = crashed.env["MLFLOW_TRACKING_URI"] = postgres.uri
        connect(postgres.uri)  # makes the tables, which are looked at before the sweep makes them
        process = crashed.start(*SWEEP)
        for runs, training in ((2, 0), (3, 1)):  # as the first job has begun, and while two train
            crashed.wait_for(process, runs, training)
            postgres.kill()
            time.sleep(SECONDS_DOWN)
            postgres.start()
        crashed.wait_for(process, runs=4, training=3)
        postgres.kill()
        out, err = process.communicate(timeout=LIMIT)  # the jobs and the sweep end without it
        postgres.start()

        assert process.returncode == 2, out + err
        assert "Traceback" not in out + err
        assert "refuses" not in err
        assert err.splitlines()[-1].endswith("cannot be used (connection refused)")
        assert out.endswith("To continue the sweep, give the same command again.\n")
        assert crashed.follow_advice(err) > 0
        out, err = crashed.run(*SWEEP)
        assert out.startswith("4 jobs: 4 done\n")
        assert "Traceback" not in out + err
        found = crashed.contents()
    undisturbed.run(*SWEEP)
    expected = undisturbed.contents()
    assert found == expected
    assert len(found) == 4
    assert all(count == 1 for _, points, _ in found.values() for count in points.values())
