"""Scores a model on a set: sums, counts, and the figures computed from them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from lenet.training.device import device_of

Criterion = Callable[[Tensor, Tensor], Tensor]
CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Totals:
    """Sums over the examples of a set, and their means."""

    loss_sum: float
    correct: int
    count: int

    @property
    def loss(self) -> float:
        return self.loss_sum / self.count

    @property
    def accuracy(self) -> float:
        return self.correct / self.count


@dataclass(frozen=True)
class Score(Totals):
    """A model's answer for every example of a set, and the figures computed from the answers.

    Shapes: labels, predicted int64 (N); confidence float32 (N), the probability of `predicted`.
    """

    labels: Tensor
    predicted: Tensor
    confidence: Tensor
    num_classes: int

    @cached_property
    def confusion(self) -> Tensor:
        """Counts of each pair of truth (row) and prediction (column). Shapes: int64 (K, K)."""
        cells = self.labels * self.num_classes + self.predicted
        size = self.num_classes
        return torch.bincount(cells, minlength=size * size).reshape(size, size)

    @cached_property
    def class_accuracy(self) -> list[float | None]:
        """Accuracy of each class, None where the set has no example of it."""
        totals = self.confusion.sum(dim=1).tolist()
        hits = self.confusion.diagonal().tolist()
        return [hit / total if total else None for hit, total in zip(hits, totals, strict=True)]

    @cached_property
    def calibration_error(self) -> float:
        """Expected calibration error: |accuracy - confidence|, averaged over examples by bins.

        Source: Guo et al. 2017, "On calibration of modern neural networks", 15 equal bins.
        """
        bins = (self.confidence * CALIBRATION_BINS).long().clamp(0, CALIBRATION_BINS - 1)
        right = (self.predicted == self.labels).double()
        gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.float64)
        gaps.index_add_(0, bins, right - self.confidence.double())
        return float(gaps.abs().sum()) / self.count


@torch.no_grad()
def evaluate(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    criterion: Criterion,
) -> Score:
    """A model's score over all batches, in evaluation mode. The mode is then restored.

    `criterion` returns a batch's mean.

    Raises: ValueError where there is no batch, or a label is no class of the model.
    """
    device, was_training = device_of(model), model.training
    model.eval()
    loss_sum, num_classes = 0.0, 0
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    try:
        for inputs, labels in batches:
            inputs, labels = inputs.to(device), labels.to(device)
            logits = model(inputs)
            num_classes = logits.shape[1]
            # Before the criterion: on a GPU a wrong label breaks CUDA for the whole process.
            low, high = int(labels.min()), int(labels.max())
            if low < 0 or high >= num_classes:
                found = low if low < 0 else high
                raise ValueError(f"labels: expected 0 to {num_classes - 1}, found {found}")
            loss_sum += float(criterion(logits, labels)) * len(labels)
            confidence, predicted = logits.softmax(dim=1).max(dim=1)
            parts.append((labels.cpu(), predicted.cpu(), confidence.float().cpu()))
    finally:
        model.train(was_training)
    if not parts:
        raise ValueError("evaluate: expected at least one batch, got none")
    labels, predicted, confidence = (torch.cat(part) for part in zip(*parts, strict=True))
    correct = int((predicted == labels).sum())
    return Score(loss_sum, correct, len(labels), labels, predicted, confidence, num_classes)


def class_lines(accuracies: Iterable[float | None], classes: Iterable[str]) -> list[str]:
    """A line for each class, in the tutorial's words."""
    return [
        f"No samples for class {name}." if part is None else f"Accuracy of {name}: {part:.2%}"
        for name, part in zip(classes, accuracies, strict=True)
    ]


def score_lines(score: Score, classes: Iterable[str]) -> list[str]:
    """The result of a test, to print: accuracy, the hardest class, loss and calibration."""
    pairs = zip(score.class_accuracy, classes, strict=True)
    hardest, name = min((part, name) for part, name in pairs if part is not None)
    return [
        accuracy_line(score),
        f"Hardest class: {name}, {hardest:.2%}",
        f"Test loss {score.loss:.4f}, expected calibration error {score.calibration_error:.2%}",
    ]


def accuracy_line(score: Score) -> str:
    return f"Accuracy of the network on the {score.count} test images: {score.accuracy:.2%}"
