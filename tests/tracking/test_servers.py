"""Whole runs while the tracking server fails: training continues, and every record arrives once.

LENET_LONG=1 in the environment adds PostgreSQL and a database on a full disk.
"""

import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import LoggedModelStatus
from mlflow.tracking import MlflowClient

from lenet.tracking.outbox import send
from tests.conftest import LIMIT, long
from tests.support.lab import BASE, Lab
from tests.support.servers import Postgres, Proxy, Server, fill_disk, small_disk

pytestmark = pytest.mark.slow

QUICK = [*BASE, "log_interval=5", "tracking.pictures=false"]
NO_MODEL = "tracking.model=false"
SHORT, MIDDLE = ["epochs=3"], ["epochs=60", NO_MODEL]
OWN_TAGS = (
    *("lenet.id", "lenet.process", "lenet.error", "mlflow.runName", "mlflow.source"),
    "lenet.heartbeat",  # sent by a running process only, not by `send`
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def proxy(server):
    with Proxy(server.url) as proxy:
        yield proxy


class Runs(Lab):
    """Runs of one experiment, logged to `uri` and read back from `real`."""

    def __init__(self, folder: Path, uri: str, real: str | None = None) -> None:
        super().__init__(folder)
        self.uri = real or uri
        self.experiment = folder.name
        self.env |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return super().start(*QUICK, f"tracking.experiment={self.experiment}", *arguments)

    def start_training(self, *arguments: str) -> "subprocess.Popen[str]":
        """Returns: a process that has printed its first epoch."""
        process = self.start(*arguments)
        assert process.stdout
        for line in process.stdout:
            if line.startswith("Epoch "):
                return process
        pytest.fail(str(process.communicate()))

    @staticmethod
    def wait_for_end(process: "subprocess.Popen[str]", status: int = 0) -> str:
        """Returns: what the process wrote to standard error."""
        _, err = process.communicate(timeout=LIMIT)
        assert process.returncode == status, err
        assert "Traceback" not in err
        return err

    def send_waiting(self) -> str:
        """What `python -m lenet send` does."""
        (folder,) = self.waiting()
        return send(folder, 60)

    def follow_advice(self, err: str, status: int = 0) -> str:
        """Runs the `send` command that `err` prints. Returns: its output."""
        (line,) = [line for line in err.splitlines() if "-m lenet send" in line]
        env = {k: v for k, v in self.env.items() if k != "MLFLOW_TRACKING_URI"}
        done = subprocess.run(
            line, shell=True, capture_output=True, text=True, cwd=self.folder, env=env
        )
        assert done.returncode == status, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    def waiting(self) -> list[Path]:
        return [path.parent for path in (self.folder / "waiting").glob("*/run.json")]

    def only_run(self):
        client = MlflowClient(self.uri)
        found = client.get_experiment_by_name(self.experiment)
        (run,) = client.search_runs([found.experiment_id])
        return run

    def contents(self):
        """What MLflow holds about the only run, without what differs from run to run."""
        client, run = MlflowClient(self.uri), self.only_run()
        own = ("tracking.", "data.root")
        models = client.search_logged_models([run.info.experiment_id])
        return {
            "params": {k: v for k, v in run.data.params.items() if not k.startswith(own)},
            "tags": {k for k in run.data.tags if not k.startswith(OWN_TAGS)},
            "weights": run.data.tags["lenet.weights.sha256"],
            "points": self.points(run),
            "artifacts": sorted(self.artifacts(run)),
            "data": [entry.dataset.digest for entry in run.inputs.dataset_inputs],
            "models": [model.status for model in models],
            "outputs": [output.step for output in run.outputs.model_outputs],
            "status": run.info.status,
        }


@pytest.fixture(scope="module")
def expected(server, tmp_path_factory):
    """What the same runs leave on a server that does not fail."""
    found = {}
    for name, arguments in {"short": SHORT, "middle": MIDDLE}.items():
        runs = Runs(tmp_path_factory.mktemp(f"expected-{name}"), server.url)
        runs.run(*arguments)
        found[name] = runs.contents()
    assert found["short"]["models"] == [LoggedModelStatus.READY]
    assert all(count == 1 for count in found["middle"]["points"].values())
    return found


@pytest.fixture
def runs(tmp_path, proxy, server):
    return Runs(tmp_path, proxy.url, server.url)


def test_a_run_sends_no_change_twice(runs, proxy):
    runs.run(*SHORT)
    twice = [request[:200] for request, count in Counter(proxy.changes).items() if count > 1]
    assert (twice, len(proxy.changes) > 20) == ([], True)


def test_a_server_that_starts_late_gets_all_records(runs, proxy, expected):
    proxy.switch_to("refuse")
    process = runs.start_training(*MIDDLE)
    proxy.switch_to("pass")
    err = runs.wait_for_end(process)
    assert err.count("does not take this run yet (") == err.count("(connection refused)") == 1
    assert err.count("\n") <= 2
    assert runs.contents() == expected["middle"]
    assert runs.waiting() == []


def test_the_printed_command_sends_the_records_that_a_dead_server_missed(runs, proxy, expected):
    proxy.switch_to("refuse")
    err = runs.wait_for_end(runs.start(*SHORT, "tracking.wait=1"))
    (folder,) = runs.waiting()
    assert f"safe in {folder}" in err
    briefly = err.replace(f"{folder.name}\n", f"{folder.name} --wait 1\n")
    assert "not sent (" in runs.follow_advice(briefly, status=2)
    proxy.switch_to("pass")
    assert runs.follow_advice(err).startswith("Sent ")
    assert runs.contents() == expected["short"]
    assert runs.waiting() == []
    assert "no such run waits" in runs.follow_advice(err, status=2)
    assert "Nothing waits in " in runs.follow_advice(err.replace(f"{folder.name}\n", "\n"))
    mlflow.set_tracking_uri(runs.uri)
    (output,) = runs.only_run().outputs.model_outputs
    model = mlflow.pytorch.load_model(f"models:/{output.model_id}")
    assert sum(p.numel() for p in model.parameters()) == 61706


def test_a_server_that_fails_during_the_training_gets_all_records(runs, proxy, expected):
    process = runs.start_training(*MIDDLE, "tracking.wait=60")
    for mode in ("refuse", "hang", "error", "cut"):
        proxy.switch_to(mode)
        time.sleep(2)
    proxy.switch_to("pass")
    runs.wait_for_end(process)
    assert runs.contents() == expected["middle"]
    assert runs.waiting() == []


def test_a_run_trains_beside_a_server_that_hangs_and_ctrl_c_ends_the_wait(runs, proxy, expected):
    proxy.switch_to("hang")
    process = runs.start(*MIDDLE, "tracking.wait=3600")
    for line in process.stderr:
        if line.startswith("Waiting up to 3600 s"):
            break
    process.send_signal(signal.SIGINT)
    runs.wait_for_end(process, status=130)
    proxy.switch_to("pass")
    runs.send_waiting()
    assert runs.contents() == expected["middle"]


def test_a_run_killed_while_the_server_is_down_resumes_without_duplicates(runs, proxy, expected):
    proxy.switch_to("refuse")
    process = runs.start_training(*MIDDLE)
    process.kill()
    process.communicate()
    proxy.switch_to("pass")
    runs.send_waiting()
    assert runs.only_run().info.status == "KILLED"
    run_id = runs.only_run().info.run_id
    err = runs.wait_for_end(Lab.start(runs, f"resume={run_id}"))
    assert "Warning" not in err
    found = runs.contents()
    assert found["points"] == expected["middle"]["points"]
    assert found["weights"] == expected["middle"]["weights"]
    assert found["status"] == "FINISHED"
    assert runs.waiting() == []


def check_runs_at_once(count, folder, *uris):
    """Runs `count` trainings at once, on the given addresses of one database, and checks each."""
    writers = [Runs(folder, uri) for uri in uris]
    for runs in writers:  # an experiment keeps its artifacts where its first run put them
        runs.experiment += runs.uri[:4]
    options = ["epochs=2", "log_interval=1", "data.val_size=100", NO_MODEL, "tracking.wait=120"]
    processes = [writers[n % len(writers)].start(*options, f"seed={n}") for n in range(count)]
    for process in processes:
        err = Runs.wait_for_end(process)
        assert "MLflow refuses" not in err
        assert "MLflow has not taken" not in err
    client = MlflowClient(uris[0])
    ids = [client.get_experiment_by_name(runs.experiment).experiment_id for runs in writers]
    found = client.search_runs(ids)
    assert {run.info.status for run in found} == {"FINISHED"}
    assert sorted(int(run.data.params["seed"]) for run in found) == list(range(count))
    for run in found:
        steps = client.get_metric_history(run.info.run_id, "train/loss_step")
        assert sorted(point.step for point in steps) == list(range(1, 43))
        losses = client.get_metric_history(run.info.run_id, "val/loss")
        assert sorted(point.step for point in losses) == [1, 2]
        assert len(run.data.metrics) == 27
        assert len(run.inputs.dataset_inputs) == 1


def test_four_runs_that_create_one_sqlite_database_lose_nothing(tmp_path):
    check_runs_at_once(4, tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")


@long
def test_eight_runs_on_postgresql_half_of_them_through_a_server_lose_nothing(tmp_path):
    with Postgres() as postgres, Server(tmp_path, backend=postgres.uri) as server:
        check_runs_at_once(8, tmp_path, postgres.uri, server.url)


def test_a_run_whose_disk_fills_up_continues_and_is_recorded(tmp_path, expected):
    with small_disk(tmp_path / "waiting", 4) as disk:
        runs = Runs(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
        process = runs.start_training(*MIDDLE)
        fill_disk(disk)
        err = runs.wait_for_end(process)
        assert err.count("journal.jsonl: No space left on device") <= 1
        found = runs.contents()
        assert found["points"] == expected["middle"]["points"]
        assert found["status"] == "FINISHED"
        assert [path.name for path in disk.iterdir()] == ["filling"]


@long
def test_a_database_whose_disk_fills_up_gets_all_records_once_there_is_room(tmp_path, expected):
    with small_disk(tmp_path / "disk", 8) as disk:
        runs = Runs(tmp_path, f"sqlite:///{disk / 'mlflow.db'}")
        process = runs.start_training(*MIDDLE, "tracking.wait=1")
        filling = fill_disk(disk)
        err = runs.wait_for_end(process)
        filling.unlink()
        runs.follow_advice(err)
        assert runs.contents() == expected["middle"]
