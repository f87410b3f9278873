"""Tries every point at which a scenario can be interrupted, or some of them again.

python -m tests.crash training               # or send, model, sweep: records it, tries all points
python -m tests.crash FILE POINT ...         # these points of a recording
python -m tests.crash faults [FAULT ...]     # changes of files that fail
python -m tests.crash answers NAME [FAULT ...]  # requests of a scenario that fail
python -m tests.crash asleep [N ...]         # a machine that sleeps while another takes over
python -m tests.crash sweeps [N ...]         # a sweep that sleeps while another one runs
"""

import sys
import tempfile
import time
from pathlib import Path

from lenet.tracking.client import connect
from tests.crash import answers, asleep, faults, two_sweeps
from tests.crash.effects import library
from tests.crash.lab import Lab
from tests.crash.points import Settler
from tests.crash.scenarios import SCENARIOS, record
from tests.crash.trial import described, failures, load, named, plan, save
from tests.crash.typist import Typist


def main(what: str, *names: str) -> int:
    base = Path(tempfile.mkdtemp(prefix="lenet-crash-"))
    built, empty = library(base), base / "empty" / "mlflow.db"
    empty.parent.mkdir()
    connect(f"sqlite:///{empty}")
    start = time.monotonic()
    with Typist(built) as typist:
        lab = Lab.at(base / "lab", typist, built)
        if what == "faults":
            failed = faults.try_all(lab, empty, names, 1, 1)
        elif what == "answers":
            failed = answers.try_all(lab, empty, names[0], names[1:], 1, 1)
        elif what == "asleep":
            failed, _ = asleep.try_all(lab, empty, names, None, 1)
        elif what == "sweeps":
            failed, _ = two_sweeps.try_all(lab, empty, names, None, 1)
        else:
            failed = _points(what, names, lab, base, empty)
    print(f"{failed} failed; {time.monotonic() - start:.0f} s")
    return int(failed > 0)


def _points(what: str, names: tuple[str, ...], lab: Lab, base: Path, empty: Path) -> int:
    if what in SCENARIOS:
        recording = record(what, lab, empty)
        file = save(recording, base / "recording")
    else:
        file, recording = Path(what), load(Path(what))
        lab = Lab.at(recording.folder, lab.typist, lab.library)
    made = plan(recording, Settler(base / "settled"))
    chosen = named(made, names) if names else made.distinct
    print(f"{described(recording, made)}; {len(chosen)} tried", flush=True)
    return failures(lab, recording, chosen, file)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
