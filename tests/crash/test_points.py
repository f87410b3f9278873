"""A command can end at any change that it makes to a file, and nothing is lost or doubled.

`points.py` says which crashes that are. A tenth of those of a training and of `send` is tried; with
LENET_LONG=1 all of them, and a tenth of a training that registers its model, and of a sweep.
LENET_SEED chooses other ones.
"""

import random
from pathlib import Path

import pytest

from tests.conftest import LONG, long
from tests.crash.conftest import SEED
from tests.crash.disk import Disk
from tests.crash.lab import Lab
from tests.crash.points import Settler
from tests.crash.scenarios import record, record_recovery
from tests.crash.trial import described, failures, plan, save

pytestmark = pytest.mark.slow
# So that ten minutes are enough with LENET_LONG=1; `python -m tests.crash NAME` tries all of each.
TENTHS = {"training": 0.1, "send": 0.1}
PARTS = {"training": 1, "send": 1, "model": 0.1, "sweep": 0.1} if LONG else TENTHS


@pytest.mark.parametrize("scenario", PARTS)
def test_a_command_can_end_at_any_change(
    lab: Lab, empty_store: Path, tmp_path: Path, scenario: str
) -> None:
    recording = record(scenario, lab, empty_store)
    made = plan(recording, Settler(tmp_path / "settled"))
    chosen = made.share(PARTS[scenario], SEED)
    print(described(recording, made), f"{len(chosen)} tried", sep="; ")
    file = save(recording, tmp_path / "recording")
    assert failures(lab, recording, chosen, file) == 0


@long
def test_the_recovery_from_a_crash_can_crash_at_any_change(
    lab: Lab, empty_store: Path, tmp_path: Path
) -> None:
    recording = record("training", lab, empty_store)
    settler = Settler(tmp_path / "settled")
    tried = failed = 0
    for point in plan(recording, settler).share(0, SEED):  # one of each kind
        again = record_recovery(lab, recording, point.disk)
        points = plan(again, settler).distinct
        second = random.Random(f"{SEED} {point}").sample(points, min(8, len(points)))
        file = save(again, tmp_path / f"recording-{tried}")
        failed += failures(lab, again, second, file)
        tried += len(second)
    print(f"{tried} pairs of crashes tried")
    assert failed == 0


def test_no_change_of_a_file_escapes_the_recording(lab: Lab, empty_store: Path) -> None:
    recording = record("training", lab, empty_store)
    disk = recording.start
    for change in recording.changes:
        disk = disk.after(change)
    assert {name: file and file.content for name, file in disk.paths.items()} == {
        name: file and file.content for name, file in Disk.of(lab.folder).paths.items()
    }
