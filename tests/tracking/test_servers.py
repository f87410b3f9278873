"""Whole runs beside a tracking server that fails: the training goes on, and all of it arrives once.

LENET_LONG=1 in the environment adds PostgreSQL and full disks.
"""

import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import LoggedModelStatus
from mlflow.tracking import MlflowClient

from lenet.tracking import sender as send
from lenet.tracking.client import TrackingError
from tests.support.lab import BASE, Lab
from tests.support.servers import Proxy, Server, fill, postgres, small_disk

pytestmark = pytest.mark.slow

long = pytest.mark.skipif(os.environ.get("LENET_LONG") != "1", reason="needs LENET_LONG=1")
QUICK = [*BASE, "log_interval=5", "tracking.pictures=false"]
SHORT, MIDDLE, ENDLESS = ["epochs=3"], ["epochs=60"], ["epochs=100000"]
NO_MODEL = ["tracking.model=false"]
START_SECONDS = 10
TIMED = ("seconds/", "images_per_second")
OWN_TAGS = ("lenet.", "mlflow.runName", "error", "mlflow.user", "mlflow.source")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def proxy(server):
    with Proxy(server.url) as proxy:
        yield proxy


class Runs(Lab):
    """Runs of one experiment, sent to `uri`, looked at in `real`."""

    def __init__(self, folder: Path, uri: str, real: str | None = None) -> None:
        super().__init__(folder)
        self.uri = real or uri
        self.experiment = folder.name
        self.env |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_TIMEOUT": "3"}

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return super().start(*QUICK, f"tracking.experiment={self.experiment}", *arguments)

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        """Returns: a process whose first epoch is on the screen."""
        process = self.start(*arguments)
        assert process.stdout
        for line in process.stdout:
            if line.startswith("Epoch "):
                return process
        pytest.fail(str(process.communicate()))

    @staticmethod
    def end(process: "subprocess.Popen[str]", status: int = 0, seconds: float = 90) -> str:
        _, err = process.communicate(timeout=seconds)
        assert process.returncode == status, err
        assert "Traceback" not in err
        return err

    def send(self) -> str:
        """What `python -m lenet send` does."""
        (folder,) = self.waiting()
        return send.send(folder, 60)

    def follow(self, err: str, status: int = 0) -> str:
        """Does what the last line says, as it says it, in the shell that the run had."""
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

    def one(self):
        """The only run."""
        client = MlflowClient(self.uri)
        found = client.get_experiment_by_name(self.experiment)
        (run,) = client.search_runs([found.experiment_id])
        return run

    def contents(self, run=None):
        """What a run has in MLflow, but for times and names that are its own."""
        client, run = MlflowClient(self.uri), run or self.one()
        own = ("tracking.", "data.root")
        points = Counter(
            (p.key, p.step, p.value)
            for name in run.data.metrics
            for p in client.get_metric_history(run.info.run_id, name)
            if not name.startswith(TIMED)
        )
        timed = Counter(
            (p.key, p.step)
            for name in run.data.metrics
            for p in client.get_metric_history(run.info.run_id, name)
            if name.startswith(TIMED)
        )
        models = client.search_logged_models([run.info.experiment_id])
        return {
            "params": {k: v for k, v in run.data.params.items() if not k.startswith(own)},
            "tags": {k for k in run.data.tags if not k.startswith(OWN_TAGS)},
            "weights": run.data.tags["weights.sha256"],
            "points": points,
            "timed": timed,
            "artifacts": sorted(self.artifacts(run)),
            "data": [i.dataset.digest for i in run.inputs.dataset_inputs],
            "models": [m.status for m in models],
            "outputs": [o.step for o in run.outputs.model_outputs],
            "status": run.info.status,
        }


@pytest.fixture(scope="module")
def expected(server, tmp_path_factory):
    """What runs leave on a server that does not fail."""
    found = {}
    for name, arguments in {"short": SHORT, "middle": [*MIDDLE, *NO_MODEL]}.items():
        runs = Runs(tmp_path_factory.mktemp(f"expected-{name}"), server.url)
        runs.run(*arguments)
        found[name] = runs.contents()
    assert found["short"]["models"] == [LoggedModelStatus.READY]
    assert all(count == 1 for count in found["middle"]["points"].values())
    return found


@pytest.fixture
def runs(tmp_path, proxy, server):
    return Runs(tmp_path, proxy.url, server.url)


def test_a_server_that_is_down_at_the_start_and_comes_back(runs, proxy, expected):
    proxy.set("refuse")
    process = runs.begin(*MIDDLE, *NO_MODEL)
    proxy.set("pass")
    err = runs.end(process)
    assert err.count("does not take this run yet (") == err.count("(connection refused)") == 1
    assert err.count("\n") <= 2
    assert runs.contents() == expected["middle"]
    assert runs.waiting() == []


