"""Write a run's network as an ONNX file, for other programs.

The batch axis has any length. onnxruntime then runs the file on the run's test set, and its scores
are compared with PyTorch's.
"""

import contextlib
import importlib.util
import json
import os
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lenet.cli import add_run_id, add_uri, check_file, command_parser, one_line, path_of
from lenet.data.inputs import Inputs

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
OPSET = 18
TOLERANCE = 1e-3  # of the largest score; float32 sums in another order differ by 1e-6 of it


@dataclass(frozen=True)
class Check:
    """The file's scores compared with torch's: the largest difference, the largest score, and the
    number of images with different classes.
    """

    images: int
    difference: float
    largest: float
    other_classes: int

    @property
    def passed(self) -> bool:
        return self.difference <= TOLERANCE * max(1.0, self.largest)


def to_onnx(model: nn.Module, inputs: Inputs, path: Path) -> None:
    """Writes the network with a batch axis of any length. The file's metadata holds `classes`,
    `mean`, `std` and `image_size`: an image is pixels from 0 to 1, less mean, divided by std.

    Shapes: `images` float32 (N, in_channels, image_size, image_size) -> `scores` float32 (N, K).
    Raises: ValueError if packages are missing, or torch cannot write the network; OSError. An older
    file at that path is then unchanged.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"onnx: needs {', '.join(missing)}: pip install -e '.[onnx]'")
    import onnx

    model.eval()
    example = torch.zeros(2, inputs.in_channels, inputs.image_size, inputs.image_size)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")  # torch's exporter warns about its own parts
            program = torch.onnx.export(
                model,
                (example,),
                input_names=["images"],
                output_names=["scores"],
                dynamic_shapes=({0: torch.export.Dim("N")},),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        assert program
        proto = program.model_proto
        about = {name: getattr(inputs, name) for name in ("classes", "mean", "std", "image_size")}
        onnx.helper.set_model_props(proto, {k: json.dumps(v) for k, v in about.items()})
        onnx.checker.check_model(proto)
    except Exception as error:  # torch's exporter raises many kinds
        raise ValueError(f"onnx: torch can't write this network ({one_line(error)})") from None
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        onnx.save(proto, str(part))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@torch.no_grad()
def check_onnx(path: Path, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Check:
    """Compares the file, run by onnxruntime, with the network.

    Raises: ValueError if onnxruntime cannot run it.
    """
    import onnxruntime

    try:
        # As bytes: the name of the file need not be UTF-8.
        content, providers = path.read_bytes(), ["CPUExecutionProvider"]
        session = onnxruntime.InferenceSession(content, providers=providers)
        pairs = [(session.run(None, {"images": x.numpy()})[0], model(x)) for x, _ in batches]
    except Exception as error:  # onnxruntime has its own kinds
        raise ValueError(f"{path}: onnxruntime can't run it ({one_line(error)})") from None
    theirs = np.concatenate([scores for scores, _ in pairs])
    ours = torch.cat([scores for _, scores in pairs]).numpy()
    return Check(
        images=len(ours),
        difference=float(np.abs(theirs - ours).max()),
        largest=float(np.abs(ours).max()),
        other_classes=int((theirs.argmax(1) != ours.argmax(1)).sum()),
    )


# ---- The command -----------------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    parser = command_parser(__name__, __doc__, "latest --onnx lenet5.onnx")
    add_run_id(parser)
    note = "the file to write"
    parser.add_argument("--onnx", metavar="FILE", type=path_of, required=True, help=note)
    add_uri(parser)
    parser.add_argument("--no-check", action="store_true", help="do not run it on the test set")
    options = parser.parse_args(argv)
    check_file(options.onnx)
    print(export(options.run_id, options.uri, options.onnx, not options.no_check))
    return 0


def export(run_id: str, uri: str | None, path: Path, check: bool) -> str:
    from lenet.tracking.read import resolve_run
    from lenet.tracking.trained import load_data, load_trained

    run_id = resolve_run(run_id, uri)
    model, inputs = load_trained(run_id, uri)
    data = load_data(run_id, uri) if check else None
    to_onnx(model, inputs, path)
    size = f"{path.stat().st_size / 1000:,.0f} kB"
    shape = f"(N, {inputs.in_channels}, {inputs.image_size}, {inputs.image_size})"
    scores = f"(N, {len(inputs.classes)})"
    written = f"{one_line(path)} ({size}): images float32 {shape} -> scores float32 {scores}"
    if data is None:
        return written
    found = check_onnx(path, model, data.test)
    comparison = (
        f"onnxruntime on {found.images:,} test images: scores within {found.difference:.1e} of "
        f"torch's, {found.other_classes} classes differ"
    )
    if not found.passed:
        raise ValueError(
            f"{path}: {comparison}; expected within {TOLERANCE:g} of {found.largest:.3g}"
        )
    return f"{written}\n{comparison}"
