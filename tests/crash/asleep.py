"""Two machines have one run: the first sleeps at some change, the second takes over, it wakes.

The second machine has another folder, another boot and a clock an hour ahead, so that the first one
counts as dead.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.crash.disk import Disk
from tests.crash.lab import Lab
from tests.crash.points import ITS_JOURNAL
from tests.crash.scenarios import TRAINING, Recording, problems

HOUR = 3600
LONGER = [*TRAINING, "epochs=60"]  # a second and a half


def elsewhere(lab: Lab) -> Lab:
    boot = lab.folder.with_suffix(".boot")
    boot.write_text("another\n")
    env = {"LENET_RUNS": str(lab.folder / "elsewhere"), "CRASH_BOOT": str(boot)}
    return replace(lab, env=lab.env | env | {"CRASH_CLOCK": str(HOUR)})


def taken_over(lab: Lab, recording: Recording, n: int) -> tuple[bool, list[str]]:
    """Whether the second machine has resumed the run, where the first sleeps at the n-th change in
    the run's folder; and what is wrong then, with the story.
    """
    recording.start.write(lab.folder)
    env = {
        "CRASH_ROOT": str(lab.folder),
        "CRASH_FAULT": f"change {lab.waiting} {n} 0 {HOUR}",
    }
    first = lab.typist.start(lab.folder, lab.env | env, *LONGER)
    story: list[str] = []
    other, status, text = elsewhere(lab), 2, ""
    # Else it has ended, or sleeps with the database's lock.
    if first.wait_for_stop() and not (lab.folder / ITS_JOURNAL).exists():
        run_id = lab.unfinished()
        status, text = other.tell(story, "run.py", f"resume={run_id}")
    first.wake()
    end, last_words = first.wait()
    story.append(f"The first one:\n{last_words}[exit status {end}]")
    found = problems(other, recording.expected, [])
    if "Traceback" in last_words + text:
        found.append("a traceback")
    if status == 0 and "was resumed elsewhere since" not in last_words:
        found.append("the first one does not know")
    return status == 0, [*found, *story] if found else []


def try_all(
    lab: Lab, empty_store: Path, chosen: Sequence[str], count: int | None, seed: int
) -> tuple[int, int]:
    """How many times something was wrong, and how many times the run was taken over. The first one
    sleeps at the `chosen` changes, or else at `count` of all.
    """
    lab.begin(empty_store)
    start = Disk.of(lab.folder)
    changes = lab.recorded(*LONGER)
    recording = Recording("training", lab.folder, start, changes, lab.runs())
    stored = max(n for n, each in enumerate(changes) if each.to.endswith("config.yaml"))
    own = [n for n, each in enumerate(changes) if each.path.startswith("waiting")]
    numbers = [n for n, at in enumerate(own, start=1) if at > stored]
    failed = taken = 0
    for n in map(int, chosen or random.Random(seed).sample(numbers, count or len(numbers))):
        is_taken, wrong = taken_over(lab, recording, n)
        taken += is_taken
        if wrong:
            failed += 1
            print("", f"python -m tests.crash asleep {n}", *wrong, sep="\n", flush=True)
    print(f"{taken} times taken over")
    return failed, taken
