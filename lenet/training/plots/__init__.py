"""Records of a run -> matplotlib Figures. Nothing is shown or saved here."""

from collections.abc import Iterator, Sequence

import torch
from matplotlib.figure import Figure

from lenet.data.sets import Data
from lenet.model.lenet5 import LeNet5
from lenet.training.evaluate import Score
from lenet.training.plots.images import distortions, mistakes, samples
from lenet.training.plots.network import feature_maps, filters
from lenet.training.plots.scores import class_accuracy, confusion_matrix, curves
from lenet.training.progress import Epoch


def gallery(
    model: LeNet5, data: Data, history: Sequence[Epoch], score: Score
) -> Iterator[tuple[str, Figure]]:
    """A run's pictures by name. Each is made when the loop reaches it."""
    test = data.test
    yield "curves", curves(history)
    yield "confusion_matrix", confusion_matrix(score, data.inputs.classes)
    yield "class_accuracy", class_accuracy(score, data.inputs.classes)
    first = data.train.images[:16].cpu(), data.train.labels[:16], data.inputs.classes
    yield "samples", samples(*first)
    if data.train.distort:
        yield "distortions", distortions(*first, data.train.distort)
    yield "mistakes", mistakes(test.images.cpu(), score, data.inputs.classes, num_samples=16)
    if hasattr(model, "conv1"):
        yield "filters", filters(model.conv1.weight)
    if hasattr(model, "stages"):
        with torch.no_grad():
            maps = model.eval().stages(next(iter(test))[0][:1])
        yield (
            "feature_maps",
            feature_maps(maps, test.images[0], data.inputs.classes[test.labels[0]]),
        )
