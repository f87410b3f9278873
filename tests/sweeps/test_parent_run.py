"""A sweep's own run: of several processes that start one sweep, one gets it."""

import subprocess
import sys
import time
from pathlib import Path

from lenet.sweeps.parent_run import ParentRun
from lenet.tracking.client import connect
from lenet.tracking.names import ERROR_TAG, HEARTBEAT_TAG
from lenet.tracking.turns import SILENCE_SECONDS
from tests.conftest import LIMIT, copy_store

# Both find out what there is of the sweep before either begins it.
START = """
import sys, time
from pathlib import Path
from lenet.sweeps.parent_run import ParentRun
from lenet.tracking.client import connect
from lenet.tracking.names import PROCESS_TAG, SWEEP_KIND_TAG, TrackingError
from lenet.tracking.provenance import process_identity
own, other, uri = sys.argv[1:]

def meet(when):
    Path(f"{own}.{when}").touch()
    while not Path(f"{other}.{when}").exists():
        time.sleep(0.001)

parent = ParentRun(connect(uri), "lenet5", "the sweep")
meet("found")
try:
    parent.begin("sweep", {PROCESS_TAG: process_identity(), SWEEP_KIND_TAG: "grid"}, "")
except TrackingError as error:
    print(error)
meet("begun")
"""


def start_both(folder, uri):
    """What two processes print that start the same sweep at the same time."""
    pairs = [(str(folder / own), str(folder / other), uri) for own, other in ("ab", "ba")]
    both = [
        subprocess.Popen([sys.executable, "-c", START, *pair], stdout=subprocess.PIPE, text=True)
        for pair in pairs
    ]
    out = [process.communicate(timeout=LIMIT)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    return both, out


def sweeps(client):
    experiment = client.get_experiment_by_name("lenet5")
    return client.search_runs([experiment.experiment_id])


def test_of_two_processes_that_start_one_sweep_one_gets_it(empty_store, tmp_path):
    uri = copy_store(empty_store, tmp_path)
    client = connect(uri)
    for times in (1, 2):  # a new sweep, and one whose process has died
        folder = tmp_path / str(times)
        folder.mkdir()
        both, out = start_both(folder, uri)
        (loser,) = [n for n in (0, 1) if out[n]]
        winner = both[1 - loser].pid
        (run,) = sweeps(client)
        assert out[loser].count("\n") == 1
        assert f": this sweep is running, in process {winner} on " in out[loser]
        assert run.data.tags["lenet.process"].split()[1] == str(winner)
        assert abs(time.time() - int(run.data.tags[HEARTBEAT_TAG])) < SILENCE_SECONDS
        assert ERROR_TAG not in run.data.tags
        client.set_tag(run.info.run_id, ERROR_TAG, "its process has died")


def test_a_sweep_that_is_continued_has_the_uncommitted_changes_of_its_last_process(
    empty_store, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    client = connect(copy_store(empty_store, tmp_path))
    for patch in ("", "a patch"):  # the first process died before it could log its own
        parent = ParentRun(client, "lenet5", "the sweep")
        parent.begin("sweep", {}, patch)
        parent.end("KILLED")
    (run,) = sweeps(client)
    found = client.download_artifacts(run.info.run_id, "uncommitted.patch")
    assert Path(found).read_text() == "a patch"
