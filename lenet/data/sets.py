"""Data sets: files -> checked tensors in memory -> splits -> batches.

    python -m lenet data mnist              fetch or verify a set, print what is there

A set is decoded once, to float32; a batch is an index into it. No worker processes, no PIL.
"""

import copy
import functools
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lenet.cli import one_line
from lenet.data import sources
from lenet.data.errors import DataError
from lenet.data.idx import checked, idx_sha256, read_idx, read_pt
from lenet.data.inputs import MAX_CLASSES, Inputs
from lenet.data.sources import Pair, Raw

MNIST_MEAN, MNIST_STD = 0.1307, 0.3081
VALIDATION_SEED = 1998  # fixed: the validation split is the same for every run's seed
DECODED_AT_ONCE = 1024  # images
DISTORTIONS = 1  # a seed that tells an epoch's distortions from its order

Distort = Callable[[Tensor, torch.Generator], Tensor]


class Batches:
    """Examples in memory, as batches: in their own order, or shuffled anew each epoch.

    `transform` makes of a batch of images what the network reads, so the set itself can stay
    bytes, a quarter of the memory; it is given several batches at once, after `distort`, which
    changes them anew each epoch. Order and, with the batch size, distortions of an epoch follow
    from (seed, epoch) alone, so a run that starts again in the middle sees what it would have seen.

    Shapes: images (N, ...), labels (N); iterating gives them batch by batch, the last one short.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        batch_size: int,
        seed: int | None = None,
        transform: Callable[[Tensor], Tensor] | None = None,
        distort: Distort | None = None,
    ) -> None:
        self.images = images
        self.labels = labels
        self.batch_size = batch_size
        self.seed = seed
        self.transform = transform
        self.distort = distort
        self.epoch = 1

    @property
    def count(self) -> int:
        return len(self.labels)

    @property
    def inputs(self) -> Tensor:
        """All that the network reads, in the set's own order, made anew each time."""
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
        # Several batches at once: for one alone the calls take longer than what they do.
        stretch = max(1, DECODED_AT_ONCE // self.batch_size) * self.batch_size
        for index in order.to(self.labels.device).split(stretch):
            # Not images[index], which takes ten times as long over bytes.
            images, labels = self.images.index_select(0, index), self.labels[index]
            images = self.distort(images, generator) if self.distort else images
            images = self.transform(images) if self.transform else images
            yield from zip(
                images.split(self.batch_size), labels.split(self.batch_size), strict=True
            )

    def to(self, device: torch.device) -> "Batches":
        moved = copy.copy(self)
        moved.images, moved.labels = self.images.to(device), self.labels.to(device)
        return moved


def permutation(count: int, *seeds: int) -> Tensor:
    """A random order of `count` things that follows from the seeds alone."""
    return torch.randperm(count, generator=generator_of(*seeds))


def generator_of(*seeds: int) -> torch.Generator:
    state = int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]) >> 1
    return torch.Generator().manual_seed(state)


@dataclass(frozen=True)
class Data:
    """A set ready for training: normalised, split, in batches. `val` is None without a split."""

    name: str
    where: str
    inputs: Inputs
    sha256: str
    val_sha256: str | None
    train: Batches
    val: Batches | None
    test: Batches

    def line(self) -> str:
        """The set in a few words."""
        parts = [f"{self.train.count:,} training images", f"{self.test.count:,} test images"]
        if self.val:
            parts.insert(1, f"{self.val.count:,} validation images")
        return f"{self.name}: {', '.join(parts)}, {len(self.inputs.classes)} classes"

    def to(self, device: torch.device) -> "Data":
        val = self.val.to(device) if self.val else None
        parts = {"train": self.train.to(device), "val": val, "test": self.test.to(device)}
        return Data(**(vars(self) | parts))

    def distorted(self, distort: Distort) -> "Data":
        """The same with training images that are distorted anew each epoch."""
        train = copy.copy(self.train)
        train.distort = distort
        return Data(**(vars(self) | {"train": train}))


def load(
    name: str,
    root: str,
    split: str | None = None,
    download: bool = True,
    mirror: str | None = None,
    train_size: int | None = None,
    val_size: int = 0,
    image_size: int = 32,
    mean: float | None = None,
    std: float | None = None,
    batch_size: int = 64,
    test_batch_size: int = 1000,
    seed: int = 0,
) -> Data:
    """A published set by name: found under `root`, or downloaded to there; `split` is EMNIST's.

    `auto` is MNIST where it is on disk or can be downloaded, else the embedded digits, said in one
    line on standard error. The rest is as in `prepare`.

    Raises: DataError where the set can't be had, or is not what it claims to be.
    """
    raw = _fetch(name, Path(os.path.expanduser(root)), split, download, mirror)
    return prepare(
        raw, train_size, val_size, image_size, mean, std, batch_size, test_batch_size, seed
    )


