"""A change that fails, at any place: a full disk or a broken one costs a warning at most.

Of each kind of change four of ten fail. LENET_SEED chooses them, and how they fail.
"""

from pathlib import Path

import pytest

from tests.conftest import long
from tests.crash.conftest import SEED
from tests.crash.faults import failures, faults
from tests.crash.lab import Lab
from tests.crash.scenarios import TRAINING, record

pytestmark = [pytest.mark.slow, long]


def test_after_a_change_that_failed_a_training_is_whole(lab: Lab, empty_store: Path) -> None:
    recording = record("training", lab, empty_store)
    chosen = faults(recording.changes, 0.4, SEED)
    print(f"{len(recording.changes)} changes, {len(chosen)} faults tried")
    assert failures(lab, recording.start, TRAINING, recording.expected, chosen) == 0
