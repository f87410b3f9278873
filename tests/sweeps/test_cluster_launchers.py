"""Sweeps on real clusters: two Ray nodes, submitit, MLflow's server on PostgreSQL, all here."""

import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lenet.config.errors import ConfigError
from lenet.sweeps.cluster_launchers import Cluster
from tests.conftest import LIMIT, long
from tests.support.lab import SweepLab
from tests.support.servers import Postgres, Server, free_port
from tests.support.slurm import Slurm

EPOCHS = 200  # some seconds, in which a job can be killed
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}, which is not installed")


class ClusterLab(SweepLab):
    """A folder to give sweeps in, and the store that they go to."""

    def __init__(self, folder: Path, uri: str, **env: str) -> None:
        super().__init__(folder)
        self.uri = uri
        gone = ("LENET_RUNS", "LENET_DATA")
        self.env = {k: v for k, v in self.env.items() if k not in gone}
        self.env |= {"MLFLOW_TRACKING_URI": uri, **env}


def ended(process: "subprocess.Popen[str]", status: int = 0) -> str:
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == status, out + err
    return out + err


class Node:
    """A real Ray node with a folder, a home and ports of its own."""

    def __init__(self, env: dict[str, str], head: int | None = None) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ray-"))  # short: sockets lie below it
        ports = ",".join(str(free_port()) for _ in range(8))
        options = ["--block", "--num-cpus=1", "--disable-usage-stats", f"--temp-dir={self.folder}"]
        options += ["--object-store-memory=100000000", f"--worker-port-list={ports}"]
        options += [f"--dashboard-agent-listen-port={free_port()}"]
        if head is None:
            self.port = free_port()
            options += ["--head", f"--port={self.port}", "--include-dashboard=false"]
        else:
            self.port = head
            options += [f"--address={own_address()}:{head}"]
        self.log = self.folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", "start", *options],
                cwd=self.folder,
                env=env | {"HOME": str(self.folder)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + LIMIT
        while b"Ray runtime started" not in self.log.read_bytes():
            if self.process.poll() is not None or time.monotonic() > end:
                log_text = self.log.read_text()
                self.stop()
                pytest.fail(f"a Ray node did not start:\n{log_text}")
            time.sleep(0.2)

    def has(self, pid: int) -> bool:
        try:
            return os.getsid(pid) == self.process.pid
        except ProcessLookupError:
            return False

    def kill(self) -> None:
        """As a power failure would: the raylet, and with it its workers."""
        raylet = next(
            p for p in psutil.process_iter(["name"]) if p.name() == "raylet" and self.has(p.pid)
        )
        os.killpg(os.getpgid(raylet.pid), signal.SIGKILL)

    def stop(self) -> None:
        for process in psutil.process_iter():
            if self.has(process.pid):
                process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def own_address() -> str:
    import ray

    return str(ray.util.get_node_ip_address())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    with Postgres() as postgres, Server(folder, backend=postgres.uri) as server:
        yield server


@pytest.fixture(scope="module")
def ray_env() -> dict[str, str]:
    needs("ray")
    gone = ("LENET_", "MLFLOW_", "RAY_")  # nothing that a job needs is set by hand
    env = {k: v for k, v in os.environ.items() if not k.startswith(gone)}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    quick = {"RAY_health_check_period_ms": "1000", "RAY_health_check_failure_threshold": "3"}
    even = {"RAY_worker_niceness": "0"}  # the other tests would leave its workers no time
    return env | token | quick | even


@pytest.fixture(scope="module")
def head(ray_env) -> Iterator[Node]:
    node = Node(ray_env)
    yield node
    node.stop()


@pytest.fixture
def ray_lab(tmp_path, server, head, ray_env) -> ClusterLab:
    return ClusterLab(
        tmp_path, server.url, **{k: v for k, v in ray_env.items() if k.startswith("RAY_A")}
    )


def on_ray(head: Node) -> list[str]:
    return ["hydra/launcher=ray", f"hydra.launcher.init.address={own_address()}:{head.port}"]


@pytest.mark.slow
def test_no_epoch_is_lost_or_repeated_when_a_ray_node_is_killed(ray_lab, head, ray_env):
    sweep = [*on_ray(head), "optimizer.lr=0.01,0.02", "seed=0,1", f"epochs={EPOCHS}"]
    node = Node(ray_env, head.port)
    try:
        process = ray_lab.start(*sweep)
        stopped, _ = ray_lab.wait_for_training(process, node.has)
        node.kill()
        out = ended(process)
    finally:
        node.stop()
    assert "[4/4]" in out
    parent, children = ray_lab.family()
    assert [run.info.status for run in children] == ["FINISHED"] * 4, out
    assert len({run.data.tags["lenet.sweep.job_sha256"] for run in children}) == 4
    for run in children:
        assert ray_lab.steps(run) == list(range(1, EPOCHS + 1)), run.info.run_name
    resumed = [run.info.run_id for run in children if "lenet.resumed" in run.data.tags]
    assert resumed == [stopped.info.run_id]
    assert parent.info.status == "FINISHED"
    assert {run.data.tags["mlflow.source.git.commit"] for run in children} == {
        parent.data.tags["mlflow.source.git.commit"]
    }
    assert {run.data.params["device.threads"] for run in children} == {"1"}

    assert "4 jobs: 4 done\n" in ray_lab.run(*sweep)[0]
    assert len(ray_lab.family()[1]) == 4


@pytest.mark.slow
@long
def test_a_job_that_ray_gives_up_fails_alone_and_the_same_command_completes_it(ray_lab, head):
    sweep = [*on_ray(head), "hydra.launcher.remote.max_retries=0", "seed=10,11", f"epochs={EPOCHS}"]
    process = ray_lab.start(*sweep)
    stopped, pid = ray_lab.wait_for_training(process, head.has)
    os.kill(pid, signal.SIGKILL)
    out = ended(process, status=1)
    assert "1 of 2 jobs failed" in out
    assert f"  {stopped.info.run_name}  " in out.partition("Failed jobs:")[2]
    assert sorted(run.info.status for run in ray_lab.family()[1]) == ["FINISHED", "KILLED"]

    assert "2 jobs: 1 done, 1 unfinished\n" in ray_lab.run(*sweep)[0]
    _, children = ray_lab.family()
    assert [run.info.status for run in children] == ["FINISHED"] * 2
    assert all(ray_lab.steps(run) == list(range(1, EPOCHS + 1)) for run in children)


@pytest.fixture
def local_lab(tmp_path) -> ClusterLab:
    needs("submitit")
    return ClusterLab(
        tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", LENET_RUNS=str(tmp_path / "waiting")
    )


@pytest.mark.slow
def test_submitit_runs_a_sweep_with_a_job_that_fails(local_lab):
    sweep = ["hydra/launcher=slurm_local", "optimizer.lr=0.01,1e30,0.02", "epochs=2"]
    out, err = local_lab.run(*sweep, status=1)
    assert "error: 1 of 3 jobs failed" in err
    assert "  lr=1e+30  Diverged: the training loss is nan" in out.partition("Failed jobs:")[2]
    parent, children = local_lab.family()
    statuses = {run.info.run_name: run.info.status for run in children}
    assert statuses == {"lr=0.01": "FINISHED", "lr=1e+30": "FAILED", "lr=0.02": "FINISHED"}
    assert parent.info.status == "FAILED"
    assert json.loads(parent.data.tags["lenet.sweep.axes"]) == ["optimizer.lr"]


@pytest.mark.slow
def test_a_job_that_submitit_queues_again_continues_its_run(local_lab):
    process = local_lab.start("hydra/launcher=slurm_local", "seed=0,1", f"epochs={EPOCHS}")
    stopped, pid = local_lab.wait_for_training(process)
    os.kill(pid, signal.SIGUSR2)  # as at the end of its time
    ended(process)
    _, children = local_lab.family()
    assert [run.info.status for run in children] == ["FINISHED"] * 2
    assert [r.info.run_id for r in children if "lenet.resumed" in r.data.tags] == [
        stopped.info.run_id
    ]
    assert all(local_lab.steps(run) == list(range(1, EPOCHS + 1)) for run in children)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory) -> Iterator[Slurm]:
    needs("submitit")
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.wait_until_ready()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def slurm_lab(tmp_path, server, slurm) -> ClusterLab:
    return ClusterLab(tmp_path, server.url, SLURM_CONF=str(slurm.file))


ON_SLURM = ["hydra/launcher=slurm", "hydra.launcher.parameters.mem_gb=1"]


@pytest.mark.slow
def test_jobs_that_slurm_preempts_are_queued_again_and_continue_their_runs(slurm_lab, slurm):
    process = slurm_lab.start(*ON_SLURM, "seed=0,1", "epochs=500")
    slurm_lab.wait_for_training(process)
    slurm("sbatch", "--partition=high", "--cpus-per-task=2", "--output=/dev/null", "--wrap=true")
    slurm.begin_waiting_jobs(2)
    ended(process)
    _, children = slurm_lab.family()
    assert [run.info.status for run in children] == ["FINISHED"] * 2
    assert any("lenet.resumed" in run.data.tags for run in children)
    assert all(slurm_lab.steps(run) == list(range(1, 501)) for run in children)


@pytest.mark.slow
def test_what_slurm_refuses_is_said_in_one_line(slurm_lab, slurm):
    _, err = slurm_lab.run(*ON_SLURM, "hydra.launcher.parameters.slurm_partition=none", status=2)
    assert "error: hydra.launcher.parameters: sbatch: error: " in err.splitlines()[-1]


@pytest.mark.parametrize("uri", ["None", "sqlite:////tmp/a.db", "postgresql://h/db"])
def test_a_store_that_only_one_machine_sees_is_refused(uri):
    with pytest.raises(ConfigError, match="expected http://HOST:PORT"):
        Cluster().check_store(uri)
