"""Several networks that answer as one, by the mean of their probabilities."""

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from lenet.cli.screen import aligned
from lenet.data.batches import Batches
from lenet.data.errors import DataError
from lenet.data.inputs import Inputs
from lenet.model import equip
from lenet.tracking.family import read_family
from lenet.tracking.names import SWEEP_KIND_TAG, TrackingError
from lenet.tracking.read import Summary, read_run
from lenet.tracking.trained import load_trained
from lenet.training.evaluate import Score, evaluate


class Ensemble(nn.Module):
    """The logarithm of the mean of several networks' probabilities, which are its own logits.

    Shapes: (N, C, H, W) -> (N, K).
    Source: Lakshminarayanan, Pritzel, Blundell 2017, "Simple and scalable predictive uncertainty
    estimation using deep ensembles", section 2.4.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        logs = torch.stack([member(x).log_softmax(dim=1) for member in self.members])
        return logs.logsumexp(dim=0) - math.log(len(self.members))


def runs_of(run_ids: Sequence[str], uri: str | None = None) -> list[Summary]:
    """These runs; in place of a sweep its finished runs. Raises: TrackingError."""
    found: list[Summary] = []
    for run_id in run_ids:
        run = read_run(run_id, uri)
        if SWEEP_KIND_TAG not in run.tags:
            found.append(run)
            continue
        done = [each for each in read_family(run_id, uri)[1] if each.status == "FINISHED"]
        if not done:
            raise TrackingError(f"{run_id}: the sweep has no finished run")
        found += done
    return found


def load_networks(
    runs: Sequence[Summary], uri: str | None = None
) -> tuple[list[nn.Module], Inputs]:
    """The runs' networks, and what all of them read.

    Raises: DataError where they read different images; and as `load_trained`.
    """
    models, inputs = [], []
    for run in runs:
        model, read = load_trained(run.run_id, uri)
        equip(model)
        models.append(model)
        inputs.append(read)
        if read != inputs[0]:
            raise DataError(
                f"{run.run_id}: expected a network that reads the same images as {runs[0].run_id}, "
                "with the same classes, mean and deviation"
            )
    return models, inputs[0]


def member_lines(runs: Sequence[Summary], ensemble: Ensemble, batches: Batches) -> list[str]:
    """The score of each network, of their mean, and how often two of them differ."""
    scores = [evaluate(each, batches, nn.functional.cross_entropy) for each in ensemble.members]
    whole = evaluate(ensemble, batches, nn.functional.cross_entropy)
    rows = [("network", "accuracy", "calibration error", "loss")]
    names = [f"{run.run_id[:8]} {run.name}" for run in runs]
    for name, score in zip([*names, "all of them"], [*scores, whole], strict=True):
        accuracy, gap = f"{score.accuracy:.2%}", f"{score.calibration_error:.2%}"
        rows.append((name, accuracy, gap, f"{score.loss:.4f}"))
    return [
        *aligned(rows, right=(1, 2, 3)),
        f"Two of the networks give different answers to {disagreement(scores):.2%} of the images.",
    ]


def disagreement(scores: Sequence[Score]) -> float:
    """The part of the images to which two networks give different answers: the mean over pairs."""
    parts = [
        float((one.predicted != other.predicted).double().mean())
        for one, other in combinations(scores, 2)
    ]
    return sum(parts) / len(parts)
