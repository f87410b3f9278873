"""What lies at a path: the images and labels of each kind of file or folder that sets come in."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lenet.cli import first_error_line, one_line, shortened
from lenet.data.decode import stacked
from lenet.data.errors import DataError
from lenet.data.image_files import read_idx, read_pt

Array = NDArray[Any]

PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
HOW = (
    "numpy.savez('set.npz', images=images, labels=labels) makes a file that works, of images uint8 "
    "(N, H, W) or (N, H, W, 3) and labels (N)"
)
# Names of folders and of columns.
TRAIN, TEST, VALIDATION = ("train", "training"), ("test", "testing"), ("val", "valid", "validation")
LABELS = ("label", "labels", "class", "target", "y", "fine_label", "coarse_label")
IMAGES = ("image", "img")
PAIRS = {  # names of arrays in an .npz file
    "all": ("images labels", "image label", "x y", "data labels", "arr_0 arr_1"),
    "train": ("x_train y_train", "train_x train_y", "train_images train_labels"),
    "test": ("x_test y_test", "test_x test_y", "test_images test_labels"),
}


class Part(NamedTuple):
    """Images, and labels as numbers or as names of classes. A file with one array has no labels;
    its array may be the labels of another file's images.
    """

    images: Array
    labels: Array | None = None


class Found(NamedTuple):
    """The parts at a path: `train` and `test`, or `all` where it is not divided. `classes` are the
    names of the labels 0, 1 ... where the files tell them.
    """

    parts: Mapping[str, Part]
    classes: tuple[str, ...] | None = None


def read(path: Path, image_size: int) -> Found:
    """What lies at `path`. Pictures larger than `image_size` or of several sizes become squares of
    that size.

    Raises: DataError where nothing is there, or nothing that a set can be read from.
    """
    where = one_line(path)
    if not path.exists():
        raise DataError(f"{where}: no such file or folder")
    kind, reader = kind_of(path)
    try:
        return reader(path, image_size)
    except DataError:
        raise
    except Exception as error:  # pandas, pyarrow, numpy and zipfile have no error in common
        reason = shortened(first_error_line(error), 200)
        raise DataError(f"{where}: cannot be read as {kind} ({reason}); {HOW}") from None


def kind_of(path: Path) -> "tuple[str, Reader]":
    """What a path is, in words, and its reader.

    Raises: DataError for a folder in which no kind of file is known.
    """
    if path.is_dir():
        for is_one, kind, reader in FOLDERS:
            if is_one(path):
                return kind, reader
        raise DataError(
            f"{one_line(path)}: expected a folder of pictures for each class, found none; "
            f"CLASS/NAME.png in it works, and so does one file: {HOW}"
        )
    for ending, (kind, reader) in FILES.items():
        if path.name.removesuffix(".gz").lower().endswith(ending):
            return kind, reader
    if path.name.startswith(("data_batch", "test_batch")):
        return "CIFAR's batch", _read_batch
    return "an IDX file", _read_idx


def is_table(path: Path) -> bool:
    """Whether a file holds many images."""
    return path.is_file() and path.name.lower().removesuffix(".gz").endswith(tuple(FILES))


def _alone(array: Array) -> Found:
    return Found({"all": Part(array)})


# ---- Files of arrays ---------------------------------------------------------------------------


def _read_pt(path: Path, _: int) -> Found:
    images, labels = read_pt(path)
    return Found({"all": Part(images.numpy(), labels.numpy())})


def _read_idx(path: Path, _: int) -> Found:
    try:
        return _alone(read_idx(path).numpy())
    except DataError as error:
        raise DataError(f"{error}; {HOW}") from None


def _read_npy(path: Path, _: int) -> Found:
    return _alone(np.load(path, allow_pickle=False))


def _read_npz(path: Path, _: int) -> Found:
    with np.load(path, allow_pickle=False) as file:
        arrays = {name.lower(): file[name] for name in file.files}
    if len(arrays) == 1:
        return _alone(next(iter(arrays.values())))
    parts = {
        part: Part(arrays[images], arrays[labels])
        for part, pairs in PAIRS.items()
        for images, labels in (pair.split() for pair in pairs)
        if images in arrays and labels in arrays
    }
    if not parts:
        found = ", ".join(sorted(arrays)) or "none"
        raise ValueError(f"expected arrays x_train, y_train, x_test, y_test, found {found}")
    return Found(parts)


def _read_batch(path: Path, _: int) -> Found:
    from lenet.data.batch_pickles import read_batch

    batch = read_batch(path)
    labels = batch.get("labels", batch.get("fine_labels"))
    if "data" not in batch or labels is None:
        raise ValueError(f"expected data and labels, found {', '.join(map(str, batch))}")
    return Found({"all": Part(batch["data"].reshape(-1, 3, 32, 32), np.array(labels))})


def read_batches(folder: Path, side: int = 32) -> Found:
    """CIFAR's python batches: `data_batch_1` to `data_batch_5`, `test_batch` and `batches.meta`."""
    from lenet.data.batch_pickles import read_batch

    parts = {"train": "data_batch_*", "test": "test_batch*"}
    found = _by_part({part: sorted(folder.glob(glob)) for part, glob in parts.items()}, side)
    meta = folder / "batches.meta"
    names = read_batch(meta).get("label_names") if meta.is_file() else None
    return Found(found.parts, tuple(map(str, names)) if names else None)


