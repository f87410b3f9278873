"""Write a page that shows a run's LeNet-5 at work on one test image, for learners.

It shows every layer, with the arithmetic of one of its numbers. The page is one file; it loads
nothing from the internet.
"""

from collections.abc import Sequence
from pathlib import Path

from lenet.cli import add_run_id, add_uri, check_file, command_parser, one_line, path_of


def main(argv: Sequence[str]) -> int:
    parser = command_parser(__name__, __doc__, "latest --image 7 --output explain.html")
    add_run_id(parser)
    note = "number of the test image (default: %(default)s, the first)"
    parser.add_argument("--image", type=int, default=0, metavar="N", help=note)
    note = "the page (default: %(default)s)"
    default = Path("explain.html")
    parser.add_argument("--output", type=path_of, default=default, metavar="FILE", help=note)
    add_uri(parser)
    options = parser.parse_args(argv)
    check_file(options.output)

    from lenet.commands.explain.page import page
    from lenet.commands.explain.steps import explain
    from lenet.tracking.read import resolve_run
    from lenet.tracking.trained import load_data, load_trained

    run_id, index = resolve_run(options.run_id, options.uri), options.image
    data = load_data(run_id, options.uri)
    model, inputs = load_trained(run_id, options.uri)
    if not 0 <= index < data.test.count:
        raise ValueError(f"--image {index}: expected 0 to {data.test.count - 1}")
    image, label = data.test.inputs[index], int(data.test.labels[index])
    explanation = explain(model, image, label, inputs)
    options.output.write_text(page(explanation), encoding="utf-8")
    print(f"{one_line(options.output)}: the numbers calculated by hand equal the network's")
    return 0
