"""Changes that fail: the disk is full for a moment or for good, or it breaks."""

import errno
import random
import re
import traceback
from collections import defaultdict
from collections.abc import Iterable, Sequence

from tests.crash.disk import Disk
from tests.crash.effects import Effect
from tests.crash.lab import Lab, Run
from tests.crash.scenarios import go_on, problems

# What fails: one change, or all from then on until the process ends.
BROKEN = [(errno.EIO, 1), (errno.EIO, 10**9)]
FULL = [(errno.ENOSPC, 1), (errno.ENOSPC, 10**9)]
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
    chosen = random.Random(seed)
    return [
        " ".join(map(str, [*group, n, *chosen.choice(_ways(group[0]))]))
        for group, numbers in groups.items()
        for n in sorted(chosen.sample(numbers, max(1, int(part * len(numbers)))))
    ]


def _ways(kind: str) -> list[tuple[int, int]]:
    return [*BROKEN, *FULL] if kind in GROWING else BROKEN


def failures(
    lab: Lab, start: Disk, command: list[str], expected: list[Run], chosen: Iterable[str]
) -> int:
    """How many of the faults leave something else than a training that nobody disturbed, after what
    a user types then.
    """
    failed = 0
    for fault in chosen:
        start.write(lab.folder)
        story: list[str] = []
        env = {"CRASH_ROOT": str(lab.folder), "CRASH_FAULT": fault}
        try:
            status, text = lab.tell(story, *command, "tracking.wait=1", env=env)
            after: list[str] = []
            go_on(lab, [*command, "tracking.wait=1"], after)
            story += after
            found = problems(lab, expected, after)
            if "no checkpoint could be written" in text:
                found = [each for each in found if not each.startswith(FILES)]
            found += [f"exit status {status}"] if status not in (0, 1, 2) else []
            found += ["a traceback"] if "Traceback" in text else []
        except Exception:  # of reading what is there
            found = [traceback.format_exc()]
        if found:
            failed += 1
            print("", f"CRASH_FAULT='{fault}'", *found, *story, sep="\n", flush=True)
    return failed