# ---- Tables ------------------------------------------------------------------------------------


def _read_csv(path: Path, _: int) -> Found:
    """A row for each image: its pixels, 0 to 255, row by row, and its label in a column of that
    name, or in the first one. Without a label there is one number for each pixel of a square.
    """
    import pandas as pd

    first = pd.read_csv(path, header=None, nrows=1, dtype=str).iloc[0].str.strip().str.lower()
    is_counted = list(first) == [str(number) for number in range(len(first))]  # pandas' own names
    is_text = ~first.iloc[1:].str.fullmatch(r"-?[\d.]+")  # the first cell may be a class
    has_names = is_counted or is_text.any() or first.isin(LABELS).any()
    table = pd.read_csv(path, header=0 if has_names else None)
    column = next((name for name in table if str(name).strip().lower() in LABELS), None)
    if column is None and not _is_square(table.shape[1]):
        column = table.columns[0]
    labels = None if column is None else table.pop(column).to_numpy()
    if not _is_square(table.shape[1]):
        raise ValueError(
            f"expected a label and the pixels of a square image in each row, found "
            f"{table.shape[1]} columns beside the label"
        )
    text = [str(name) for name, kind in table.dtypes.items() if kind.kind not in "iufb"]
    if text:
        raise ValueError(f"expected pixels from 0 to 255, found text in column {text[0]}")
    return Found({"all": Part(table.to_numpy(), labels)})


def _is_square(count: int) -> bool:
    return math.isqrt(count) ** 2 == count


def _read_parquet(path: Path, side: int) -> Found:
    """Hugging Face's form: a picture's file in each row, and its label."""
    from pyarrow import parquet

    table = parquet.read_table(path)
    images = next((name for name in table.column_names if name.lower() in IMAGES), None)
    labels = next((name for name in table.column_names if name.lower() in LABELS), None)
    if images is None or labels is None:
        found = ", ".join(table.column_names)
        raise ValueError(f"expected the columns image and label, found {found}")
    rows = table[images].to_pylist()
    files = [row["bytes"] if isinstance(row, dict) else row for row in rows]
    if not all(isinstance(file, bytes) for file in files):
        raise ValueError(f"expected the bytes of a picture in each row of {images}")
    named = ((f"{path}, row {number}", file) for number, file in enumerate(files))
    about = json.loads((table.schema.metadata or {}).get(b"huggingface", b"{}"))
    feature = about.get("info", {}).get("features", {}).get(labels, {})
    classes = tuple(map(str, feature.get("names") or ())) or None
    return Found({"all": Part(stacked(named, side), np.array(table[labels].to_pylist()))}, classes)


