"""The tutorial's ten names do, in its order and with its arguments, what it promised."""

import inspect
import json
import os
import re
import subprocess
import sys

import pytest
import torch

import lenet
from tests.conftest import ROOT

NAMES = {
    "MNISTDataset": "(data_path, transform=None)",
    "get_data_loaders": "(data_dir='./data', batch_size=64, test_batch_size=1000)",
    "visualize_samples": "(loader, classes, num_samples=8)",
    "LeNet5": None,  # called with nothing; its arguments are this package's own
    "train_model": (
        "(model, train_loader, criterion, optimizer, device, num_epochs=10, log_interval=100)"
    ),
    "evaluate_model": "(model, test_loader, device)",
    "evaluate_per_class": "(model, test_loader, device, num_classes=10)",
    "save_model": "(model, path='lenet5.pth')",
    "load_model": "(model, path='lenet5.pth', device='cpu')",
    "plot_training_loss": "(loss_history, num_epochs)",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_the_tutorial_has_its_arguments(name):
    signature = inspect.signature(getattr(lenet, name))
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    if NAMES[name] is None:
        assert all(p.default is not p.empty for p in bare)
    else:
        assert str(inspect.Signature(bare)) == NAMES[name]


def test_the_names_and_no_others_are_exported():
    assert sorted(NAMES) == lenet.__all__
    assert set(dir(lenet)) >= set(NAMES)
    namespace = {}
    exec("from lenet import *", namespace)
    assert set(NAMES) <= set(namespace)


def test_a_name_is_the_object_of_its_module():
    from lenet.model.lenet5 import LeNet5

    assert lenet.LeNet5 is LeNet5


def test_an_unknown_name_is_an_attribute_and_an_import_error():
    with pytest.raises(AttributeError, match="module 'lenet' has no attribute 'LeNet6'"):
        _ = lenet.LeNet6
    with pytest.raises(ImportError, match="LeNet6"):
        exec("from lenet import LeNet6")
    assert not hasattr(lenet, "__wrapped__")


def run(code, folder, **environment):
    """A Python of its own, without a screen, with every warning an error."""
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND", "LENET_DATA")}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        cwd=folder,
        env=env,
        timeout=300,
    )


def test_importing_the_package_imports_neither_torch_nor_mlflow(tmp_path):
    done = run("import lenet, sys, json; print(json.dumps(list(sys.modules)))", tmp_path)
    modules = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert "lenet" in modules
    assert not modules & {"torch", "mlflow", "numpy", "matplotlib", "torchvision"}


def write_layout(root, train, test):
    """Images and labels as the tutorial wants them: data/{train,test}/MNIST/processed/*.pt."""
    for folder, name, content in (("train", "training.pt", train), ("test", "test.pt", test)):
        path = root / "data" / folder / "MNIST" / "processed"
        path.mkdir(parents=True)
        torch.save(content, path / name)


def drawn(count, classes=10):
    """Squares of `classes` sizes: a set that is learned in seconds."""
    labels = torch.arange(count) % classes
    images = torch.zeros(count, 28, 28, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[2 : 4 + 2 * label, 2 : 4 + 2 * label] = 255
    return images, labels


SCRIPT = """
import torch
from torch import nn, optim
from lenet import (
    LeNet5, evaluate_model, evaluate_per_class, get_data_loaders, load_model,
    plot_training_loss, save_model, train_model,
)

device = torch.device("cpu")
train, test = get_data_loaders(data_dir="./data", batch_size=64, test_batch_size=1000)
model = LeNet5().to(device)
criterion = nn.CrossEntropyLoss()
optimizer = optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
model, history = train_model(model, train, criterion, optimizer, device, EPOCHS, 100)
save_model(model, "lenet5.pth")
plot_training_loss(history, EPOCHS)
accuracy = evaluate_model(model, test, device)
evaluate_per_class(model, test, device)
again = load_model(LeNet5(), "lenet5.pth", device)
assert evaluate_model(again, test, device) == accuracy
assert len(history) == EPOCHS and all(type(loss) is float for loss in history)
"""


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_its_main_runs_without_a_screen_and_writes_the_weights_alone(tmp_path):
    images, labels = drawn(200)
    write_layout(tmp_path, (images, labels), (images[:95], labels[:95].where(labels[:95] != 9, 8)))
    before = files(tmp_path)
    done = run(SCRIPT.replace("EPOCHS", "2"), tmp_path)
    assert done.stderr == ""
    assert done.returncode == 0
    assert files(tmp_path) == sorted([*before, "lenet5.pth"])

    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[:4]] == [
        "Epoch 1/2",
        "Epoch 2/2",
        "Finished Training",
        "Model saved to lenet5.pth",
    ]
    figure = r"Accuracy of the network on the 95 test images: \d+\.\d\d%"
    assert re.fullmatch(figure, lines[4])
    assert all(re.fullmatch(rf"Accuracy of {k}: \d+\.\d\d%", lines[5 + k]) for k in range(9))
    assert lines[14:] == ["No samples for class 9.", "Model loaded from lenet5.pth", lines[4]]


def test_a_missing_file_is_named(tmp_path):
    """Only one of the two is there: the tutorial's was a bare traceback from torch."""
    write_layout(tmp_path, drawn(20), drawn(20))
    (tmp_path / "data" / "test" / "MNIST" / "processed" / "test.pt").unlink()
    done = run(SCRIPT.replace("EPOCHS", "1"), tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "DataError" in last
    assert "test.pt: no such file" in last
    assert "lenet5.pth" not in files(tmp_path)


@pytest.mark.slow
def test_an_epoch_of_its_main_on_mnist_passes_95_percent(mnist_root, tmp_path):
    from lenet.data.idx import read_idx

    parts = {}
    for part in ("train", "t10k"):
        stems = (f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz")
        images, labels = (read_idx(mnist_root / stem) for stem in stems)
        parts[part] = images, labels.long()
    write_layout(tmp_path, parts["train"], parts["t10k"])
    done = run(SCRIPT.replace("EPOCHS", "1"), tmp_path)
    assert done.stderr == ""
    percent = re.search(r"on the 10000 test images: (\d+\.\d\d)%", done.stdout)[1]
    assert 95 < float(percent) < 99
