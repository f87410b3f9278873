"""The tutorial's ten names keep its promises, in its order and with its arguments."""

import inspect
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

import lenet
from lenet import (
    LeNet5,
    MNISTDataset,
    evaluate_model,
    evaluate_per_class,
    get_data_loaders,
    load_model,
    plot_training_loss,
    save_model,
    train_model,
    visualize_samples,
)
from lenet.data.errors import DataError
from tests.conftest import LIMIT, ROOT

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


def test_the_names_are_exported_beside_those_for_a_notebook():
    from lenet.model.lenet5 import LeNet5

    assert lenet.LeNet5 is LeNet5
    for_a_notebook = {"run", "sweep", "load_run", "load_sweep"}
    assert for_a_notebook | NAMES.keys() == set(lenet.__all__) == set(dir(lenet))
    with pytest.raises(AttributeError, match="module 'lenet' has no attribute 'LeNet6'"):
        _ = lenet.LeNet6


# ---- Data ------------------------------------------------------------------------------------


def squares(count):
    """Images and labels of ten sizes of squares: a set that is learned in seconds."""
    labels = torch.arange(count) % 10
    images = torch.zeros(count, 28, 28, dtype=torch.uint8)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[2 : 4 + 2 * label, 2 : 4 + 2 * label] = 255 - label
    return images, labels


def write_layout(root, train, test):
    """The tutorial's files: data/{train,test}/MNIST/processed/*.pt."""
    for folder, name, content in (("train", "training.pt", train), ("test", "test.pt", test)):
        path = root / "data" / folder / "MNIST" / "processed"
        path.mkdir(parents=True)
        torch.save(content, path / name)
    return root / "data"


def test_mnist_dataset_gives_pil_images_to_its_transform_and_int_labels(tmp_path):
    images, labels = squares(12)
    torch.save((images, labels), tmp_path / "training.pt")
    bare = MNISTDataset(str(tmp_path / "training.pt"))
    image, label = bare[3]
    assert isinstance(image, Image.Image)
    assert np.array_equal(np.asarray(image), images[3].numpy())
    assert (len(bare), label, type(label)) == (12, 3, int)
    loader = DataLoader(MNISTDataset(tmp_path / "training.pt", transforms.ToTensor()), batch_size=5)
    read = [torch.cat(parts) for parts in zip(*loader, strict=True)]
    assert read[0].equal(images[:, None].float() / 255)
    assert read[1].equal(labels)


