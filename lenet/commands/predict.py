"""Read digits from pictures: the class, and the probability of each class.

Dark on light or light on dark, of any size, one digit a picture: it is brought to the form of the
set that the network was trained on. A folder of pictures, or a table with an image in each row
(.csv, .npz, .parquet ...), gives a table: file, class, probability.
"""

import argparse
import csv
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from lenet.cli import MISTAKE, RUN_ID, command_parser, first_error_line, one_line, path_of, tell
from lenet.data.errors import DataError
from lenet.data.form import form_of
from lenet.data.images import CHUNK, MNIST_MEAN, MNIST_STD, as_input
from lenet.data.inputs import Inputs
from lenet.data.own_files import read_images
from lenet.data.pictures import read_picture
from lenet.data.readers import PICTURES, is_table, pictures_below
from lenet.model import equip
from lenet.model.lenet5 import ACTIVATIONS, POOLINGS, LeNet5
from lenet.training.checkpoints import load_weights, read_weights


def load_network(
    source: str, activation: str = "tanh", pooling: str = "avg"
) -> tuple[nn.Module, Inputs]:
    """The network that an MLflow run trained, or a LeNet5 with the weights of a `.pth` file; and
    what it reads.

    A file of weights does not contain `activation` and `pooling`, so they are arguments.

    Raises: ValueError if there is no such run, or if the file has no weights of a LeNet5.
    """
    if is_weights(source):
        model, inputs = _load_lenet5(source, activation, pooling)
    else:
        from lenet.tracking.read import resolve_run
        from lenet.tracking.trained import load_trained

        model, inputs = load_trained(resolve_run(source))
    equip(model)
    return model.eval(), inputs


def _load_lenet5(path: str, activation: str, pooling: str) -> tuple[nn.Module, Inputs]:
    weight = read_weights(path).get("fc3.weight")
    if not isinstance(weight, Tensor) or weight.shape[1:] != (84,):
        raise ValueError(f"{path}: expected the weights of a LeNet5, found no fc3.weight (K, 84)")
    names = [str(k) for k in range(len(weight))]
    inputs = Inputs.from_values({"classes": names, "mean": MNIST_MEAN, "std": MNIST_STD})
    model = LeNet5(
        num_classes=len(weight), activation=ACTIVATIONS[activation], pooling=POOLINGS[pooling]
    )
    load_weights(model, path)
    return model, inputs


def is_weights(source: str) -> bool:
    """Whether the source names a file and not a run."""
    if source.startswith("models:/"):
        return False
    path = Path(source)
    return path.suffix in (".pth", ".pt") or os.sep in source or path.is_file()


@torch.inference_mode()
def predict(model: nn.Module, inputs: Inputs, images: Tensor) -> Tensor:
    """Probabilities of each class.

    Shapes: uint8 (N, H, W) or (N, C, H, W) -> float32 (N, K).
    Raises: ValueError if the model takes other images, or returns an output that is not finite.
    """
    batch = as_input(images, inputs.image_size, inputs.mean, inputs.std)
    try:
        shares = model(batch).softmax(dim=1)
    except RuntimeError as error:
        reason = first_error_line(error)
        shape = list(batch.shape)
        raise ValueError(f"model: expected one that takes {shape}: {reason}") from None
    if not shares.isfinite().all():
        raise ValueError("model: expected finite outputs, found NaN: did its training diverge?")
    return shares


def main(argv: Sequence[str]) -> int:
    """Returns: 0, or 2 if any of the pictures could not be read."""
    parser = command_parser(__name__, __doc__, "latest scans > answers.csv")
    add_network(parser, "source")
    note = "a picture, a folder of pictures, or a table of images"
    parser.add_argument("pictures", metavar="PICTURE", nargs="+", type=path_of, help=note)
    parser.add_argument("--show", action="store_true", help="draw what the network sees")
    options = parser.parse_args(argv)
    as_csv = any(path.is_dir() or is_table(path) for path in options.pictures)
    if as_csv and options.show:
        parser.error("--show: draws single pictures; leave it out for folders and tables")
    model, inputs = load_network(options.source, options.activation, options.pooling)
    table = csv.writer(sys.stdout, lineterminator="\n")
    if as_csv:
        table.writerow(["file", "class", "probability"])
    status = 0
    for path in chain(*map(_expanded, options.pictures)):
        try:
            images, remark = _read(path, inputs)
            answers = [predict(model, inputs, part) for part in images.split(CHUNK)]
        except ValueError as error:
            tell(error)
            status = MISTAKE
            continue
        name, shares = one_line(path), torch.cat(answers)
        if as_csv:
            names = [f"{name}:{row}" for row in range(1, len(images) + 1)]
            table.writerows(_rows([name] if not is_table(path) else names, inputs.classes, shares))
            if remark:
                print(f"Warning: {name}: {remark}", file=sys.stderr)
            continue
        print(_result(name, inputs.classes, shares[0].tolist()))
        if remark:
            print(f"    {remark}")
        if options.show:
            image = images[0]
            print(_drawing(image if image.ndim == 2 else image.float().mean(0).byte()))
    return status


def _expanded(path: Path) -> Sequence[Path]:
    """The pictures in a folder; another path itself.

    Raises: DataError where a folder has none.
    """
    if not path.is_dir():
        return [path]
    if not (found := pictures_below(path)):
        raise DataError(f"{one_line(path)}: expected pictures ({', '.join(PICTURES)}), found none")
    return found


def _read(path: Path, inputs: Inputs) -> tuple[Tensor, str]:
    """Images in the form of the network's set, and what may be wrong with the picture.

    Shapes: -> uint8 (N, H, W) or (N, C, H, W).
    """
    if is_table(path):
        images = read_images(path, inputs.image_size)
        return images, form_of(images).unlike(inputs.form)
    image, remark = read_picture(path, inputs.form, inputs.in_channels)
    return image[None], remark


def _rows(
    names: Sequence[str], classes: Sequence[str], shares: Tensor
) -> Iterator[tuple[str, str, str]]:
    highest, places = (column.tolist() for column in shares.max(dim=1))
    for name, share, place in zip(names, highest, places, strict=True):
        yield name, classes[place], f"{share:.4f}"


def add_network(parser: argparse.ArgumentParser, name: str, nargs: str | None = None) -> None:
    """Adds the arguments of `load_network`."""
    note = f"{RUN_ID}; models:/NAME@ALIAS; or a .pth file"
    parser.add_argument(name, metavar="RUN_ID|WEIGHTS", nargs=nargs, help=note)
    group = parser.add_argument_group("for a .pth file, which does not contain them")
    group.add_argument("--activation", choices=ACTIVATIONS, default="tanh", help="default: tanh")
    group.add_argument("--pooling", choices=POOLINGS, default="avg", help="default: avg")


def _result(name: str, classes: Sequence[str], shares: Sequence[float]) -> str:
    best = max(range(len(shares)), key=shares.__getitem__)
    cells = [f"{c} {100 * share:.1f}" for c, share in zip(classes, shares, strict=True)]
    rows = ["    " + "  ".join(cells[i : i + 10]) for i in range(0, len(cells), 10)]
    return "\n".join([f"{name}: {classes[best]}  ({100 * shares[best]:.1f} %)", *rows])


def _drawing(image: Tensor) -> str:
    shades = " ░▒▓█"
    return "\n".join(
        "    " + "".join(2 * shades[round(v / 255 * 4)] for v in row) for row in image.tolist()
    )
