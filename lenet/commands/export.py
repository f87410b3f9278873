"""Write a run's network as an ONNX file, for other programs.

The batch axis has any length. onnxruntime then runs the file on the run's test set, and its scores
are compared with PyTorch's.
"""

import contextlib
import json
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lenet.cli import add_data_folder, add_run_id, add_uri, command_parser, one_line, path_of
from lenet.data.inputs import Inputs

OPSET = 18
TOLERANCE = 1e-3  # of the largest score; float32 sums in another order differ by 1e-6 of it


def main(argv: Sequence[str]) -> int:
    parser = command_parser(__name__, __doc__, "latest --onnx lenet5.onnx")
    add_run_id(parser)
    note = "the file to write"
    parser.add_argument("--onnx", metavar="FILE", type=path_of, required=True, help=note)
    add_uri(parser)
    add_data_folder(parser)
    parser.add_argument("--no-check", action="store_true", help="do not run it on the test set")
    options = parser.parse_args(argv)

    from lenet.tracking.read import resolve_run
    from lenet.tracking.trained import load_data, load_trained

    path, uri = options.onnx, options.uri
    run_id = resolve_run(options.run_id, uri)
    model, inputs = load_trained(run_id, uri)
    to_onnx(model, inputs, path)
    shape = f"(N, {inputs.in_channels}, {inputs.image_size}, {inputs.image_size})"
    written = f"{one_line(path)} ({path.stat().st_size / 1000:,.0f} kB): images float32 {shape}"
    print(f"{written} -> scores float32 (N, {len(inputs.classes)})")
    if not options.no_check:
        print(check_onnx(path, model, load_data(run_id, uri, options.data).test))
    return 0


def to_onnx(model: nn.Module, inputs: Inputs, path: Path) -> None:
    """Writes the network with a batch axis of any length. The file's metadata are the network's
    `Inputs`: an image is pixels from 0 to 1, less mean, divided by std.

    Shapes: `images` float32 (N, in_channels, image_size, image_size) -> `scores` float32 (N, K).
    Raises: ValueError if packages are missing, or torch cannot write the network; OSError.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(f"onnx: needs {error.name}: pip install -e '.[onnx]'") from None
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
    except Exception as error:  # torch's exporter raises many kinds
        raise ValueError(f"onnx: torch can't write this network ({one_line(error)})") from None
    assert program
    about = inputs.to_values()
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {k: json.dumps(v) for k, v in about.items()})
    path.write_bytes(proto.SerializeToString())


@torch.no_grad()
def check_onnx(path: Path, model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> str:
    """Compares the file, run by onnxruntime, with the network. Returns: the result, to print.

    Raises: ValueError if the scores differ by more than rounding.
    """
    import onnxruntime

    # As bytes: the name of the file need not be UTF-8.
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    pairs = [(session.run(None, {"images": x.numpy()})[0], model(x)) for x, _ in batches]
    theirs = torch.cat([torch.from_numpy(scores) for scores, _ in pairs])
    ours = torch.cat([scores for _, scores in pairs])
    difference, largest = float((theirs - ours).abs().max()), float(ours.abs().max())
    other = int((theirs.argmax(1) != ours.argmax(1)).sum())
    result = (
        f"onnxruntime on {len(ours):,} test images: scores within {difference:.1e} of "
        f"torch's, {other} classes differ"
    )
    if not difference <= TOLERANCE * max(1.0, largest):  # nan is refused too
        raise ValueError(f"{path}: {result}; expected within {TOLERANCE:g} of {largest:.3g}")
    return result