def test_loaders_give_what_the_tutorials_give(tmp_path):
    """Each image padded, divided by 255 and normalised, as its chain of transforms does."""
    train, test = squares(150), squares(23)
    loaders = get_data_loaders(write_layout(tmp_path, train, test), test_batch_size=10)
    assert [loader.batch_size for loader in loaders] == [64, 10]
    assert [[len(labels) for _, labels in each] for each in loaders] == [[64, 64, 22], [10, 10, 3]]
    chain = transforms.Compose(
        [transforms.Pad(2), transforms.ToTensor(), transforms.Normalize((0.1307,), (0.3081,))]
    )
    expected = torch.stack([chain(Image.fromarray(image.numpy())) for image in test[0]])
    images, labels = (torch.cat(parts) for parts in zip(*loaders[1], strict=True))
    assert images.equal(expected)
    assert labels.equal(test[1])
    orders = [torch.cat([labels for _, labels in loaders[0]]).tolist() for _ in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(train[1].tolist())
    assert len({tuple(order) for order in [*orders, train[1].tolist()]}) == 3


def test_loaders_name_a_file_that_is_missing_or_damaged(tmp_path):
    path = write_layout(tmp_path, squares(20), squares(20)) / "test/MNIST/processed/test.pt"
    path.write_bytes(path.read_bytes()[:-100])
    for _ in range(2):
        with pytest.raises(DataError, match=re.escape(f"{path}: ")):
            get_data_loaders(tmp_path / "data")
        path.unlink(missing_ok=True)


# ---- Pictures --------------------------------------------------------------------------------


def test_ground_truth_is_the_images_classes_not_the_first_classes(capsys):
    def loader():
        yield torch.rand(20, 1, 32, 32), torch.tensor([7, 2, 1, *[0] * 17])
        raise AssertionError("a second batch was asked for")

    figure = visualize_samples(loader(), [f"class {k}" for k in range(10)], num_samples=3)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert list(filter(None, texts)) == ["class 7", "class 2", "class 1"]
    assert capsys.readouterr().out == "GroundTruth: class 7 class 2 class 1\n"


def test_the_training_loss_keeps_the_tutorials_title_and_counts_epochs_from_one():
    axes = plot_training_loss([0.3, 0.2, 0.1], 3).axes[0]
    assert axes.get_title() == "Training Loss over Epochs"
    assert axes.lines[0].get_xydata().tolist() == [[1, 0.3], [2, 0.2], [3, 0.1]]
    with pytest.raises(ValueError, match="expected 10 values, one an epoch, got 3"):
        plot_training_loss([0.3, 0.2, 0.1], 10)


# ---- Training and evaluation -----------------------------------------------------------------


def test_train_model_prints_a_line_an_epoch_and_gives_the_mean_losses(capsys):
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    inputs, labels = torch.randn(10, 2), torch.arange(10) % 2
    batches = list(zip(inputs.split(4), labels.split(4), strict=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    args = model, batches, nn.CrossEntropyLoss(), optimizer, torch.device("cpu")
    trained, history = train_model(*args)
    assert trained is model
    loss = nn.functional.cross_entropy(model(inputs), labels).item()
    assert history == [pytest.approx(loss, rel=1e-6)] * 10
    out, err = capsys.readouterr()
    lines = [line.split("  ")[0] for line in out.replace("Epoch  ", "Epoch ").splitlines()]
    assert lines == [*(f"Epoch {k}/10" for k in range(1, 11)), "Finished Training"]
    assert err == "", "a bar is for terminals"


def guesses(predicted, labels, num_classes, size):
    """Batches of inputs that an nn.Identity gives back as its outputs."""
    logits = nn.functional.one_hot(torch.tensor(predicted), num_classes).float()
    return list(zip(logits.split(size), torch.tensor(labels).split(size), strict=True))


@pytest.mark.parametrize("size", [1, 4, 100])
def test_accuracies_are_printed_and_returned_in_percent(size, capsys):
    """100 * (29 / 100) is 28.999999999999996; a batch of one broke the tutorial's `squeeze`."""
    batches = guesses([0] * 100, [0] * 29 + [1] * 71, 2, size)
    assert evaluate_model(nn.Identity(), batches, "cpu") == 29.0
    assert evaluate_per_class(nn.Identity(), batches, "cpu", 2) == [100.0, 0.0]
    assert capsys.readouterr().out.splitlines() == [
        "Accuracy of the network on the 100 test images: 29.00%",
        "Accuracy of 0: 100.00%",
        "Accuracy of 1: 0.00%",
    ]


def test_a_class_without_samples_is_named_and_returned_as_none(capsys):
    batches = guesses([0, 2], [0, 2], 3, 2)
    assert evaluate_per_class(nn.Identity(), batches, "cpu", 4) == [100.0, None, 100.0, None]
    lines = capsys.readouterr().out.splitlines()
    assert lines[1::2] == ["No samples for class 1.", "No samples for class 3."]
    with pytest.raises(ValueError, match=r"more than the label 2, got 2$"):
        evaluate_per_class(nn.Identity(), batches, "cpu", 2)


def test_a_saved_model_is_loaded_with_the_same_bits(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    model, other = LeNet5(), LeNet5()
    save_model(model)
    assert load_model(other, device=torch.device("cpu")) is other
    assert all(p.equal(q) for p, q in zip(model.parameters(), other.parameters(), strict=True))
    assert capsys.readouterr().out == "Model saved to lenet5.pth\nModel loaded from lenet5.pth\n"
    assert os.listdir() == ["lenet5.pth"]


# ---- Its main.py -----------------------------------------------------------------------------

MAIN = """
import sys
import torch
from torch import nn, optim
from lenet import (
    LeNet5, evaluate_model, evaluate_per_class, get_data_loaders, load_model,
    plot_training_loss, save_model, train_model,
)

EPOCHS = int(sys.argv[1])
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
assert "matplotlib.pyplot" not in sys.modules
"""


def run_main(folder, epochs):
    """Runs it in a new Python process without a screen, where every warning is an error."""
    env = {k: v for k, v in os.environ.items() if k not in ("DISPLAY", "MPLBACKEND", "LENET_DATA")}
    env |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", "-c", MAIN, str(epochs)]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=folder, env=env, timeout=LIMIT, check=False
    )
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


@pytest.mark.slow
def test_its_main_runs_without_a_screen_and_writes_the_weights_alone(tmp_path):
    write_layout(tmp_path, squares(200), squares(95))
    lines = run_main(tmp_path, epochs=2).splitlines()
    assert [line.split("  ")[0] for line in lines[:4]] == [
        "Epoch 1/2",
        "Epoch 2/2",
        "Finished Training",
        "Model saved to lenet5.pth",
    ]
    assert re.fullmatch(r"Accuracy of the network on the 95 test images: \d+\.\d\d%", lines[4])
    assert all(re.fullmatch(rf"Accuracy of {k}: \d+\.\d\d%", lines[5 + k]) for k in range(10))
    assert lines[15:] == ["Model loaded from lenet5.pth", lines[4]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "lenet5.pth"]


@pytest.mark.slow
def test_an_epoch_of_its_main_on_mnist_passes_95_percent(mnist_root, tmp_path):
    (tmp_path / "data").symlink_to(mnist_root)
    out = run_main(tmp_path, epochs=1)
    percent = float(re.search(r"on the 10000 test images: (\d+\.\d\d)%", out)[1])
    assert 95 < percent < 99