def test_a_server_that_never_comes_back_gets_all_by_the_printed_command(runs, proxy, expected):
    proxy.set("refuse")
    err = runs.end(runs.start(*SHORT, "tracking.wait=1"))
    (folder,) = runs.waiting()
    assert f"safe in {folder}" in err
    assert "not sent (" in runs.follow(
        err.replace(folder.name + "\n", folder.name + " --wait 1\n"), 2
    )
    proxy.set("pass")
    assert runs.follow(err).startswith("Sent ")
    assert runs.contents() == expected["short"]
    assert runs.waiting() == []
    assert "no such run waits" in runs.follow(err, status=2)
    assert "Nothing waits in " in runs.follow(err.replace(folder.name + "\n", "\n"))
    mlflow.set_tracking_uri(runs.uri)
    model = mlflow.pytorch.load_model(f"runs:/{runs.one().info.run_id}/model")
    assert sum(p.numel() for p in model.parameters()) == 61706


def test_a_server_that_fails_in_the_middle_and_comes_back(runs, proxy, expected):
    process = runs.begin(*MIDDLE, *NO_MODEL, "tracking.wait=60")
    for mode in ("refuse", "hang", "error", "cut"):
        proxy.set(mode, status=503)
        time.sleep(2)
    proxy.set("pass")
    runs.end(process)
    assert runs.contents() == expected["middle"]
    assert runs.waiting() == []


@long
def test_a_server_that_is_killed_and_started_again_has_all(runs, server, expected):
    process = runs.begin(*MIDDLE, *NO_MODEL, "tracking.wait=120")
    server.stop()
    server.start()
    runs.end(process, seconds=200)
    assert runs.contents() == expected["middle"]


# ---- How it ended ----------------------------------------------------------------------------


def test_a_run_that_is_stopped_beside_a_dead_server_is_killed_there_later(runs, proxy):
    process = runs.begin(*ENDLESS, "tracking.wait=1")
    proxy.set("refuse")
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    runs.end(process, status=130, seconds=60)
    proxy.set("pass")
    runs.send()
    assert runs.one().info.status == "KILLED"


def test_a_server_that_hangs_delays_the_start_by_seconds_and_ctrl_c_ends_the_wait_for_it(
    runs, proxy, expected
):
    proxy.set("hang")
    process = runs.start(*MIDDLE, *NO_MODEL, "tracking.wait=600")
    for line in process.stderr:
        if line.startswith("Waiting up to 600 s"):
            break
    process.send_signal(signal.SIGINT)
    runs.end(process, status=130, seconds=20)
    proxy.set("pass")
    runs.send()
    assert runs.contents() == expected["middle"]
    assert runs.one().data.metrics["seconds/logging"] < START_SECONDS + 10


def test_a_run_killed_beside_a_dead_server_goes_on_with_no_doubles(runs, proxy, expected):
    proxy.set("refuse")
    process = runs.begin(*MIDDLE, *NO_MODEL)
    process.kill()
    process.communicate()
    proxy.set("pass")
    runs.send()
    assert runs.one().info.status == "KILLED"
    run_id = runs.one().info.run_id
    err = runs.end(Lab.start(runs, f"resume={run_id}"))
    assert "Warning" not in err
    found = runs.contents()
    assert found["points"] == expected["middle"]["points"]
    assert found["weights"] == expected["middle"]["weights"]
    assert found["status"] == "FINISHED"
    assert runs.waiting() == []


@long
def test_a_run_that_is_deleted_in_the_middle_trains_on_and_comes_when_restored(
    runs, proxy, expected
):
    process = runs.begin(*MIDDLE, *NO_MODEL, "tracking.wait=1")
    run_id = runs.one().info.run_id
    MlflowClient(runs.uri).delete_run(run_id)
    err = runs.end(process)
    assert f"run {run_id} is deleted there" in err
    with pytest.raises(TrackingError, match="is deleted there"):
        runs.send()
    MlflowClient(runs.uri).restore_run(run_id)
    runs.send()
    assert runs.contents() == expected["middle"]


# ---- Eight at once ---------------------------------------------------------------------------


