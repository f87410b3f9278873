"""Whatever fails, a run is whole in the end: changes of files, requests, a machine that sleeps,
two sweeps at once.

A part of each kind is tried, more of them with LENET_LONG=1. LENET_SEED chooses which, and how they
fail. Each failure prints the command that tries it again.
"""

from pathlib import Path

import pytest

from tests.conftest import LONG, long
from tests.crash import answers, asleep, faults, two_sweeps
from tests.crash.conftest import SEED
from tests.crash.lab import Lab

pytestmark = pytest.mark.slow


@long
def test_after_a_change_that_failed_a_training_is_whole(lab: Lab, empty_store: Path) -> None:
    assert faults.try_all(lab, empty_store, (), 0.4, SEED) == 0


@long
@pytest.mark.parametrize("scenario", ["training", "send"])
def test_after_a_request_that_failed_a_command_is_whole(
    lab: Lab, empty_store: Path, scenario: str
) -> None:
    assert answers.try_all(lab, empty_store, scenario, (), 1, SEED) == 0


def test_a_process_that_wakes_after_its_run_was_taken_over_changes_nothing(
    lab: Lab, empty_store: Path
) -> None:
    failed, taken = asleep.try_all(lab, empty_store, (), 40 if LONG else 4, SEED)
    assert (failed, taken > 0) == (0, True)


@long
def test_two_sweeps_on_one_store_leave_each_other_whole(lab: Lab, empty_store: Path) -> None:
    failed, tried = two_sweeps.try_all(lab, empty_store, (), 12, SEED)
    assert (failed, tried > 0) == (0, True)
