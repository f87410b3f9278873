"""Tiny data sets in the files of published ones."""

import gzip
import hashlib
import pickle
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch

from lenet.data.errors import DataError
from lenet.data.known_sets import KNOWN

TRAIN, TEST, SIDE = 12, 6, 5


def idx_bytes(array):
    code, dtype = (0x08, "u1") if array.dtype == np.uint8 else (0x0C, ">i4")
    shape = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, code, array.ndim]) + shape + array.astype(dtype).tobytes()


def digest(content, kind="sha256"):
    return hashlib.new(kind, content).hexdigest()


class Fake:
    """A tiny set in a known set's files: what they hold, and what should be read from them."""

    def __init__(self, name, seed=0):
        known = KNOWN[name]
        draw = np.random.default_rng(seed)
        self.name, self.known, self.pairs = name, known, []
        self.files = {}
        for count, images_file, labels_file in zip(
            (TRAIN, TEST), known.files[::2], known.files[1::2], strict=True
        ):
            images = draw.integers(0, 256, (count, SIDE, SIDE), np.uint8)
            labels = draw.integers(0, len(known.classes), count, np.uint8)
            upright = images.transpose(0, 2, 1) if name.startswith("emnist") else images
            self.pairs.append((torch.tensor(upright.copy()), torch.tensor(labels).long()))
            if name == "emnist_letters":
                labels += 1
            if name == "qmnist":  # class, series, writer, digit ...
                labels = np.column_stack([labels, np.full((count, 7), 1000)]).astype(np.int32)
            self.files |= {images_file: idx_bytes(images), labels_file: idx_bytes(labels)}

    def publish(self, monkeypatch):
        """From now on these contents are what the set's published checksums ask for."""
        sha256 = tuple(digest(content) for content in self.files.values())
        if self.known.sha256:
            monkeypatch.setitem(KNOWN, self.name, replace(self.known, sha256=sha256))
        return self

    def folder(self, root, layout):
        return root / self.known.place if layout.startswith("raw") else root

    def lay(self, root, layout, leave_out=""):
        folder = self.folder(root, layout)
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in self.files.items():
            if file != leave_out and layout.endswith(".gz"):
                (folder / f"{file}.gz").write_bytes(gzip.compress(content))
            elif file != leave_out:
                (folder / file).write_bytes(content)

    def lay_pt(self, root):
        paths = []
        for part, file, pair in zip(
            ("train", "test"), ("training.pt", "test.pt"), self.pairs, strict=True
        ):
            folder = root / part / self.known.folder / "processed"
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(pair, folder / file)
            paths.append(folder / file)
        return paths[0], paths[1]

    def is_what_was_read(self, raw):
        return raw is not None and all(
            got.dtype == expected.dtype and got.equal(expected)
            for pair, (images, labels) in zip((raw.train, raw.test), self.pairs, strict=True)
            for got, expected in zip(pair, (images, labels), strict=True)
        )


class FakeBatches(Fake):
    """A tiny CIFAR-10: python batches with colours."""

    def __init__(self, name="cifar10"):
        known = KNOWN[name]
        self.name, self.known, self.files = name, known, {}
        parts = []
        for number, file in enumerate(known.files[:-1]):
            planes = np.random.default_rng(number).integers(0, 256, (4, 3072), np.uint8)
            labels = [(number + k) % 10 for k in range(4)]
            batch = {b"data": planes, b"labels": labels, b"batch_label": file.encode()}
            self.files[file] = pickle.dumps(batch, 2)
            parts.append((torch.from_numpy(planes).view(-1, 3, 32, 32), torch.tensor(labels)))
        names = [name.encode() for name in known.classes]
        self.files[known.files[-1]] = pickle.dumps({b"label_names": names}, 2)
        self.pairs = [tuple(map(torch.cat, zip(*parts[:5], strict=True))), parts[5]]


def noise(count, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *shape), dtype=torch.uint8, generator=generator)


def cycle(count, classes=10, first=0):
    return torch.arange(count) % classes + first


def pair(count, *shape, classes=10, first=0, seed=0):
    return noise(count, *(shape or (28, 28)), seed=seed), cycle(count, classes, first)


def refusal(call):
    with pytest.raises(DataError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message
