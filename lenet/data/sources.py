"""Published sets as they lie on the disk, and scikit-learn's digits, which come with it."""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lenet.cli import one_line
from lenet.data.errors import DataError, why_not_a_file
from lenet.data.form import Form, form_of
from lenet.data.image_files import checked, idx_sha256, read_idx, read_pt
from lenet.data.images import Level, pixel_statistics
from lenet.data.known_sets import DIGITS, KNOWN

Pair = tuple[Tensor, Tensor]  # images and labels


@dataclass(frozen=True)
class Raw:
    """A set as its makers left it.

    Shapes: images uint8 (N, H, W) or (N, C, H, W); labels int64 (N), counting from 0.
    """

    name: str
    train: Pair
    test: Pair
    classes: tuple[str, ...] | None
    where: str

    @functools.cached_property
    def checksums(self) -> list[str]:
        """SHA-256 of training images, training labels, test images and test labels."""
        return [idx_sha256(tensor) for tensor in (*self.train, *self.test)]

    @functools.cached_property
    def pixel_statistics(self) -> tuple[Level, Level]:
        return pixel_statistics(self.train[0])

    @functools.cached_property
    def form(self) -> Form:
        return form_of(self.train[0])


def find(name: str, root: Path) -> Raw | None:
    """A published set found under `root`, or None where no file of it is there.

    Three layouts are tried in this order: `.pt` files in the tutorial's folders or torchvision's
    old one, torchvision's `raw` folder, and IDX files in `root` itself. `root` may be torchvision's
    folder of the set too. IDX files may be gzipped, and have a dot in their name.

    Raises: DataError where one of its files is missing, damaged, or not what it claims to be.
    """
    known = KNOWN[name]
    if known.batches:
        return _find_batches(name, (root / known.batches, root))
    folders = [root / known.folder, root]
    divided = (root / "train" / known.folder, root / "test" / known.folder)
    for train_folder, test_folder in (divided, *((folder, folder) for folder in folders)):
        train = train_folder / "processed" / "training.pt"
        test = test_folder / "processed" / "test.pt"
        if os.path.isfile(train) or os.path.isfile(test):
            paths = [train, train, test, test]
            return _verified(name, read_pt(train), read_pt(test), paths, f"{train} and {test}")
    for folder in (*(folder / "raw" for folder in folders), root):
        paths = [_as_it_is_named(folder / file) for file in known.files]
        if any(os.path.isfile(path) for path in paths):
            images, labels, test_images, test_labels = map(read_idx, paths)
            return _verified(name, (images, labels), (test_images, test_labels), paths, str(folder))
    return None


def _find_batches(name: str, folders: Sequence[Path]) -> Raw | None:
    """CIFAR's python batches in one of the folders."""
    from lenet.data.readers import read_batches  # late: Pillow takes a tenth of a second to import

    known = KNOWN[name]
    for folder in folders:
        paths = [folder / file for file in known.files]
        if any(os.path.isfile(path) for path in paths):
            for path in paths:
                if reason := why_not_a_file(path):
                    raise DataError(f"{one_line(path)}: {reason}")
            parts = read_batches(folder).parts.values()
            train, test = (
                checked(torch.from_numpy(images), torch.from_numpy(labels), folder)
                for images, labels in parts
            )
            return Raw(name, train, test, known.classes, str(folder))
    return None


def _as_it_is_named(path: Path) -> Path:
    """The file of this name, or with `.idx` for `-idx`, gzipped or not; `path` if there is none."""
    names = (path.name, path.name.replace("-idx", ".idx"))
    paths = [path.with_name(name + ending) for name in names for ending in ("", ".gz")]
    return next((each for each in paths if os.path.isfile(each)), path)


def _verified(name: str, train: Pair, test: Pair, paths: Sequence[Path], where: str) -> Raw:
    """The set with upright images and labels that count from 0.

    Raises: DataError where a file is another set's: MNIST, Fashion-MNIST and KMNIST share their
    file names.
    """
    known = KNOWN[name]
    pairs = []
    for (images, labels), path in ((train, paths[0]), (test, paths[2])):
        if labels.ndim == 2 and known.folder == "QMNIST":
            labels = labels[:, 0]  # the class; the other columns tell where a digit comes from
        images, labels = checked(images, labels, str(path))
        if known.transposed:
            images = images.transpose(-1, -2).contiguous()
        pairs.append((images, labels - known.first_label))
    raw = Raw(name, pairs[0], pairs[1], known.classes, where)
    expected = known.sha256 or (None,) * 4
    for file, path, found, sha256 in zip(known.files, paths, raw.checksums, expected, strict=True):
        owner = next((n for n, k in KNOWN.items() if k.sha256 and found in k.sha256), None)
        if owner not in (None, name) or sha256 not in (None, found):
            other = f"{owner}'s" if owner else "others; for a set of your own use data=files"
            raise DataError(f"{path}: expected {name}'s {file}, found {other}")
    return raw


def embedded_digits() -> Raw:
    """scikit-learn's 1,797 real 8x8 digits, enlarged to the 20x20 box in 28x28 of MNIST's digits.

    Every fifth is a test image, so that each writer is on both sides.

    Source: Alpaydin and Kaynak, UCI optical recognition of handwritten digits, its test part.
    """
    # Its file alone: to import scikit-learn takes longer than a short training.
    file = distribution("scikit-learn").locate_file("sklearn/datasets/data/digits.csv.gz")
    table = np.loadtxt(str(file), delimiter=",")
    small = torch.from_numpy(table[:, :-1].reshape(-1, 1, 8, 8)).float() * (255 / 16)
    large = torch.nn.functional.interpolate(small, 20, mode="bilinear", antialias=True)
    images = torch.nn.functional.pad(large.round().to(torch.uint8)[:, 0], (4, 4, 4, 4))
    labels = torch.from_numpy(table[:, -1]).long()
    is_test = torch.arange(len(labels)) % 5 == 0
    return Raw(
        "digits",
        (images[~is_test], labels[~is_test]),
        (images[is_test], labels[is_test]),
        DIGITS,
        "scikit-learn",
    )
