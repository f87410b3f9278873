"""Data sets ready for training: read or downloaded, split, in batches."""

import functools
import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lenet.cli import one_line
from lenet.data.batches import Batches, Distort, as_count, permutation
from lenet.data.download import download as download_set
from lenet.data.errors import DataError
from lenet.data.images import Level, as_pixels, normalised
from lenet.data.inputs import MAX_CLASSES, Inputs
from lenet.data.known_sets import EMNIST_SPLITS
from lenet.data.sources import Pair, Raw, embedded_digits, find

SET_NAMES = ("auto", "mnist", "fashion_mnist", "kmnist", "qmnist", "emnist", "cifar10", "digits")
VALIDATION_SEED = 1998  # fixed, so that runs of all seeds have the same validation split


@dataclass(frozen=True)
class Data:
    """A set ready for training. `val` is None where nothing is held out for validation."""

    name: str
    where: str
    inputs: Inputs
    sha256: str
    val_sha256: str | None
    train: Batches
    val: Batches | None
    test: Batches

    @property
    def class_counts(self) -> Tensor:
        """The number of training images of each class. Shapes: -> (K)."""
        return torch.bincount(self.train.labels, minlength=len(self.inputs.classes))

    def line(self) -> str:
        """Name and sizes in one line."""
        parts = [f"{self.train.count:,} training images", f"{self.test.count:,} test images"]
        if self.val:
            parts.insert(1, f"{self.val.count:,} validation images")
        return f"{self.name}: {', '.join(parts)}, {len(self.inputs.classes)} classes"

    def to(self, device: torch.device) -> "Data":
        val = self.val.to(device) if self.val else None
        return replace(self, train=self.train.to(device), val=val, test=self.test.to(device))

    def distorted(self, distort: Distort) -> "Data":
        """The same data with training images that are distorted anew each epoch."""
        if getattr(distort, "changes_nothing", False):
            return self
        return replace(self, train=replace(self.train, distort=distort))


def load(
    name: str,
    root: str,
    split: str | None = None,
    download: bool = True,
    mirror: str | None = None,
    train_size: int | float | None = None,
    val_size: int | float = 0,
    image_size: int = 32,
    mean: Level | None = None,
    std: Level | None = None,
    batch_size: int = 64,
    test_batch_size: int = 1000,
    seed: int = 0,
) -> Data:
    """A published set, found under `root` or downloaded to there. `split` is for EMNIST.

    `auto` is MNIST where it is on disk or can be downloaded; otherwise it is scikit-learn's digits,
    with a warning on standard error. The other arguments are those of `prepare`.

    Raises: DataError where the set cannot be found or downloaded, or a file has other contents.
    """
    raw = _find_or_download(name, Path(os.path.expanduser(root)), split, download, mirror)
    return prepare(
        raw, train_size, val_size, image_size, mean, std, batch_size, test_batch_size, seed
    )


def load_files(
    name: str,
    train: str | Sequence[str],
    test: str | Sequence[str] | None = None,
    test_size: int | float | None = None,
    classes: Sequence[str] | None = None,
    first_label: int = 0,
    train_size: int | float | None = None,
    val_size: int | float = 0,
    image_size: int = 32,
    mean: Level | None = None,
    std: Level | None = None,
    batch_size: int = 64,
    test_batch_size: int = 1000,
    seed: int = 0,
) -> Data:
    """A set of your own, from the files and folders that `lenet.data.readers` knows. Several paths
    are joined; two files of one array each are images and labels.

    Without `test`, the test images are those that lie at `train` beside the training images, or
    `test_size` of these: a number, or a part below 1. `classes` are names in the order of the
    labels, which count from `first_label`. Without names the highest training label gives their
    number. The other arguments are those of `prepare`.

    Raises: DataError where a file cannot be read, or the files do not fit each other.
    """
    paths = [(p,) if isinstance(p, str) else tuple(p or ()) for p in (train, test)]
    names = tuple(classes) if classes else None
    raw = _read_set(name, *paths, test_size, names, first_label, image_size)
    return prepare(
        raw, train_size, val_size, image_size, mean, std, batch_size, test_batch_size, seed
    )


@functools.lru_cache(maxsize=4)
def _read_set(*arguments: Any) -> Raw:
    """Cached, because a sweep's worker runs many jobs on the same set."""
    from lenet.data.own_files import read_set  # late: Pillow takes a tenth of a second to import

    return read_set(*arguments)


