"""The ten names that the tutorial's main.py uses, each a few lines over the rest of this lab."""

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from lenet.data.image_files import checked, read_pt
from lenet.data.images import MNIST_MEAN, MNIST_STD
from lenet.data.sets import load, load_files
from lenet.data.tensor_files import save
from lenet.model import LeNet5 as LeNet5  # one of the ten
from lenet.training.checkpoints import load_weights
from lenet.training.epoch import Loader
from lenet.training.evaluate import accuracy_line, class_lines, evaluate
from lenet.training.loop import epoch_line, fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Batches = Iterable[tuple[Tensor, Tensor]]


class MNISTDataset(Dataset[tuple[Any, int]]):
    """The examples of one `.pt` file of images and labels. `transform` gets a PIL image.

    Raises: DataError where the file is missing, damaged, or holds anything else.
    """

    def __init__(
        self, data_path: str | Path, transform: Callable[[Any], Any] | None = None
    ) -> None:
        self.data, self.targets = checked(*read_pt(Path(data_path)), str(data_path))
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, idx: int) -> tuple[Any, int]:
        from PIL import Image

        image = Image.fromarray(self.data[idx].numpy())
        return self.transform(image) if self.transform else image, int(self.targets[idx])


class _InMemory(TensorDataset):
    """Gives a DataLoader a whole batch in one call, where others give example by example."""

    def __getitems__(self, indices: list[int]) -> tuple[Tensor, ...]:
        return tuple(tensor[indices] for tensor in self.tensors)


def get_data_loaders(
    data_dir: str | Path = "./data", batch_size: int = 64, test_batch_size: int = 1000
) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Loaders of MNIST's training and test images at 32x32, normalised; the first one shuffles.

    The tutorial's `.pt` files are used where they exist. Otherwise MNIST is read from another
    layout, or downloaded.

    Raises: DataError where there is none, or a file is damaged.
    """
    folders = (("train", "training.pt"), ("test", "test.pt"))
    files = [Path(data_dir, part, "MNIST", "processed", name) for part, name in folders]
    if any(file.is_file() for file in files):
        train, test = ([str(file)] for file in files)
        data = load_files("mnist", train, test, mean=MNIST_MEAN, std=MNIST_STD)
    else:
        data = load("mnist", str(data_dir), mean=MNIST_MEAN, std=MNIST_STD)
    sets = [_InMemory(part.inputs, part.labels) for part in (data.train, data.test)]
    return (
        DataLoader(sets[0], batch_size, shuffle=True, collate_fn=lambda batch: batch),
        DataLoader(sets[1], test_batch_size, collate_fn=lambda batch: batch),
    )


def visualize_samples(loader: Batches, classes: Sequence[str], num_samples: int = 8) -> "Figure":
    """Draws the first images of the first batch in a row, and prints their true classes."""
    from lenet.training.plots.images import samples

    images, labels = (part[:num_samples] for part in next(iter(loader)))
    print("GroundTruth:", " ".join(str(classes[label]) for label in labels.tolist()))
    return samples(images, labels, classes, num_samples, columns=num_samples)


def train_model(
    model: nn.Module,
    train_loader: Loader,
    criterion: Callable[[Tensor, Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    device: torch.device | str,
    num_epochs: int = 10,
    log_interval: int = 100,
) -> tuple[nn.Module, list[float]]:
    """The trained model, and the mean loss of each epoch's examples. Prints a line an epoch."""
    model.to(device)
    history, bar = [], sys.stderr.isatty()
    parts = model, train_loader, criterion, optimizer
    for epoch in fit(*parts, epochs=num_epochs, log_interval=log_interval, progress=bar):
        history.append(epoch.loss)
        print(epoch_line(epoch, num_epochs))
    print("Finished Training")
    return model, history


def evaluate_model(model: nn.Module, test_loader: Batches, device: torch.device | str) -> float:
    """Prints and returns the accuracy in percent."""
    score = evaluate(model.to(device), test_loader, nn.functional.cross_entropy)
    print(accuracy_line(score))
    return 100 * score.correct / score.count


def evaluate_per_class(
    model: nn.Module, test_loader: Batches, device: torch.device | str, num_classes: int = 10
) -> list[float | None]:
    """Prints a line for each class and returns the accuracies in percent, None for an empty class.

    Raises: ValueError where a label is not below `num_classes`, or is no class of the model.
    """
    score = evaluate(model.to(device), test_loader, nn.functional.cross_entropy)
    if (highest := int(score.labels.max())) >= num_classes:
        raise ValueError(f"num_classes: expected more than the label {highest}, got {num_classes}")
    missing: list[float | None] = [None] * (num_classes - score.num_classes)
    accuracies = (score.class_accuracy + missing)[:num_classes]
    print("\n".join(class_lines(accuracies, map(str, range(num_classes)))))
    return [None if accuracy is None else 100 * accuracy for accuracy in accuracies]


def save_model(model: nn.Module, path: str | Path = "lenet5.pth") -> None:
    """Saves the model's state_dict and prints where."""
    save(model.state_dict(), path)
    print(f"Model saved to {path}")


def load_model(
    model: nn.Module, path: str | Path = "lenet5.pth", device: torch.device | str = "cpu"
) -> nn.Module:
    """Fills the model from a file of weights, moves it to the device and returns it.

    Raises: CheckpointError where the file holds no weights of this network; the model is then as
    it was.
    """
    load_weights(model, path)
    print(f"Model loaded from {path}")
    return model.to(device)


def plot_training_loss(loss_history: Sequence[float], num_epochs: int) -> "Figure":
    """A plot of the mean loss of each epoch.

    Raises: ValueError where there isn't one loss an epoch.
    """
    from lenet.training.plots.scores import training_loss

    if (count := len(loss_history)) != num_epochs:
        raise ValueError(f"loss_history: expected {num_epochs} values, one an epoch, got {count}")
    return training_loss(loss_history)