def load_files(
    name: str,
    train: Sequence[str],
    test: Sequence[str],
    classes: Sequence[str] | None = None,
    first_label: int = 0,
    train_size: int | None = None,
    val_size: int = 0,
    image_size: int = 32,
    mean: float | None = None,
    std: float | None = None,
    batch_size: int = 64,
    test_batch_size: int = 1000,
    seed: int = 0,
) -> Data:
    """A set of one's own: `train` and `test` each name one `.pt` or an IDX file of images and one
    of labels. Classes are the labels' names in order, counted from `first_label`; without them
    there are as many as the highest training label says.

    Raises: DataError where a file can't be read, or the files don't fit each other.
    """
    pairs = []
    for paths in (train, test):
        images, labels = _read_pair([Path(os.path.expanduser(path)) for path in paths])
        pairs.append((images, labels - first_label))
    names = tuple(map(str, classes)) if classes else None
    raw = Raw(name, pairs[0], pairs[1], names, ", ".join((*train, *test)))
    return prepare(
        raw, train_size, val_size, image_size, mean, std, batch_size, test_batch_size, seed
    )


def _read_pair(paths: Sequence[Path]) -> Pair:
    if len(paths) == 1 and paths[0].suffix in (".pt", ".pth"):
        return checked(*read_pt(paths[0]), str(paths[0]))
    if len(paths) != 2:
        given = ", ".join(map(str, paths)) or "nothing"
        raise DataError(f"expected one .pt file or two IDX files (images, labels), found {given}")
    return checked(read_idx(paths[0]), read_idx(paths[1]), str(paths[0]))


SET_NAMES = ("auto", "mnist", "fashion_mnist", "kmnist", "qmnist", "emnist", "digits")


def keep_sources() -> None:
    """From here on this process reads, and counts, each published set once: for one that makes
    many runs.
    """
    global _fetch, _pixel_statistics, idx_sha256
    few = functools.lru_cache(maxsize=8)  # sets, or four tensors of two
    _fetch, _pixel_statistics, idx_sha256 = few(_fetch), few(_pixel_statistics), few(idx_sha256)


def _fetch(name: str, root: Path, split: str | None, download: bool, mirror: str | None) -> Raw:
    if name not in SET_NAMES:
        raise DataError(f"data.name={name}: expected one of {', '.join(SET_NAMES)}")
    if name != "emnist" and split is not None:
        raise DataError(f"data.split={split}: only emnist has splits, {name} has none")
    if name == "emnist" and split not in sources.EMNIST_SPLITS:
        splits = ", ".join(sources.EMNIST_SPLITS)
        raise DataError(f"data.split={split}: expected one of {splits}")
    if name == "digits":
        return sources.embedded_digits()
    wanted = {"auto": "mnist", "emnist": f"emnist_{split}"}.get(name, name)
    if raw := sources.find(wanted, root):
        return raw
    reason = f"no {wanted} under {root}"
    if download:
        try:
            return sources.download(wanted, root, mirror)
        except DataError as error:
            reason += f", and {error}"
    if name != "auto":
        raise DataError(reason)
    print(f"Warning: using the 1,797 embedded digits: {one_line(reason)}", file=sys.stderr)
    return sources.embedded_digits()