def write_eight(folder, *uris):
    """Eight runs at once, which take turns with the ways to one database."""
    ways = [Runs(folder, uri) for uri in uris]
    for way in ways:  # an experiment keeps its artifacts where it was made to
        way.experiment += way.uri[:4]
    options = ["epochs=2", "log_interval=1", "data.val_size=100", *NO_MODEL, "tracking.wait=120"]
    processes = [ways[seed % len(ways)].start(*options, f"seed={seed}") for seed in range(8)]
    for process in processes:
        err = Runs.end(process, seconds=400)
        assert "MLflow refuses" not in err
        assert "MLflow has not taken" not in err
    client = MlflowClient(uris[0])
    made = [client.get_experiment_by_name(way.experiment).experiment_id for way in ways]
    found = client.search_runs(made)
    assert {run.info.status for run in found} == {"FINISHED"}
    assert sorted(int(run.data.params["seed"]) for run in found) == list(range(8))
    every_step = list(range(1, 43))
    for run in found:
        for name in run.data.metrics:
            history = client.get_metric_history(run.info.run_id, name)
            steps = [point.step for point in history]
            wanted = {"train/loss_step": every_step}.get(name, [1, 2])
            last = name.startswith(("test/", "seconds/")) and name != "seconds/epoch"
            assert sorted(steps) == ([2] if last else wanted), name
        assert len(run.data.metrics) == 27
        assert len(run.inputs.dataset_inputs) == 1


def test_eight_first_uses_of_an_sqlite_database_at_once_lose_nothing(tmp_path):
    write_eight(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")


@long
def test_eight_writers_on_postgresql_half_of_them_through_a_server_lose_nothing(tmp_path):
    with postgres() as database:
        uri = database.database("mlflow")
        with Server(tmp_path, backend=uri) as server:
            write_eight(tmp_path, uri, server.url)


@long
def test_postgresql_that_dies_in_the_middle_and_comes_back_has_all(tmp_path, expected):
    with postgres() as database:
        runs = Runs(tmp_path, database.database("mlflow"))
        process = runs.begin(*MIDDLE, *NO_MODEL, "tracking.wait=60")
        database.stop()
        for line in process.stdout:
            assert "a-secret" not in line
            if " s: training " in line:
                break
        time.sleep(2)
        database.start()
        err = runs.end(process)
        assert "a-secret" not in err
        found = runs.contents()
        assert found == expected["middle"]


# ---- Full disks ------------------------------------------------------------------------------


def test_a_run_whose_folder_fills_up_goes_on_and_arrives(tmp_path, expected):
    with small_disk(tmp_path / "waiting", 4) as disk:
        runs = Runs(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}")
        process = runs.begin(*MIDDLE, *NO_MODEL)
        fill(disk)
        err = runs.end(process)
        assert err.count("journal.jsonl: No space left on device") <= 1
        found = runs.contents()
        wanted = expected["middle"]
        assert found["points"] == wanted["points"]
        assert found["status"] == "FINISHED"
        assert [path.name for path in disk.iterdir()] == ["filling"]


@long
def test_a_database_whose_disk_fills_up_gets_all_once_there_is_room(tmp_path, expected):
    with small_disk(tmp_path / "disk", 8) as disk:
        runs = Runs(tmp_path, f"sqlite:///{disk / 'mlflow.db'}")
        process = runs.begin(*MIDDLE, *NO_MODEL, "tracking.wait=1")
        filling = fill(disk)
        err = runs.end(process)
        filling.unlink()
        runs.follow(err)
        assert runs.contents() == expected["middle"]


@long
def test_where_all_is_full_the_start_says_so_in_a_line_and_leaves_nothing(tmp_path, expected):
    with small_disk(tmp_path / "waiting", 8) as disk:
        filling = fill(disk)
        runs = Runs(tmp_path, f"sqlite:///{disk / 'mlflow.db'}")
        err = runs.end(runs.start(*SHORT), status=2)
        assert err.count("\n") == 1
        assert "No space left on device" in err
        filling.unlink()
        assert list(disk.iterdir()) == []
        runs.run(*SHORT, *NO_MODEL)
        assert runs.one().info.status == "FINISHED"


@long
def test_where_all_fills_up_the_loss_is_said_in_a_line(tmp_path):
    with small_disk(tmp_path / "waiting", 8) as disk:
        runs = Runs(tmp_path, f"sqlite:///{disk / 'mlflow.db'}")
        process = runs.begin(*MIDDLE, *NO_MODEL, "tracking.wait=1")
        filling = fill(disk)
        err = runs.end(process, status=2)
        assert err.count("are lost: neither MLflow (") == 1
        filling.unlink()
        assert runs.send().startswith("Sent ")
        assert runs.one().info.status == "KILLED"
        runs.run(*SHORT, *NO_MODEL, "tracking.experiment=next")


# ---- Longer ----------------------------------------------------------------------------------
