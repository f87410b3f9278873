"""The rates that LeNet-5 of 1998 starts with, and how far a step goes before and after one pass.

python docs/paper_1998_rates.py
"""

import os
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, jacrev

from lenet.data import load
from lenet.model import equip
from lenet.model.layers import ScaledTanh, Subsample
from lenet.model.lenet5 import LeNet5
from lenet.model.losses import MAP
from lenet.optim.sdlm import SDLM
from lenet.training.loop import fit
from lenet.training.rng import seed_all

PAPER_INPUT = {"mean": 0.0784313725, "std": 0.7843137255}
# initialisation, distance_scale, j, output_curvature, memory
RECIPES: dict[str, tuple[Any, ...]] = {
    "printed, first values within 2.4/F": ("lecun1998", 1.0, 1.0, "exact", 0.0),
    "printed, first values within 1/sqrt(F)": ("released", 1.0, 1.0, "exact", 0.0),
    "h = 1": ("released", 0.5, 10.0, 1.0, 0.0),
    "h = 1, measured once": ("released", 0.5, 10.0, 1.0, 1.0),
    "experiment=lecun1998_as_printed": ("released", 0.5, 10.0, 3.0, 0.0),
}


def rates(optimizer: SDLM) -> list[Tensor]:
    """lr / (mu + h) of each parameter."""
    (group,) = optimizer.param_groups
    return [group["lr"] / (group["mu"] + optimizer.state[p]["curvature"]) for p in group["params"]]


def gain(model: LeNet5, optimizer: SDLM, image: Tensor) -> float:
    """How far a step by the distance to the right bitmap moves F6 towards it: 1 is all the way,
    above 2 is further off than before.

    It is the largest eigenvalue of 2 x distance_scale x J R J', with the derivatives J of F6 by the
    parameters and their rates R.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    f6 = partial(functional_call, _F6(model))
    jacobians = jacrev(lambda p: f6({f"model.{k}": v for k, v in p.items()}, (image,)))(parameters)
    by_state = torch.cat([j.flatten(1) for j in jacobians.values()], dim=1)
    scaled = by_state * torch.cat([rate.flatten() for rate in rates(optimizer)]).sqrt()
    return 2 * model.fc3.scale * float(torch.linalg.matrix_norm(scaled, 2)) ** 2


class _F6(torch.nn.Module):
    def __init__(self, model: LeNet5) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.stages(image[None])["F6"][0]


def main() -> None:
    torch.set_num_threads(1)
    root = os.environ.get("LENET_DATA", "data")
    for name, (initialisation, scale, j, output_curvature, memory) in RECIPES.items():
        for seed in range(3):
            data = load("mnist", root, val_size=10000, batch_size=1, seed=seed, **PAPER_INPUT)
            images, labels = (torch.cat(p)[:500] for p in zip(*data.val, strict=True))
            seed_all(seed)
            model = LeNet5(
                activation=ScaledTanh,
                pooling=Subsample,
                connections="table_i",
                output="rbf",
                distance_scale=scale,
                initialisation=initialisation,
            )
            equip(model)
            optimizer = SDLM(model.parameters(), output_curvature=output_curvature, memory=memory)
            criterion = MAP(j)
            line = f"{name}, seed {seed}:"
            for when in ("start", "after one pass"):
                if when != "start":
                    list(fit(model, data.train, criterion, optimizer, epochs=1))
                if not all(p.isfinite().all() for p in model.parameters()):
                    line += " diverged"
                    break
                optimizer.measure(model, criterion, images, labels)
                low = min(float(rate.min()) for rate in rates(optimizer))
                high = max(float(rate.max()) for rate in rates(optimizer))
                gains = [gain(model, optimizer, image) for image in images[:20]]
                line += f" {when} rates {low:.1e} to {high:.1e}, gain {sum(gains) / 20:.2f}"
                line += f" (at most {max(gains):.2f});"
            print(line, flush=True)


if __name__ == "__main__":
    main()
