"""Slurm on this machine: a cluster of one node, with two partitions of which one preempts."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import LIMIT
from tests.support.servers import free_port

PATH = f"{os.environ['PATH']}:/usr/sbin"  # Debian has daemons there
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "scontrol")
CONFIGURATION = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/none
CredType=cred/none
SlurmctldPort={port}
SlurmdPort={node_port}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=2
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=9000 State=UNKNOWN
PartitionName=low Nodes=ALL PriorityTier=1 GraceTime=15 Default=YES
PartitionName=high Nodes=ALL PriorityTier=2 PreemptMode=OFF
"""


class Slurm:
    """The daemons. Without munge, so this is for one machine alone."""

    def __init__(self, folder: Path) -> None:
        if missing := [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]:
            pytest.skip(f"needs {', '.join(missing)}: apt install slurmctld slurmd slurm-client")
        if os.getuid() != 0:
            pytest.skip("slurmd needs root")
        self.folder, host = folder, socket.gethostname().partition(".")[0]
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        self.file = folder / "slurm.conf"
        ports = {"port": free_port(), "node_port": free_port()}
        self.file.write_text(CONFIGURATION.format(host=host, folder=folder, **ports))
        self.env = {**os.environ, "PATH": PATH, "SLURM_CONF": str(self.file)}
        self.daemons = [self._start("slurmctld"), self._start("slurmd")]

    def _start(self, name: str) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{name}.out").open("wb") as log:
            return subprocess.Popen([name, "-D"], stdout=log, stderr=log, env=self.env)

    def wait_until_ready(self) -> None:
        end = time.monotonic() + LIMIT
        while "idle" not in self("sinfo", "--noheader", "--format=%T"):
            assert time.monotonic() < end, (self.folder / "slurmctld.log").read_text()
            time.sleep(0.5)

    def __call__(self, *command: str) -> str:
        """The output of one of Slurm's commands."""
        return subprocess.run(command, capture_output=True, text=True, env=self.env).stdout

    def begin_waiting_jobs(self, count: int) -> None:
        """Begins the jobs that were queued again, which would begin in two minutes."""
        jobs: list[str] = []
        end = time.monotonic() + LIMIT
        while len(jobs) < count:
            assert time.monotonic() < end, self("squeue")
            time.sleep(0.5)
            lines = self("squeue", "--noheader", "--array", "--format=%i %r").splitlines()
            jobs = [line.split()[0] for line in lines if line.endswith("BeginTime")]
        for job in jobs:
            self("scontrol", "update", f"JobId={job}", "StartTime=now")

    def stop(self) -> None:
        self("scancel", "--user=root")
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
            daemon.wait()
