"""Batches of examples in memory, in an order that follows from a seed and the epoch."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Generator, Tensor

CHUNK = 1024  # images that are distorted and transformed at once
DISTORTIONS = 1  # keeps the seed of an epoch's distortions apart from that of its order

Distort = Callable[[Tensor, Generator], Tensor]


@dataclass(eq=False, repr=False)
class Batches:
    """Examples in memory, batch by batch: in their own order, or shuffled anew each epoch.

    `distort` changes images anew each epoch; `transform` makes of images what the network reads,
    so that the set itself stays bytes, a quarter of the memory. Both get several batches at once.
    Order and distortions of an epoch follow from (seed, epoch), the distortions from the batch
    size too. So a run that is resumed within an epoch sees what it would have seen.

    Shapes: images (N, ...), labels (N). The last batch may be short.
    """

    images: Tensor
    labels: Tensor
    batch_size: int
    seed: int | None = None
    transform: Callable[[Tensor], Tensor] | None = None
    distort: Distort | None = None
    epoch: int = 1

    @property
    def count(self) -> int:
        return len(self.labels)

    @property
    def inputs(self) -> Tensor:
        """All images as the network reads them, in the set's own order, computed at each access."""
        return self.transform(self.images) if self.transform else self.images

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.arange(self.count)
        if self.seed is not None:
            order = permutation(self.count, self.seed, self.epoch)
        generator = generator_of(self.seed or 0, self.epoch, DISTORTIONS)
        # Several batches at once: for a single one the calls take longer than their work.
        chunk = max(1, CHUNK // self.batch_size) * self.batch_size
        for index in order.to(self.labels.device).split(chunk):
            # images[index] takes ten times as long for bytes.
            images, labels = self.images.index_select(0, index), self.labels[index]
            images = self.distort(images, generator) if self.distort else images
            images = self.transform(images) if self.transform else images
            yield from zip(
                images.split(self.batch_size), labels.split(self.batch_size), strict=True
            )

    def to(self, device: torch.device) -> "Batches":
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


def as_count(size: int | float, count: int) -> int:
    """A number of images, given as it is or as a part of `count`."""
    return size if isinstance(size, int) else max(1, round(size * count))


def permutation(count: int, *seeds: int) -> Tensor:
    """A random order of `count` things that follows from the seeds alone."""
    return torch.randperm(count, generator=generator_of(*seeds))


def generator_of(*seeds: int) -> Generator:
    """A generator whose numbers follow from all of the seeds."""
    state = int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]) >> 1
    return Generator().manual_seed(state)
