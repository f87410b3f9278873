"""Scores are those of a slow loop, also for the sets on which means and `squeeze` go wrong."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lenet.data.batches import Batches
from lenet.training.evaluate import Score, evaluate, score_lines

MEAN = F.cross_entropy


class Echo(nn.Module):
    """Logits are the inputs; remembers the mode and the gradient mode it was called in."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append((self.training, torch.is_grad_enabled()))
        return x


def batches_of(logits, labels, size):
    return Batches(torch.as_tensor(logits), torch.as_tensor(labels), size)


def guesses(predicted, num_classes, sure=5.0):
    """Logits whose highest is at `predicted`."""
    return sure * F.one_hot(torch.tensor(predicted), num_classes).float()


def score_of(labels, predicted, confidence, num_classes, loss_sum=0.0):
    correct = int((labels == predicted).sum())
    return Score(loss_sum, correct, len(labels), labels, predicted, confidence, num_classes)


@st.composite
def scored_sets(draw):
    num_classes = draw(st.integers(2, 6))
    count = draw(st.integers(1, 30))
    random = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    logits = torch.randn(count, num_classes, generator=random) * draw(st.sampled_from([0.1, 3, 60]))
    labels = torch.randint(num_classes, (count,), generator=random)
    return logits, labels, draw(st.integers(1, count + 2))


def slow_calibration(confidences, hits):
    """Guo et al. 2017, eq. 3: sum over bins of |B|/n * |acc(B) - conf(B)|."""
    bins = [[] for _ in range(15)]
    for confidence, hit in zip(confidences, hits, strict=True):
        place = int(float(torch.tensor(confidence) * 15))
        bins[min(place, 14)].append((confidence, hit))
    total = 0.0
    for members in filter(None, bins):
        accuracy = sum(hit for _, hit in members) / len(members)
        confidence = sum(confidence for confidence, _ in members) / len(members)
        total += len(members) / len(hits) * abs(accuracy - confidence)
    return total


@settings(deadline=None, max_examples=30)
@given(scored=scored_sets())
def test_every_score_agrees_with_a_slow_loop(scored):
    logits, labels, size = scored
    score = evaluate(Echo(), batches_of(logits, labels, size), MEAN)
    count, num_classes = logits.shape
    predicted = [row.index(max(row)) for row in logits.tolist()]
    hits = [guess == label for guess, label in zip(predicted, labels.tolist(), strict=True)]

    assert score.num_classes == num_classes
    assert score.count == count
    assert score.correct == sum(hits)
    assert score.accuracy == sum(hits) / count
    loss_sum = float(MEAN(logits.double(), labels, reduction="sum"))
    assert score.loss_sum == pytest.approx(loss_sum, rel=1e-4, abs=1e-4)
    assert score.loss == score.loss_sum / count
    assert score.predicted.tolist() == predicted
    assert score.labels.tolist() == labels.tolist()

    confusion = [[0] * num_classes for _ in range(num_classes)]
    for label, guess in zip(labels.tolist(), predicted, strict=True):
        confusion[label][guess] += 1
    assert score.confusion.tolist() == confusion
    for k, accuracy in enumerate(score.class_accuracy):
        of_class = [hit for hit, label in zip(hits, labels.tolist(), strict=True) if label == k]
        assert accuracy == (sum(of_class) / len(of_class) if of_class else None)

    confidence = [float(row.softmax(0).max()) for row in logits]
    assert score.confidence.tolist() == pytest.approx(confidence, rel=1e-5)
    slow = slow_calibration(score.confidence.tolist(), hits)
    assert score.calibration_error == pytest.approx(slow, abs=1e-6)


def test_a_confidence_of_exactly_one_counts():
    """1.0 * 15 is a sixteenth bin unless it is taken into the last."""
    score = evaluate(Echo(), batches_of(guesses([0, 0, 1, 1], 2, 500.0), [0, 1, 1, 0], 4), MEAN)
    assert score.confidence.tolist() == [1.0] * 4
    assert score.calibration_error == 0.5


def test_a_diverged_models_calibration_is_nan_and_no_crash():
    score = evaluate(Echo(), batches_of(torch.full((3, 4), math.nan), [0, 1, 2], 2), MEAN)
    assert math.isnan(score.loss)
    assert math.isnan(score.calibration_error)
    assert 0 <= score.accuracy <= 1


@pytest.mark.parametrize("was_training", [True, False])
def test_the_model_is_evaluated_in_eval_mode_without_gradients_and_put_back(was_training):
    model = Echo().train(was_training)
    evaluate(model, batches_of(guesses([0, 1, 1], 2), [0, 1, 0], 2), MEAN)
    assert model.seen == [(False, False)] * 2
    with pytest.raises(ValueError, match="labels"):
        evaluate(model, batches_of(guesses([0], 2), [7], 1), MEAN)
    assert model.training is was_training
    assert torch.is_grad_enabled()


def test_no_batch_is_an_error():
    with pytest.raises(ValueError, match="expected at least one batch, got none"):
        evaluate(Echo(), [], MEAN)


@pytest.mark.parametrize("label", [-100, 3])
def test_a_label_that_is_no_class_of_the_model_is_named(label):
    """-100 is the one that cross entropy passes over in silence."""
    with pytest.raises(ValueError, match=rf"^labels: expected 0 to 2, found {label}$"):
        evaluate(Echo(), batches_of(guesses([0, 1, 2], 3), [0, label, 2], 2), MEAN)


def test_the_printed_lines_use_the_names_of_the_classes():
    labels, predicted = torch.tensor([0, 0, 2]), torch.tensor([0, 1, 2])
    score = score_of(labels, predicted, torch.tensor([0.9, 0.9, 0.9]), 3, loss_sum=1.5)
    assert score_lines(score, ["Sandal", "Bag", "Coat"]) == [
        "Accuracy of the network on the 3 test images: 66.67%",
        "Hardest class: Sandal, 50.00%",
        "Test loss 0.5000, expected calibration error 23.33%",
    ]
    with pytest.raises(ValueError, match="zip"):
        score_lines(score, ["Sandal", "Bag"])
