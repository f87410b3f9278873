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
from lenet.training.plots.style import caption, small_print
from lenet.training.progress import Epoch


def gallery(
    model: LeNet5, data: Data, history: Sequence[Epoch], score: Score, name: str, run_id: str
) -> Iterator[tuple[str, Figure]]:
    """A run's pictures by name, each made when the loop reaches it. The small print names the run,
    its data and its network.
    """
    about = small_print(f"run {run_id[:8]} ({name})", data, model)
    for picture, figure in _figures(model, data, history, score):
        hint = ""
        is_explained = type(model) is LeNet5 and model.conv1.in_channels == 1
        if picture == "mistakes" and is_explained:
            hint = (
                f"\nHow the network reads image N: python -m lenet explain {run_id[:8]} --image N"
            )
        yield picture, caption(figure, about + hint)


def _figures(
    model: LeNet5, data: Data, history: Sequence[Epoch], score: Score
) -> Iterator[tuple[str, Figure]]:
    test, classes = data.test, data.inputs.classes
    yield "curves", curves(history)
    yield "confusion_matrix", confusion_matrix(score, classes)
    yield "class_accuracy", class_accuracy(score, classes)
    first = data.train.images[:16].cpu(), data.train.labels[:16], classes
    yield "samples", samples(*first)
    if data.train.distort:
        yield "distortions", distortions(*first, data.train.distort)
    yield "mistakes", mistakes(test.images.cpu(), score, classes, num_samples=16)
    if hasattr(model, "conv1"):
        yield "filters", filters(model.conv1.weight)
    if hasattr(model, "stages"):
        with torch.no_grad():
            maps = model.eval().stages(next(iter(test))[0][:1])
        label = f"test image 0: {classes[test.labels[0]]}"
        yield "feature_maps", feature_maps(maps, test.images[0], label)
