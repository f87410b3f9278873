"""A set of your own, from files of any kind that `readers` has."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from lenet.cli import first_error_line
from lenet.data.batches import as_count, permutation
from lenet.data.errors import DataError
from lenet.data.image_files import checked
from lenet.data.readers import HOW, Array, Found, Part, joined, read
from lenet.data.sources import Pair, Raw

TEST_SEED = 1989  # fixed, so that runs of all seeds have the same test images


def read_set(
    name: str,
    train: Sequence[str],
    test: Sequence[str],
    test_size: int | float | None,
    classes: Sequence[str] | None,
    first_label: int,
    image_size: int,
) -> Raw:
    """The training images at the paths `train`, and the test images: those at `test`, those that
    lie at `train` beside them, or `test_size` of the training images.

    Raises: DataError where there are no test images, or too many; where classes do not fit.
    """
    found = _read_all(train, image_size)
    training = _first_of(found, "train", "all", "test")
    testing = found.parts.get("test")
    if test:
        testing = _first_of(_read_all(test, image_size), "test", "all", "train")
    where = ", ".join((*train, *test))
    if testing and test_size is not None:
        raise DataError(f"data.test_size={test_size}: {where} has test images; leave it out")
    if not testing and test_size is None:
        raise DataError(
            f"{where}: expected test images, found none; data.test_size=0.2 takes a fifth of the "
            "training images, data.test=PATH others"
        )
    names = tuple(map(str, classes)) if classes else found.classes
    if training.labels is not None and training.labels.dtype.kind in "OUT":
        names = names or _in_order(training.labels)
    pairs = []
    for part, paths in ((training, train), (testing, test or train)):
        if part:
            pairs.append(_pair(part, names, first_label, ", ".join(paths)))
    if test_size is not None:
        pairs = list(_split(pairs[0], test_size, where))
    return Raw(name, pairs[0], pairs[1], names, where)


def read_images(path: Path, image_size: int) -> torch.Tensor:
    """The images of a file, its test images where it has some; labels are not needed.

    Shapes: -> uint8 (N, H, W) or (N, C, H, W).
    Raises: DataError where there are none.
    """
    images = _tensor(_first_of(read(path, image_size), "test", "all", "train").images)
    return checked(images, torch.zeros(len(images), dtype=torch.int64), path)[0]


def _read_all(paths: Sequence[str], image_size: int) -> Found:
    if not paths:
        raise DataError("data.train: expected a path, found none")
    found = [read(Path(path).expanduser(), image_size) for path in paths]
    try:
        return joined(found)
    except ValueError as error:
        raise DataError(f"{', '.join(paths)}: {first_error_line(error)}; {HOW}") from None


def _first_of(found: Found, *names: str) -> Part:
    return next(found.parts[name] for name in names if name in found.parts)


def _in_order(labels: Array) -> tuple[str, ...]:
    """The names among the labels: numbers by their value, others by the alphabet."""
    names = sorted({str(label) for label in labels})
    return tuple(sorted(names, key=int) if all(map(str.isdecimal, names)) else names)


def _pair(part: Part, names: tuple[str, ...] | None, first_label: int, where: str) -> Pair:
    if part.labels is None:
        raise DataError(
            f"{where}: expected images and labels, found images alone; [IMAGES,LABELS] names a "
            "file of each, data.test_size=0.2 takes test images from the training images"
        )
    labels = part.labels
    if labels.dtype.kind in "OUT":
        places = {name: place for place, name in enumerate(names or ())}
        if unknown := sorted({str(label) for label in labels} - places.keys()):
            raise DataError(
                f"{where}: expected the classes {', '.join(places)}, found {unknown[0]}; "
                "data.classes=[...] names all of them"
            )
        labels, first_label = np.array([places[str(label)] for label in labels]), 0
    pair = checked(_tensor(part.images), _tensor(labels), where)
    return pair[0], pair[1] - first_label


def _tensor(array: Array) -> torch.Tensor:
    """Raises: DataError where torch has no such type."""
    if array.dtype.kind in "iu" and array.itemsize > 1:
        array = array.astype(np.int64)  # of any byte order; torch computes little with uint16
    try:
        return torch.from_numpy(np.ascontiguousarray(array))
    except TypeError:
        raise DataError(f"expected numbers, found {array.dtype}; {HOW}") from None


def _split(pair: Pair, test_size: int | float, where: str) -> tuple[Pair, Pair]:
    """Training and test images."""
    images, labels = pair
    size = as_count(test_size, len(images))
    if not 0 < size < len(images):
        raise DataError(
            f"data.test_size={test_size}: expected 1 to {len(images) - 1:,} images or a part below "
            f"1, because {where} has {len(images):,} images"
        )
    order = permutation(len(images), TEST_SEED)
    held_out, kept = order[:size].sort().values, order[size:].sort().values
    return (images[kept], labels[kept]), (images[held_out], labels[held_out])