@functools.lru_cache(maxsize=4)
def _find_or_download(
    name: str, root: Path, split: str | None, download: bool, mirror: str | None
) -> Raw:
    """Cached as `_read_set` is."""
    if name not in SET_NAMES:
        raise DataError(f"data.name={name}: expected one of {', '.join(SET_NAMES)}")
    if name != "emnist" and split is not None:
        raise DataError(f"data.split={split}: only emnist has splits, {name} has none")
    if name == "emnist" and split not in EMNIST_SPLITS:
        raise DataError(f"data.split={split}: expected one of {', '.join(EMNIST_SPLITS)}")
    if name == "digits":
        return embedded_digits()
    wanted = {"auto": "mnist", "emnist": f"emnist_{split}"}.get(name, name)
    if raw := find(wanted, root):
        return raw
    reason = f"no {wanted} under {root}"
    if download:
        try:
            return download_set(wanted, root, mirror)
        except DataError as error:
            reason += f", and {error}"
    if name != "auto":
        raise DataError(reason)
    print(f"Warning: using the 1,797 embedded digits: {one_line(reason)}", file=sys.stderr)
    return embedded_digits()


def prepare(
    raw: Raw,
    train_size: int | float | None = None,
    val_size: int | float = 0,
    image_size: int = 32,
    mean: Level | None = None,
    std: Level | None = None,
    batch_size: int = 64,
    test_batch_size: int = 1000,
    seed: int = 0,
) -> Data:
    """Splits a set and puts it in batches of normalised images.

    `val_size` training images are held out, the same ones for every seed; of the others
    `train_size` are kept. Both are numbers, or parts below 1 of all. `mean` and `std`, of images in
    colour one a channel, are measured on all training images unless given.

    Raises: DataError where labels do not fit the classes, or there are too few images.
    """
    inputs = _inputs(raw, image_size, mean, std)
    images = raw.train[0]
    held = as_count(val_size, len(images))
    rest = len(images) - held
    if not 0 < rest <= len(images):
        raise DataError(
            f"data.val_size={val_size}: expected 0 to {len(images) - 1:,} or a part below 1, "
            f"because {raw.name} has {len(images):,} training images"
        )
    size = rest if train_size is None else as_count(train_size, len(images))
    if not 0 < size <= rest:
        part = f", of which data.val_size={val_size} are held out" if held else ""
        raise DataError(
            f"data.train_size={train_size}: expected 1 to {rest:,} or a part below 1, because "
            f"{raw.name} has {len(images):,} training images{part}"
        )
    order = permutation(len(images), VALIDATION_SEED)
    held_out, kept = order[:held].sort().values, order[held:][:size].sort().values

    kept_or_all = kept if len(kept) < len(images) else slice(None)
    transform = functools.partial(normalised, mean=inputs.mean, std=inputs.std)

    def batches(part: Pair, index: Tensor | slice, size: int, seed: int | None = None) -> Batches:
        images, labels = part[0][index], part[1][index]
        return Batches(as_pixels(images, image_size), labels, size, seed, transform)

    return Data(
        name=raw.name,
        where=raw.where,
        inputs=inputs,
        sha256=hashlib.sha256("".join(raw.checksums).encode()).hexdigest(),
        val_sha256=hashlib.sha256(held_out.numpy().tobytes()).hexdigest() if held else None,
        train=batches(raw.train, kept_or_all, batch_size, seed),
        val=batches(raw.train, held_out, test_batch_size) if held else None,
        test=batches(raw.test, slice(None), test_batch_size),
    )


def _inputs(raw: Raw, image_size: int, mean: Level | None, std: Level | None) -> Inputs:
    images = raw.train[0]
    if images.shape[1:] != raw.test[0].shape[1:]:
        shapes = f"{list(images.shape[1:])} and {list(raw.test[0].shape[1:])}"
        raise DataError(f"{raw.where}: expected images of one shape, found {shapes}")
    if mean is None or std is None:
        measured = raw.pixel_statistics
        mean = measured[0] if mean is None else mean
        std = measured[1] if std is None else std
    values: dict[str, Any] = {
        "classes": _class_names(raw),
        "mean": mean,
        "std": std,
        "image_size": image_size,
    }
    values |= {"in_channels": images.shape[1] if images.ndim == 4 else 1, "form": raw.form}
    return Inputs.from_values(values)


def _class_names(raw: Raw) -> tuple[str, ...]:
    highest = min(int(raw.train[1].max()), MAX_CLASSES)  # `Inputs` refuses more classes
    classes = raw.classes or tuple(str(k) for k in range(highest + 1))
    if len(raw.train[1].unique()) == 1:
        raise DataError(
            f"{raw.where}: expected labels of several classes, found {int(raw.train[1][0])} alone "
            "among the training labels"
        )
    for part, (_, labels) in (("training", raw.train), ("test", raw.test)):
        lowest, highest = int(labels.min()), int(labels.max())
        if lowest < 0 or highest >= len(classes):
            raise DataError(
                f"{raw.where}: expected labels from 0 to {len(classes) - 1} once data.first_label "
                f"is taken off, found {lowest if lowest < 0 else highest} among the {part} labels"
            )
    return classes
