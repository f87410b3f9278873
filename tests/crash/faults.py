"""Changes that fail: the disk is full for a moment or for good, or it breaks. Clocks that jump."""

import errno
import random
import re
import traceback
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from tests.crash.effects import Effect
from tests.crash.lab import Lab
from tests.crash.scenarios import TRAINING, Recording, go_on, problems, record

# What fails: one change, or all from then on until the process ends.
BROKEN = [(errno.EIO, 1), (errno.EIO, 10**9)]
FULL = [(errno.ENOSPC, 1), (errno.ENOSPC, 10**9)]
JUMPS = [(-1, -600), (-1, 600)]
FILES = ("artifacts: ", "checkpoints: ")
GROWING = ("create", "mkdir", "write", "fsync")


def faults(changes: Sequence[Effect], part: float, seed: int) -> list[str]:
    """Values of $CRASH_FAULT: each change fails in one of the ways, which `seed` chooses. Of each
    kind of change and file it is this part, at least one.
    """
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for change in changes:
        path = re.sub("[^/]*[0-9a-f]{8}[^/]*", "", change.to or change.path)
        found = re.search(r"journal\.jsonl|run\.json|artifacts/|checkpoints/|mlflow\.db|", path)
        place = found[0] if found and found[0] else "/"
        group = groups[change.kind, place]
        group.append(len(group) + 1)
    found = []
    for group, numbers in groups.items():
        chosen = random.Random(f"{seed} {group}")
        for n in sorted(chosen.sample(numbers, max(1, int(part * len(numbers))))):
            found.append(" ".join(map(str, [*group, n, *chosen.choice(_ways(group[0]))])))
    return found


def _ways(kind: str) -> list[tuple[int, int]]:
    return [*BROKEN, *JUMPS, *FULL] if kind in GROWING else [*BROKEN, *JUMPS]


def try_all(lab: Lab, empty_store: Path, chosen: Sequence[str], part: float, seed: int) -> int:
    """How many of the faults leave something else than a training that nobody disturbed, after what
    a user types then. They are `chosen`, or else this part of all.
    """
    recording = record("training", lab, empty_store)
    chosen = chosen or faults(recording.changes, part, seed)
    print(f"{len(recording.changes)} changes, {len(chosen)} faults tried", flush=True)
    return sum(_fails(lab, recording, fault) for fault in chosen)


def _fails(lab: Lab, recording: Recording, fault: str) -> bool:
    recording.start.write(lab.folder)
    command, story, after = [*TRAINING, "tracking.wait=1"], list[str](), list[str]()
    env = {"CRASH_ROOT": str(lab.folder), "CRASH_FAULT": fault}
    try:
        status, text = lab.tell(story, *command, env=env)
        go_on(lab, command, after)
        found = problems(lab, recording.expected, after)
        if "no checkpoint could be written" in text:
            found = [each for each in found if not each.startswith(FILES)]
        found += [f"exit status {status}"] if status not in (0, 1, 2) else []
        found += ["a traceback"] if "Traceback" in text else []
    except Exception:  # of reading what is there
        found = [traceback.format_exc()]
    if found:
        replay = f"python -m tests.crash faults '{fault}'"
        print("", replay, *found, *story, *after, sep="\n", flush=True)
    return bool(found)
