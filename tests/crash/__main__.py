"""Tries every point at which a scenario can be interrupted, or replays some of a recording.

`python -m tests.crash training` records it and tries all points;
`python -m tests.crash FILE POINT ...` replays these points of a recording.
"""

import sys
import tempfile
import time
from pathlib import Path

from lenet.tracking.client import connect
from tests.crash.effects import library
from tests.crash.lab import Lab
from tests.crash.points import Settler
from tests.crash.scenarios import SCENARIOS, record
from tests.crash.trial import described, failures, load, named, plan, save
from tests.crash.typist import Typist


def main(what: str, *names: str) -> int:
    base = Path(tempfile.mkdtemp(prefix="lenet-crash-"))
    built = library(base)
    with Typist(built) as typist:
        if what in SCENARIOS:
            (base / "empty").mkdir()
            connect(f"sqlite:///{base}/empty/mlflow.db")
            lab = Lab.at(base / "lab", typist, built)
            recording = record(what, lab, base / "empty" / "mlflow.db")
            file = save(recording, base / "recording")
        else:
            file, recording = Path(what), load(Path(what))
            lab = Lab.at(recording.folder, typist, built)
        made = plan(recording, Settler(base / "settled"))
        print(described(recording, made), flush=True)
        chosen = named(made, names) if names else made.distinct
        start = time.monotonic()
        failed = failures(lab, recording, chosen, file)
        print(f"{len(chosen)} points tried in {time.monotonic() - start:.0f} s, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
