"""What a user of run.py sees on the terminal and finds in MLflow."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lenet.model import equip
from lenet.model.lenet5 import LeNet5
from tests.conftest import LIMIT, ROOT, copy_store
from tests.support.lab import BASE, PLAIN, Lab

QUICK = [*BASE, *PLAIN, "epochs=1"]


@pytest.fixture(scope="module")
def lab(empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab(tmp_path_factory.mktemp("lab"))
    copy_store(empty_store, lab.folder)
    return lab


@pytest.fixture(scope="module")
def first(lab: Lab):
    """One whole run, looked at by several tests."""
    out, err = lab.run(
        *BASE,
        "epochs=3",
        "data.val_size=100",
        "log_interval=10",
        "schedule=cosine",
        "+tags.idea=wide",
        "note=a first look",
        "objective=val/loss",
        "tracking.picture_format=svg",
    )
    return lab.runs()[0], out, err


def test_a_run_says_what_it_does(first):
    run, out, err = first
    opening = out.partition("\nEpoch ")[0].splitlines()
    assert len(opening) <= 10
    assert "optimizer  SGD: lr 0.01, momentum 0.9" in opening
    assert "network    LeNet5, 61,706 parameters" in opening
    assert "digits: 1,337 training images, 100 validation images, 360 test images" in out
    assert out.count("\nEpoch ") == 3
    assert "Accuracy of the network on the 360 test images: " in out
    assert "\nHardest class: " in out
    page = f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?"
    assert f"  http://127.0.0.1:5000/{page}workflowType=machine_learning\n" in out
    assert out.endswith(f"\nLook closer: python -m lenet explain {run.info.run_id[:8]}\n")
    assert f" {equip(LeNet5()).name} kernels (" in out
    # Once on a machine; or, where it has no compiler, why there are none.
    first_use = ("Building the CPU kernels", "Eager PyTorch instead of the native kernels")
    assert [line for line in err.splitlines() if not line.startswith(first_use)] == []


def test_what_a_training_does_not_need_is_not_imported_before_it(lab):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "run.py"), *QUICK],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=lab.folder,
        env=lab.env,
        text=True,
        check=True,
    )
    opening = done.stdout.partition("\nEpoch ")[0]
    imported = set(re.findall(r"^import time:.*\| +(\S+)$", opening, re.MULTILINE))
    assert "torch" in imported
    late = {"mlflow", "sqlalchemy", "requests", "pandas", "scipy", "sklearn", "torchvision"}
    late |= {"torch._dynamo", "torch._inductor", "sympy", "matplotlib", "PIL", "psutil"}
    assert not imported & late


def test_params_are_what_the_result_can_depend_on(first):
    params = first[0].data.params
    assert {key: params[key] for key in ("optimizer.lr", "data.seed", "data.val_size")} == {
        "optimizer.lr": "0.01",
        "data.seed": "0",
        "data.val_size": "100",
    }
    options = {"data": "digits", "optimizer": "sgd", "schedule": "cosine", "model": "lenet5"}
    options |= {"model/activation": "tanh", "model/pooling": "avg"}
    assert {key: params[key] for key in options} == options
    assert len(params) <= 50
    without = ("note", "tags", "tracking", "checkpoint", "resume", "rerun", "objective", "hydra")
    assert [key for key in params if key.startswith(without) or "._" in key] == []
    assert "None" not in params.values()


def test_tags_tell_code_data_machine_and_what_the_user_said(first):
    tags = first[0].data.tags
    assert tags["idea"] == "wide"
    assert tags["mlflow.note.content"] == "a first look"
    assert tags["lenet.dataset"] == "digits"
    assert len(tags["lenet.dataset.sha256"]) == len(tags["lenet.dataset.val_sha256"]) == 64
    assert len(tags["lenet.config.sha256"]) == 64
    assert tags["lenet.model.parameters"] == "61706"
    chosen = equip(LeNet5())
    assert tags["lenet.kernels"] == chosen.name
    assert tags["lenet.kernels.why"] == chosen.why
    assert tags["lenet.host"]
    assert tags["mlflow.user"]
    assert tags["mlflow.source.name"].endswith("run.py")
    assert tags["mlflow.source.type"] == "LOCAL"
    assert len(tags["mlflow.source.git.commit"]) == 40


def test_every_metric_of_the_contract_is_there_and_they_agree(lab, first):
    run = first[0]
    metrics = run.data.metrics
    names = {f"test/class_accuracy/{k}" for k in range(10)} | {
        "train/loss",
        "train/accuracy",
        "val/loss",
        "val/accuracy",
        "train/loss_step",
        "learning_rate",
        "test/loss",
        "test/accuracy",
        "test/calibration_error",
        "best/val/accuracy",
        "best/val/loss",
        "seconds/epoch",
        "images_per_second",
        "seconds/logging",
        "seconds/training",
        "seconds/total",
        "seconds/checkpoints",
    }
    assert names == set(metrics)
    for name in ("train/loss", "val/accuracy", "learning_rate", "seconds/epoch"):
        history = lab.client.get_metric_history(run.info.run_id, name)
        assert [point.step for point in history] == [1, 2, 3], name
    steps = [p.step for p in lab.client.get_metric_history(run.info.run_id, "train/loss_step")]
    assert steps == [10, 20, 21, 30, 40, 42, 50, 60, 63]
    assert 0 < metrics["test/accuracy"] <= 1
    best = max(p.value for p in lab.client.get_metric_history(run.info.run_id, "val/accuracy"))
    assert metrics["best/val/accuracy"] == best
    assert metrics["seconds/logging"] < metrics["seconds/total"]


def test_a_finished_run_has_its_artifacts_and_its_data_set(lab, first):
    run = first[0]
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "data=digits threads=1 epochs=3 val_size=100 ..."
    pictures = "curves confusion_matrix class_accuracy samples mistakes filters feature_maps"
    wanted = {"config.yaml", "overrides.yaml", "environment.txt", "checkpoint.pt"}
    wanted |= {f"pictures/{name}.svg" for name in pictures.split()}
    assert wanted <= set(lab.artifacts(run))
    dataset = run.inputs.dataset_inputs[0].dataset
    assert dataset.name == "digits"


@pytest.mark.slow
def test_the_logged_model_takes_any_batch_and_gives_the_runs_accuracy(lab, first):
    code = """
