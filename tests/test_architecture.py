"""Who may import whom, and what a command may cost to start."""

import ast
import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "lenet"
# From the ground up: a room may use those before it, never one after it.
ROOMS = (
    *("cli", "native", "model", "optim", "data", "config", "training"),
    *("tracking", "tutorial", "report", "sweeps", "commands", "__main__"),
)
MODULES = {  # cli, data.sets, native.op ...
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
    if path != PACKAGE / "__init__.py"
}


def imports(path):
    """What a file imports, in functions and under TYPE_CHECKING too: `lenet.data.sets.load`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def importers(package):
    return {
        name
        for name, path in MODULES.items()
        if any(found == package or found.startswith(package + ".") for found in imports(path))
    }


def room_of(name):
    return name.split(".")[0]


def arrows():
    """Each module with the modules that it imports."""
    found = {}
    for name, path in MODULES.items():
        words = [i.removeprefix("lenet.") for i in imports(path) if i.startswith("lenet.")]
        modules = {max((m for m in MODULES if f"{w}.".startswith(f"{m}.")), key=len) for w in words}
        found[name] = modules - {name}
    return found


def test_no_room_uses_one_above_it():
    upwards = {
        f"{name} -> {other}"
        for name, others in arrows().items()
        for other in others
        if ROOMS.index(room_of(other)) > ROOMS.index(room_of(name))
    }
    assert not upwards


def test_no_modules_import_each_other_in_a_circle():
    waiting = arrows()
    while waiting:
        free = [name for name, others in waiting.items() if not others & waiting.keys()]
        assert free, f"a circle among {sorted(waiting)}"
        for name in free:
            del waiting[name]


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("mlflow", {"tracking"}),
        (
            "pandas",
            {
                "data.readers",
                "report",
                *(f"commands.{name}" for name in ("benchmark", "demo", "evaluate")),
            },
        ),
        ("scipy", {"report", "data.pictures"}),
        ("hydra", {"config", "sweeps"}),
        ("omegaconf", {"config", "sweeps"}),
        ("optuna", {"sweeps"}),
        ("cloudpickle", {"sweeps"}),
        ("torchvision", {"data.download"}),
        ("pickle", {"data.batch_pickles"}),
        ("fastapi", {"commands.demo"}),
        ("uvicorn", {"commands.demo"}),
        ("ray", {"sweeps.cluster_launchers"}),
        ("submitit", {"sweeps.cluster_launchers"}),
    ],
)
def test_a_library_is_imported_only_in_its_rooms(package, allowed):
    outside = {
        name
        for name in importers(package)
        if not any(name == place or name.startswith(f"{place}.") for place in allowed)
    }
    assert not outside


def test_only_modules_named_plots_import_matplotlib():
    outside = {n for n in importers("matplotlib") if "plots" not in n.split(".")}
    assert outside <= {"tutorial"}  # for the type that two of its functions return


def test_no_module_runs_a_pickle():
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert keywords.get("weights_only") == "True", name
            assert ast.unparse(node) not in ("pickle.load", "pickle.loads"), name


@pytest.mark.parametrize(
    ("statement", "banned"),
    [
        ("import lenet", {"torch", "mlflow", "numpy"}),
        ("import lenet.commands.predict", {"torchvision", "mlflow", "matplotlib", "sklearn"}),
        (
            "import lenet.training.loop, lenet.data.sets",
            {"torchvision", "mlflow", "matplotlib", "hydra", "sklearn"},
        ),
        ("import run", {"torch", "mlflow", "matplotlib", "numpy"}),
    ],
)
def test_an_import_brings_no_more_than_it_needs(statement, banned):
    code = f"{statement}; import sys, json; print(json.dumps(list(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not banned & set(json.loads(done.stdout))


def test_the_tree_names_no_machine_and_no_registry():
    words = ("pypi" + ".org", "/wo" + "rk/", "/ro" + "ot/", "../" + "shared")
    for path in [*ROOT.glob("*.*"), *(ROOT / "lenet").rglob("*.py"), *(ROOT / "conf").rglob("*")]:
        if path.is_file() and path.suffix in (".md", ".py", ".yaml", ".cfg", ".toml"):
            text = path.read_text()
            assert not [word for word in words if word in text], path
