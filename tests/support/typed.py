"""Commands in the test's own process, which takes a tenth of the time of one of their own."""

import importlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from lenet.config.check import check
from lenet.tracking import Run
from lenet.tracking.client import connect
from lenet.tracking.provenance import process_identity
from lenet.tracking.settings import Settings
from tests.conftest import CONF, LIMIT
from tests.support.lab import PLAIN


class Desk:
    """A folder with a store, in which commands are typed."""

    def __init__(
        self, folder: Path, uri: str, capsys: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.folder, self.uri, self.waiting = folder, uri, folder / "waiting"
        self.capsys, self.monkeypatch = capsys, monkeypatch
        monkeypatch.chdir(folder)
        monkeypatch.delenv("LENET_DATA", raising=False)
        monkeypatch.setenv("LENET_RUNS", str(self.waiting))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    @property
    def gone(self) -> str:
        """The identity of a process of this machine that is no more."""
        host, _, *rest = process_identity().split()
        return " ".join([host, "999999999", *rest])

    @property
    def client(self):
        return connect(self.uri)

    def runs(self):
        ids = [each.experiment_id for each in self.client.search_experiments()]
        return self.client.search_runs(ids, order_by=["attributes.start_time ASC"])

    def typed(
        self, *arguments: str, status: int = 0, train: Callable[[Settings], Any] | None = None
    ) -> str:
        """What `python run.py` prints; `train` takes the place of the training."""
        with self.monkeypatch.context() as patch:
            patch.setattr("lenet.cli.start", lambda: None)
            run = importlib.import_module("run")
            if train:
                patch.setattr(run, "train", lambda settings, *_: train(settings))
            patch.setenv("HYDRA_FULL_ERROR", "")
            patch.setattr(sys, "argv", ["run.py", *arguments])
            found: Any = 0
            try:
                run.main()
            except SystemExit as end:
                found = end.code
        out, err = self.capsys.readouterr()
        assert found == status, out + err
        if status == 2:
            assert (out, err.count("\n")) == ("", 1)
            assert err.startswith("error: ")
        return str(out + err)

    def whole(self, *arguments: str) -> str:
        """The id of a run of an epoch."""
        self.typed("data=digits", "epochs=1", *PLAIN, *arguments)
        return str(self.runs()[-1].info.run_id)

    def died(self, *arguments: str) -> tuple[str, Path]:
        """Id and folder of a run whose process, of this machine, died before its first epoch."""
        given = ["data=digits", "epochs=1", *PLAIN, *arguments]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            settings = Settings(check(compose("config", given)), given, time.time())
        with self.monkeypatch.context() as patch:
            patch.setattr("lenet.tracking.run.process_identity", lambda: self.gone)
            patch.setattr("lenet.tracking.records.process_identity", lambda: self.gone)
            run = Run(settings, self.uri, folder=str(self.waiting)).__enter__()
        assert run._sender.finish(20)
        run.journal.close()
        return run.id, run.folder

    def shell(self, line: str, status: int = 0) -> str:
        """What the line prints in a shell."""
        done = subprocess.run(line, shell=True, capture_output=True, text=True, timeout=LIMIT)
        assert done.returncode == status, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr
