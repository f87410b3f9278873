"""`python run.py -cd examples/lab/conf data=bars`"""

import torch
from torch import Tensor

from lenet.data.sets import Data, prepare
from lenet.data.sources import Raw


def load_bars(count: int, noise: float, batch_size: int, test_batch_size: int, seed: int) -> Data:
    """Noisy pictures of horizontal (0) and vertical (1) bars; a fifth of them are the test set."""
    generator = torch.Generator().manual_seed(1998)  # the same pictures for every seed of a run
    labels = torch.arange(count) % 2
    images = torch.rand(count, 28, 28, generator=generator) * noise
    places = torch.randint(4, 24, (count,), generator=generator).tolist()
    for image, label, place in zip(images, labels.tolist(), places, strict=True):
        line = image[place - 1 : place + 1] if label == 0 else image[:, place - 1 : place + 1]
        line += 1
    bytes_ = (images.clamp(0, 1) * 255).byte()
    tests = count // 5

    def pair(part: slice) -> tuple[Tensor, Tensor]:
        return bytes_[part], labels[part]

    raw = Raw(
        name="bars",
        train=pair(slice(tests, None)),
        test=pair(slice(tests)),
        classes=("horizontal", "vertical"),
        where="made by mylab.bars",
    )
    return prepare(raw, batch_size=batch_size, test_batch_size=test_batch_size, seed=seed)
