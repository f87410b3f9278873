"""Tries points of a recording: the crash, the recovery, the comparison."""

import pickle
import random
import re
import traceback
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.effects import Effect
from tests.crash.lab import Lab
from tests.crash.points import Point, Settler, fingerprint, points
from tests.crash.scenarios import SCENARIOS, Recording, problems


@dataclass
class Plan:
    """The points of a recording. Those that leave the same folder are tried once."""

    count: int = 0
    by_kind: Counter[str] = field(default_factory=Counter)
    distinct: list[Point] = field(default_factory=list)
    groups: dict[str, list[Point]] = field(default_factory=lambda: defaultdict(list))

    def share(self, part: float, seed: int) -> list[Point]:
        """This part of each group, at least one point of it. How many points one group has says
        nothing about the choice in another: two recordings are never quite the same.
        """
        return [
            point
            for name, group in self.groups.items()
            for point in random.Random(f"{seed} {name}").sample(
                group, max(1, int(part * len(group)))
            )
        ]


def plan(recording: Recording, settler: Settler) -> Plan:
    made, known = Plan(), set()
    for point in points(recording.start, recording.changes):
        change = recording.changes[point.n - 1] if point.n else None
        made.count += 1
        disk = settler.settled(point.disk)
        if (key := fingerprint(disk)) in known:
            continue
        known.add(key)
        crash, point = point.crash, Point(point.n, point.crash, disk)
        made.distinct.append(point)
        made.groups[f"{crash.split()[0]} {_kind(change)}"].append(point)
    made.by_kind = Counter(change.kind for change in recording.changes)
    return made


def _kind(change: Effect | None) -> str:
    """The same for changes of one kind in one folder, but for renames: they make a file count."""
    if change is None:
        return "nothing"
    path = re.sub("(?<=mlruns/).*|[0-9a-f]{32}", "ID", change.to or change.path)
    return f"{change.kind} {path if change.to else Path(path).parent}"


def failures(lab: Lab, recording: Recording, chosen: Iterable[Point], file: Path) -> int:
    """How many of the points fail. Each of them is printed, with the command that replays it from
    the recording in `file`.
    """
    scenario, failed = SCENARIOS[recording.scenario], 0
    for point in chosen:
        point.disk.write(lab.folder)
        story: list[str] = []
        try:
            scenario.recover(lab, scenario.command, story)
            found = problems(lab, recording.expected, story)
        except Exception:  # of reading what is there
            found = [traceback.format_exc()]
        if found:
            failed += 1
            change = recording.changes[point.n - 1] if point.n else "nothing"
            replay = f"python -m tests.crash {file} '{point}'"
            print("", replay, f"after {change}", *found, *story, sep="\n", flush=True)
    return failed


def save(recording: Recording, path: Path) -> Path:
    path.write_bytes(pickle.dumps(recording))
    return path


def load(path: Path) -> Recording:
    recording = pickle.loads(path.read_bytes())
    assert isinstance(recording, Recording)
    return recording


def described(recording: Recording, made: Plan) -> str:
    kinds = ", ".join(f"{count} {kind}" for kind, count in made.by_kind.most_common())
    return (
        f"{recording.scenario}: {len(recording.changes)} changes ({kinds}), {made.count} points, "
        f"{len(made.distinct)} different folders"
    )


def named(made: Plan, names: Sequence[str]) -> list[Point]:
    found = [point for point in made.distinct if str(point) in names]
    assert len(found) == len(names), f"expected some of {[*map(str, made.distinct)]}"
    return found
