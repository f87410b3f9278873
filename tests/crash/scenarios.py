"""What is interrupted, what a user types then, and what must hold after that."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from tests.crash import effects
from tests.crash.disk import Disk
from tests.crash.effects import Effect
from tests.crash.lab import SMALL, Lab, Run, differences, doubled

PLAIN = ["tracking.pictures=false", "tracking.model=false"]
TRAINING = ["run.py", *SMALL, *PLAIN]
WITH_MODEL = ["run.py", *SMALL, "tracking.pictures=false", "tracking.register_as=digits"]
# The checkout may have changed since a recording, and the machine may be busy.
WARNING = re.compile(
    r"Warning: (?!not as where .* differ: git[^,]*(, git[^,]*)?$|.* yet \(.*no answer in time)"
)
SWEEP = ["run.py", "-m", *SMALL, *PLAIN, "optimizer.lr=0.01,0.05"]


@dataclass(frozen=True)
class Recording:
    """A scenario that nobody interrupted: how its folder began, the changes to it, its runs."""

    scenario: str
    folder: Path
    start: Disk
    changes: list[Effect]
    expected: list[Run]


@dataclass(frozen=True)
class Scenario:
    """`command` is interrupted, after `prepare` has made the folder ready for it. `recover` types
    what a user would, and adds it to the story.
    """

    command: list[str]
    recover: Callable[[Lab, list[str], list[str]], None]
    prepare: Callable[[Lab], None] = lambda lab: None


def record(name: str, lab: Lab, empty_store: Path) -> Recording:
    scenario = SCENARIOS[name]
    lab.begin(empty_store)
    scenario.prepare(lab)
    start = Disk.of(lab.folder)
    changes = lab.recorded(*scenario.command)
    return Recording(name, lab.folder, start, changes, lab.runs())


def go_on(lab: Lab, command: list[str], story: list[str]) -> None:
    """Resumes the run, or starts it again where nothing of it is there; sends what is left."""
    run_id = lab.unfinished()
    status, text = 2, "start it again"
    if run_id:
        status, text = lab.tell(story, "run.py", f"resume={run_id}")
    is_done = any(run["status"] == "FINISHED" for run in lab.runs())
    if status == 2 and "start it again" in text and not is_done:
        lab.tell(story, *command)
    send_rest(lab, command, story)


def send_rest(lab: Lab, command: list[str], story: list[str]) -> None:
    if any(lab.waiting.glob("*")):
        # An hour later, because what has no name yet is kept for as long.
        lab.tell(story, "-m", "lenet", "send", env={"CRASH_CLOCK": "7200"})


def send_again(lab: Lab, command: list[str], story: list[str]) -> None:
    """Where the folder is lost, the run can be resumed from what the store has."""
    send_rest(lab, command, story)
    if not any(run["status"] == "FINISHED" for run in lab.runs()):
        go_on(lab, TRAINING, story)


def type_again(lab: Lab, command: list[str], story: list[str]) -> None:
    """A sweep's command continues it."""
    lab.tell(story, *command)
    send_rest(lab, command, story)


def end_unsent(lab: Lab) -> None:
    """Leaves a folder with a whole training, of which the store has little."""
    disk = Disk.of(lab.folder)
    changes = lab.recorded(*TRAINING)
    last = max(
        n
        for n, change in enumerate(changes)
        if change.kind == "write" and change.path.endswith("journal.jsonl")
    )
    for change in changes[: last + 1]:
        disk = disk.after(change)
    disk.write(lab.folder)


SCENARIOS = {
    "training": Scenario(TRAINING, go_on),
    "model": Scenario(WITH_MODEL, go_on),
    "sweep": Scenario(SWEEP, type_again),
    "send": Scenario(["-m", "lenet", "send"], send_again, end_unsent),
}


def record_recovery(lab: Lab, recording: Recording, disk: Disk) -> Recording:
    """What a user's commands change after a crash that left this folder: they can crash, too."""
    scenario, log = SCENARIOS[recording.scenario], lab.folder.with_suffix(".log")
    log.unlink(missing_ok=True)
    disk.write(lab.folder)
    watched = replace(lab, env=lab.env | effects.watched(lab.library, lab.folder, log))
    scenario.recover(watched, scenario.command, [])
    return replace(recording, start=disk, changes=effects.read(log, lab.folder))


def _job(run: Run) -> str:
    """What the run is in its sweep; empty for the sweep itself, and for a run of its own."""
    return str(run["job"] or "")


def problems(lab: Lab, expected: list[Run], story: list[str]) -> list[str]:
    """What is not as after commands that nobody interrupted."""
    runs = lab.runs()
    done = sorted((run for run in runs if run["status"] == "FINISHED"), key=_job)
    expected = sorted(expected, key=_job)
    found = [f"{len(done)} finished runs, expected {len(expected)}"]
    if len(done) == len(expected):
        found = [each for pair in zip(done, expected, strict=True) for each in differences(*pair)]
    for run in runs:
        if run not in done and run["status"] != "KILLED":
            found.append(f"another run is {run['status']}")
    warnings = [line for text in story for line in text.splitlines() if WARNING.match(line)]
    return [*found, *doubled_and_left(lab, runs), *warnings]


def doubled_and_left(lab: Lab, runs: list[Run]) -> list[str]:
    """What is there twice, or should not be there any more."""
    found = [f"{point} twice" for run in runs for point in doubled(run)]
    folders = Counter(run["folder"] for run in runs if run["folder"])
    found += [f"{count} runs of folder {name}" for name, count in folders.items() if count > 1]
    left = [str(path.relative_to(lab.folder)) for path in lab.waiting.rglob("*")]
    return [*found, *(f"left over: {name}" for name in left)]
