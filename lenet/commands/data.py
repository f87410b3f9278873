"""Fetch or verify a data set, and print what is in it."""

import os
from collections.abc import Sequence

from lenet.cli import command_parser, one_line
from lenet.cli.screen import aligned
from lenet.data.images import Level
from lenet.data.known_sets import EMNIST_SPLITS
from lenet.data.sets import SET_NAMES, Data, load


def main(argv: Sequence[str]) -> int:
    parser = command_parser(__name__, __doc__, "fashion_mnist --root data")
    parser.add_argument("name", choices=SET_NAMES, metavar="NAME", help="which set")
    parser.add_argument(
        "--root",
        default=os.environ.get("LENET_DATA", "data"),
        metavar="FOLDER",
        help="where the files are (default: %(default)s)",
    )
    splits = ", ".join(EMNIST_SPLITS)
    parser.add_argument("--split", metavar="NAME", help=f"which split of emnist: {splits}")
    parser.add_argument("--no-download", action="store_true", help="only look on disk")
    parser.add_argument("--mirror", metavar="URL", help="try this before the official servers")
    o = parser.parse_args(argv)
    print(describe(load(o.name, o.root, o.split, not o.no_download, o.mirror)))
    return 0


def _level(level: Level) -> str:
    levels = level if isinstance(level, Sequence) else [level]
    return " ".join(f"{each:.4f}" for each in levels)


def describe(data: Data) -> str:
    """What is in a set: counts, normalisation, checksum, classes."""
    parts = {"train": data.train, "validation": data.val, "test": data.test}
    inputs = data.inputs
    shape = f"{inputs.in_channels}x{inputs.image_size}x{inputs.image_size}"
    lines = [f"{data.name} from {one_line(data.where)}"]
    lines += [f"  {name:<10} {part.count:>7,} images" for name, part in parts.items() if part]
    lines += [
        f"  network    {shape} pixels, mean {_level(inputs.mean)}, std {_level(inputs.std)}",
        f"  SHA-256    {data.sha256}",
        f"  classes    {len(inputs.classes)}, with training and test images of each:",
    ]
    rows = []
    for k, name in enumerate(inputs.classes):
        counts = [int((part.labels == k).sum()) for part in (data.train, data.test)]
        rows.append([name, *(f"{count:,}" for count in counts)])
    return "\n".join(lines + aligned(rows, right={1, 2}, indent=4, header=False))
