"""The paper's criteria, which torch lacks."""

from typing import Literal

import torch
from torch import Tensor, nn


class MAP(nn.Module):
    """Maximum a posteriori: the right class's penalty small, and all others' large.

    With penalties y = -scores: mean over the batch of y_right + log(exp(-j) + sum of exp(-y)). The
    term exp(-j) is a class of its own for what is none of the others: penalties that are larger
    than j already are not pushed up any further.

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

    def extra_repr(self) -> str:
        return f"j={self.j}"


class MSE(nn.Module):
    """Squared distance to the target, summed over the outputs, mean over the batch.

    A linear output's target is +1 for the right class and -1 for the others. RBF scores are minus
    squared distances already, and the target is the right class's bitmap.

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

    def extra_repr(self) -> str:
        return f"output={self.output}"
