"""How long `python run.py` takes to its first optimizer step, and how much of it is imports."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUN = Path(__file__).resolve().parents[3] / "run.py"

# Runs a script as `python` would, tells the time after its first optimizer step and ends there.
# Torch is not imported for it: by the time lenet.training.loop is looked for, torch is there.
FIRST_STEP = """
import os, runpy, sys, time

def tell(*step):
    os.write(1, f"\\nreached {time.time()}".encode())
    os._exit(0)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "lenet.training.loop":
            sys.meta_path.remove(self)
            from torch.optim.optimizer import register_optimizer_step_post_hook
            register_optimizer_step_post_hook(tell)

sys.meta_path.insert(0, Finder())
del sys.argv[0]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
IMPORTS = """
import os, time, torch, mlflow
os.write(1, f"\\nreached {time.time()}".encode())
os._exit(0)
"""
STORE = "import sys; from lenet.tracking.store import connect; connect(sys.argv[1])"


class StartupError(RuntimeError):
    """run.py did not get to a first step: one line that says why."""


def startup(data: str, root: str, count: int = 3, script: Path = RUN) -> dict[str, list[float]]:
    """Seconds of `count` processes each, in turns, after one of each that is not counted.

    `data` is the set's name. Each run has a folder and an MLflow database of its own, gone after.

    Raises: StartupError where there is no run.py beside the package, or it ends without a step.
    """
    if not script.is_file():
        raise StartupError(f"expected {script.name} beside the package, found none")
    arguments = ["data=digits"] if data == "digits" else []
    found: dict[str, list[float]] = {"first_step": [], "imports": []}
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "mlflow.db")
        environment = {
            **os.environ,
            "LENET_DATA": os.path.abspath(os.path.expanduser(root)),
            "LENET_RUNS": str(Path(folder, "runs")),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "TMPDIR": folder,  # for what is meant to outlast a run, such as locks
            "PYTHONPATH": os.pathsep.join(
                [str(RUN.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
            ),
        }
        _child([STORE, f"sqlite:///{store}"], folder, environment)
        for number in range(count + 1):
            own = Path(folder, str(number))
            own.mkdir()
            shutil.copy(store, own)
            environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{own / store.name}"
            found["first_step"].append(
                _seconds([FIRST_STEP, str(script), *arguments], str(own), environment)
            )
            found["imports"].append(_seconds([IMPORTS], str(own), environment))
    return {name: seconds[1:] for name, seconds in found.items()}


def _seconds(code: list[str], folder: str, environment: dict[str, str]) -> float:
    start = time.time()
    _, reached, moment = _child(code, folder, environment).rpartition("\nreached ")
    if not reached:
        raise StartupError("run.py: expected an optimizer step, it ended without one")
    return float(moment) - start


def _child(code: list[str], folder: str, environment: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", *code], cwd=folder, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise StartupError(last)
    return done.stdout
