"""Who may import whom, and what a command may cost to start."""

import ast
import json
import subprocess
import sys

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "lenet"
MODULES = {  # data, native, native.op ...
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imports(path, lazy=True):
    """Top-level names of imported packages, and the lenet modules, of one file."""
    tree = ast.parse(path.read_text())
    found = set()
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {node.module} | (names if node.module == "lenet" else set())
    return found


def importers(package):
    return {
        name
        for name, path in MODULES.items()
        if any(found == package or found.startswith(package + ".") for found in imports(path))
    }


SWEEPING = {"plugins", "sweeper", "searcher", "local", "remote"}  # what Hydra calls for -m


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("mlflow", {"store", "sweep_store", "tracking", "registry"}),
        (
            "matplotlib",
            {"plots", "robustness_plots", "sweep_plots", "report", "report_page", "benchmark.plot"},
        ),
        (
            "pandas",
            {
                "published",
                "results",
                "verdict",
                "effects",
                "report",
                "report_page",
                "report_text",
                "sweep_plots",
            },
        ),
        ("scipy", {"verdict", "effects", "picture"}),
        ("hydra", {"config", "command", "bounds", "space", *SWEEPING}),
        ("omegaconf", {"config", "command", *SWEEPING}),
        ("optuna", {"search", "searcher", "space"}),
        ("cloudpickle", SWEEPING),
        ("torchvision", {"sources", "benchmark.steps"}),
        ("pickle", set()),
        ("fastapi", {"demo.server"}),
        ("uvicorn", {"demo.__main__"}),
        ("ray", {"remote"}),
        ("submitit", {"remote"}),
    ],
)
def test_a_library_has_its_few_importers(package, allowed):
    assert importers(package) <= allowed


def test_imports_within_the_package_have_no_cycle():
    arrows = {
        name: {f.removeprefix("lenet.") for f in imports(path, lazy=False)} & set(MODULES) - {name}
        for name, path in MODULES.items()
    }
    done: list[str] = []
    while len(done) < len(arrows):
        free = [n for n in arrows if n not in done and arrows[n] <= set(done)]
        assert free, f"a cycle among {sorted(set(arrows) - set(done))}"
        done += free


def test_training_knows_neither_configuration_nor_tracking():
    for name in ("data", "model", "layers", "train", "evaluate", "schedule", "device", "plots"):
        found = imports(MODULES[name])
        assert not found & {
            "lenet.config.check",
            "lenet.tracking.run",
            "hydra",
            "omegaconf",
            "mlflow",
        }, name


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
        ("import lenet.config.check", {"torch", "mlflow", "matplotlib"}),
        ("import lenet.config.hydra_errors", {"torch", "mlflow", "matplotlib", "numpy"}),
        ("import lenet.training.loop", {"torchvision", "mlflow", "matplotlib", "hydra", "sklearn"}),
        ("import lenet.data.sets", {"torchvision", "mlflow", "matplotlib", "hydra", "sklearn"}),
        (
            "import lenet.commands.predict",
            {"torchvision", "mlflow", "matplotlib", "hydra", "sklearn"},
        ),
        ("import run", {"torch", "mlflow", "matplotlib"}),
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