def _read_parquets(folder: Path, side: int) -> Found:
    """Hugging Face's folder: `train-00000-of-00002.parquet` or `train/0000.parquet` and so on."""
    parts: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*.parquet")):
        words = (path.relative_to(folder).as_posix().lower()).replace("-", "/").split("/")
        is_of = {"train": TRAIN, "test": TEST, "validation": VALIDATION}
        part = next((part for part, names in is_of.items() if set(words) & set(names)), "all")
        parts.setdefault(part, []).append(path)
    parts.pop("validation", None)
    return _by_part(parts, side)


def _by_part(files: Mapping[str, Iterable[Path]], side: int) -> Found:
    """Each part's files joined."""
    found = {part: joined([read(path, side) for path in paths]) for part, paths in files.items()}
    classes = next((each.classes for each in found.values() if each.classes), None)
    return Found({part: next(iter(each.parts.values())) for part, each in found.items()}, classes)


def joined(found: list[Found]) -> Found:
    """Several files as one: two of one array each are images and labels, others follow each other.

    Raises: ValueError where their images have several shapes.
    """
    parts: dict[str, Part] = {}
    lone = [part.images for each in found for part in each.parts.values() if part.labels is None]
    if len(found) == 2 and len(lone) == 2:
        return Found({"all": Part(*lone)})
    for name in dict.fromkeys(name for each in found for name in each.parts):
        pieces = [each.parts[name] for each in found if name in each.parts]
        labels = [piece.labels for piece in pieces if piece.labels is not None]
        images = np.concatenate([piece.images for piece in pieces])
        parts[name] = Part(images, np.concatenate(labels) if labels else None)
    return Found(parts, found[0].classes)


# ---- Folders of pictures -----------------------------------------------------------------------


def _is_divided(folder: Path) -> bool:
    names = {path.name.lower() for path in folder.iterdir() if path.is_dir()}
    return bool(names & set(TRAIN)) and names <= {*TRAIN, *TEST, *VALIDATION}


def _read_divided(folder: Path, side: int) -> Found:
    found = {}
    for path in sorted(folder.iterdir()):
        for part, names in (("train", TRAIN), ("test", TEST)):
            if path.is_dir() and path.name.lower() in names:
                found[part] = read(path, side).parts["all"]
    return Found(found)


def pictures_below(folder: Path) -> list[Path]:
    """All pictures in a folder and in those within it."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    return [path for path in paths if not path.name.startswith(".")]  # macOS packs such files


def _of_classes(folder: Path) -> list[Path]:
    return [path for path in pictures_below(folder) if path.parent != folder]


def _read_pictures(folder: Path, side: int) -> Found:
    """A folder of pictures for each class, whose name is that of the class."""
    files = _of_classes(folder)
    classes = np.array([path.relative_to(folder).parts[0] for path in files])
    pictures = stacked(((str(path), path.read_bytes()) for path in files), side)
    return Found({"all": Part(pictures, classes)})


# ---- The table ---------------------------------------------------------------------------------

Reader = Callable[[Path, int], Found]
FILES: dict[str, tuple[str, Reader]] = {
    ".pt": ("tensors", _read_pt),
    ".pth": ("tensors", _read_pt),
    ".npy": ("an array of numpy", _read_npy),
    ".npz": ("arrays of numpy", _read_npz),
    ".csv": ("a table", _read_csv),
    ".parquet": ("a table with pictures", _read_parquet),
}
FOLDERS: tuple[tuple[Callable[[Path], bool], str, Reader], ...] = (
    (lambda folder: any(folder.glob("data_batch_*")), "CIFAR's batches", read_batches),
    (lambda folder: any(folder.rglob("*.parquet")), "Hugging Face's files", _read_parquets),
    (_is_divided, "train and test folders", _read_divided),
    (lambda folder: bool(_of_classes(folder)), "pictures", _read_pictures),
)