import os, sys, json, torch, mlflow
from lenet.data.sets import load
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
mlflow.set_tracking_uri(sys.argv[2])
run = mlflow.get_run(sys.argv[1])
uri = f"models:/{run.outputs.model_outputs[0].model_id}"
model = mlflow.pytorch.load_model(uri)
facts = mlflow.models.get_model_info(uri).metadata
data = load("digits", "unused")
hits = (model(data.test.inputs).argmax(1) == data.test.labels).sum().item()
assert model(data.test.inputs[:1]).shape == (1, 10)
assert facts["classes"] == list("0123456789") and facts["mean"] == data.inputs.mean
print(hits / data.test.count)
"""
    run = first[0]
    done = subprocess.run(
        [sys.executable, "-c", code, run.info.run_id, lab.uri],
        capture_output=True,
        text=True,
        check=True,
        env=lab.env,
        cwd=lab.folder,
    )
    # mean and std are those of the training images the run saw, all 1,437 of them
    assert float(done.stdout) == pytest.approx(run.data.metrics["test/accuracy"], abs=1e-9)


@pytest.mark.slow
def test_a_mistake_found_when_the_network_is_built_leaves_no_run(lab):
    before = len(lab.runs())
    out, err = lab.run(*BASE, "model/activation=gelu", "device.kernels=native", status=2)
    assert out == ""
    assert err.startswith("error: device.kernels=native: ")
    assert err.count("\n") == 1
    assert len(lab.runs()) == before


def in_its_second_epoch(lab, *arguments):
    process = lab.start(*BASE, "epochs=5000", *arguments)
    for line in process.stdout:
        if line.startswith("Epoch "):
            break
    return process


@pytest.mark.slow
def test_divergence_ends_as_failed_with_the_reason(lab):
    _, err = lab.run(*BASE, "optimizer.lr=1e38", "log_interval=5", status=1)
    run = lab.runs()[-1]
    assert err.startswith("error: the training loss is ")
    assert err.count("\n") == 1
    assert run.info.status == "FAILED"
    assert "at optimizer step" in run.data.tags["lenet.error"]
    assert "error.txt" in lab.artifacts(run)


@pytest.mark.slow
def test_a_terminated_run_is_marked_killed_and_keeps_its_points_and_checkpoint(lab):
    process = in_its_second_epoch(lab, "log_interval=1")
    process.terminate()
    out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 143
    assert "Traceback" not in err
    run = lab.runs()[-1]
    assert out.endswith(f"\nTo continue: python run.py resume={run.info.run_id}\n")
    assert run.info.status == "KILLED"
    assert run.data.metrics["train/loss"] > 0
    assert "test/accuracy" not in run.data.metrics
    assert "checkpoint.pt" in lab.artifacts(run)


@pytest.mark.slow
def test_a_run_whose_output_pipe_closes_is_killed_without_a_message(lab):
    process = in_its_second_epoch(lab)
    process.stdout.close()  # as `run.py | head` does
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait(timeout=LIMIT) == 141
    run = lab.runs()[-1]
    assert run.info.status == "KILLED"
    assert "checkpoint.pt" in lab.artifacts(run)
    assert list((lab.folder / "waiting").iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_output_that_cannot_be_written_stops_no_run(lab):
    shell = 'exec "$@" <&- >/dev/full 2>&-'
    command = ["sh", "-c", shell, "sh", sys.executable, str(ROOT / "run.py"), *QUICK]
    env = lab.env | {"PYTHONIOENCODING": "ascii", "TERM": "dumb", "COLUMNS": "20"}
    before = len(lab.runs())
    assert subprocess.run(command, cwd=lab.folder, env=env).returncode == 0
    assert [run.info.status for run in lab.runs()[before:]] == ["FINISHED"]


@pytest.mark.slow
def test_the_next_start_marks_a_run_as_killed_whose_process_is_gone(lab):
    process = in_its_second_epoch(lab)
    process.kill()
    process.communicate()
    orphan = lab.runs()[-1]
    assert orphan.info.status == "RUNNING"
    lab.run(*QUICK)
    assert lab.client.get_run(orphan.info.run_id).info.status == "KILLED"


@pytest.mark.slow
def test_debug_overfit_learns_its_few_images_by_heart(lab):
    lab.run(*BASE, *PLAIN, "debug=overfit")
    run = lab.runs()[-1]
    assert lab.client.get_experiment(run.info.experiment_id).name == "debug"
    assert run.data.metrics["train/loss"] < 0.05
    assert run.data.metrics["train/accuracy"] == 1


@pytest.mark.slow
def test_debug_profile_logs_where_the_time_goes(lab):
    lab.run(*BASE, *PLAIN, "debug=profile")
    folder = Path(lab.client.download_artifacts(lab.runs()[-1].info.run_id, "profile"))
    table = (folder / "table.txt").read_text()
    assert "_FusedBackward" in table or "aten::convolution_backward" in table
    assert json.loads((folder / "trace.json").read_text())["traceEvents"]


@pytest.mark.slow
def test_ten_epochs_of_mnist_by_default(lab, mnist_root):
    """The tutorial's recipe: 98.89 % on average, sd 0.13 over 8 seeds."""
    code = """
import resource, subprocess, sys
status = subprocess.run([sys.executable, sys.argv[1]]).returncode
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, ROOT / "run.py"],
        cwd=lab.folder,
        env=lab.env | {"LENET_DATA": str(mnist_root)},
        capture_output=True,
        text=True,
        check=True,
    )
    out, run = done.stdout, lab.runs()[-1]
    assert "mnist: 60,000 training images, 10,000 test images" in out
    assert run.data.tags["lenet.dataset"] == "mnist"
    assert 0.984 < run.data.metrics["test/accuracy"] < 0.993
    # 1.21 GB were measured: torch, MLflow, the set as bytes, kept for later runs, and the batches.
    assert int(out.rpartition("peak ")[2]) * 1024 < 1.3e9
