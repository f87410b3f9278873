"""Cross entropy with weights of the classes, and the paper's losses, which torch does not have."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


def cross_entropy(
    weight: Literal["balanced"] | Sequence[float] | None = None,
    label_smoothing: float = 0.0,
    class_counts: Tensor | None = None,
) -> nn.CrossEntropyLoss:
    """torch's cross entropy. `balanced` weighs a class by the mean number of training images of a
    class, divided by its own; a list has a number for each class.

    Shapes: class_counts (K), the number of training images of each class.
    Raises: ValueError where weights lack the counts, or are not as many as there are classes.
    """
    if weight is None:
        return nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    if class_counts is None:
        raise ValueError("loss.weight: expected class_counts beside it, found none")
    counts = class_counts.float()
    if weight == "balanced":
        weights = counts.mean() / counts.clamp(min=1)
    elif len(weight) == len(counts):
        weights = counts.new_tensor(weight)
    else:
        raise ValueError(
            f"loss.weight: expected {len(counts)} numbers, one a class, found {len(weight)}"
        )
    return nn.CrossEntropyLoss(weights, label_smoothing=label_smoothing)


class MAP(nn.Module):
    """Maximum a posteriori: makes the right class's penalty small and the others' large.

    With penalties y = -scores, it is the mean over the batch of
    y_right + log(exp(-j) + sum of exp(-y)). The term exp(-j) stands for images of no class: it
    stops pushing up penalties that are already larger than j.

    Shapes: scores (N, K), labels (N) -> a number.
    Source: LeCun et al. 1998, equation 9.
    """

    def __init__(self, j: float = 1.0) -> None:
        super().__init__()
        self.j = j

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        rubbish = scores.new_full((len(scores), 1), -self.j)
        total = torch.logsumexp(torch.cat([scores, rubbish], dim=1), dim=1)
        loss: Tensor = (total - scores.gather(1, labels[:, None])[:, 0]).mean()
        return loss


class MSE(nn.Module):
    """Squared distance to the target: the sum over the outputs, the mean over the batch.

    A linear output's target is +1 for the right class and -1 for the others. An RBF output's target
    is the right class's bitmap, and its scores are minus the squared distances.

    Shapes: scores (N, K), labels (N) -> a number.
    Source: LeCun et al. 1998, equation 8.
    """

    def __init__(self, output: Literal["linear", "rbf"] = "linear") -> None:
        super().__init__()
        self.output = output

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        if self.output == "rbf":
            return -scores.gather(1, labels[:, None]).mean()
        targets = torch.full_like(scores, -1.0).scatter(1, labels[:, None], 1.0)
        return (scores - targets).square().sum(dim=1).mean()