def prepare(
    raw: Raw,
    train_size: int | None = None,
    val_size: int = 0,
    image_size: int = 32,
    mean: float | None = None,
    std: float | None = None,
    batch_size: int = 64,
    test_batch_size: int = 1000,
    seed: int = 0,
) -> Data:
    """Splits and normalises. The validation split is drawn once for ever from the training set;
    `train_size` keeps that many of what remains. Mean and standard deviation of pixels (0 to 1)
    come from all training images, to four decimals as is the custom, unless given.

    Raises: DataError where labels don't fit the classes, or there are too few images.
    """
    classes = _class_names(raw)
    images = raw.train[0]
    if images.shape[1:] != raw.test[0].shape[1:]:
        shapes = f"{list(images.shape[1:])} and {list(raw.test[0].shape[1:])}"
        raise DataError(f"{raw.where}: expected images of one shape, found {shapes}")
    if mean is None or std is None:
        own_mean, own_std = _pixel_statistics(images)
        mean = own_mean if mean is None else mean
        std = own_std if std is None else std

    rest = len(images) - val_size
    train_size = rest if train_size is None else train_size
    if not 0 < train_size <= rest <= len(images):
        raise DataError(
            f"data.train_size={train_size} and data.val_size={val_size}: expected at least one "
            f"training image and at most {len(images):,} in all, which is what {raw.name} has"
        )
    order = permutation(len(images), VALIDATION_SEED)
    held_out, kept = order[:val_size].sort().values, order[val_size:][:train_size].sort().values

    in_channels = images.shape[1] if images.ndim == 4 else 1
    transform = functools.partial(normalised, mean=mean, std=std)

    def batches(part: Pair, index: Tensor | None, size: int, seed: int | None) -> Batches:
        images, labels = part if index is None else (part[0][index], part[1][index])
        return Batches(as_pixels(images, image_size), labels, size, seed, transform)

    whole = len(kept) == len(images)
    checksums = [idx_sha256(tensor) for tensor in (*raw.train, *raw.test)]
    return Data(
        name=raw.name,
        where=raw.where,
        inputs=Inputs(classes, mean, std, image_size, in_channels),
        sha256=hashlib.sha256("".join(checksums).encode()).hexdigest(),
        val_sha256=hashlib.sha256(held_out.numpy().tobytes()).hexdigest() if val_size else None,
        train=batches(raw.train, None if whole else kept, batch_size, seed),
        val=batches(raw.train, held_out, test_batch_size, None) if val_size else None,
        test=batches(raw.test, None, test_batch_size, None),
    )


def _pixel_statistics(images: Tensor) -> tuple[float, float]:
    """Mean and standard deviation, from the counts of the 256 levels: exact and without a copy."""
    counts = np.zeros(256)
    for part in images.split(1000):
        counts += np.bincount(part.numpy().reshape(-1), minlength=256)
    levels = np.arange(256) / 255
    mean = np.average(levels, weights=counts)
    std = np.sqrt(np.average((levels - mean) ** 2, weights=counts))
    return round(float(mean), 4), round(float(std), 4) or 1.0


def _class_names(raw: Raw) -> tuple[str, ...]:
    highest = int(raw.train[1].max())
    if raw.classes is None and highest >= MAX_CLASSES:
        raise DataError(f"{raw.where}: expected labels below {MAX_CLASSES}, found {highest}")
    classes = raw.classes or tuple(str(k) for k in range(highest + 1))
    for part, (_, labels) in (("training", raw.train), ("test", raw.test)):
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= len(classes):
            raise DataError(
                f"{raw.where}: expected labels from 0 to {len(classes) - 1} once data.first_label "
                f"is taken off, found {lowest if lowest < 0 else highest} among the {part} labels"
            )
    return classes


def as_input(images: Tensor, image_size: int, mean: float, std: float) -> Tensor:
    """Bytes of any size -> what a network reads.

    Shapes: uint8 (N, H, W) or (N, C, H, W) -> float32 (N, C, image_size, image_size).
    """
    return normalised(as_pixels(images, image_size), mean, std)


def as_pixels(images: Tensor, image_size: int) -> Tensor:
    """Bytes of one size: smaller images get an even border of 0, larger ones are resized.

    Shapes: uint8 (N, H, W) or (N, C, H, W) -> uint8 (N, C, image_size, image_size).
    """
    images = images[:, None] if images.ndim == 3 else images
    count, channels, height, width = images.shape
    output = torch.zeros(count, channels, image_size, image_size, dtype=torch.uint8)
    if max(height, width) > image_size:
        size = (image_size, image_size)
        for out, part in zip(output.split(1000), images.split(1000), strict=True):
            resize = torch.nn.functional.interpolate
            out.copy_(resize(part.float(), size, mode="bilinear", antialias=True).round())
    else:
        top, left = (image_size - height) // 2, (image_size - width) // 2
        output[:, :, top : top + height, left : left + width] = images
    return output


def normalised(pixels: Tensor, mean: float, std: float) -> Tensor:
    """Pixels from 0 to 1, less `mean`, divided by `std`: bit for bit what torchvision makes.

    Shapes: uint8 (...) -> float32 (...).
    """
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)


# ---- python -m lenet data -------------------------------------------------------------------
