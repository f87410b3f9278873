"""Write a page that shows a run's LeNet-5 at work on one test image, for learners.

It shows every layer, with the arithmetic of one of its numbers. The page is one file; it loads
nothing from the internet.
"""

from collections.abc import Sequence

from lenet.cli import add_data_folder, add_run_id, add_uri, command_parser, one_line, path_of


def main(argv: Sequence[str]) -> int:
    parser = command_parser(__name__, __doc__, "latest --image 7 --output explain.html")
    add_run_id(parser)
    note = "number of the test image (default: %(default)s, the first)"
    parser.add_argument("--image", type=int, default=0, metavar="N", help=note)
    note = "the page (default: %(default)s)"
    parser.add_argument("--output", type=path_of, default="explain.html", metavar="FILE", help=note)
    add_uri(parser)
    add_data_folder(parser)
    options = parser.parse_args(argv)

    from lenet.commands.explain.page import page
    from lenet.commands.explain.steps import explain
    from lenet.tracking.read import resolve_run
    from lenet.tracking.trained import load_data, load_trained

    run_id, index = resolve_run(options.run_id, options.uri), options.image
    data = load_data(run_id, options.uri, options.data)
    model, inputs = load_trained(run_id, options.uri)
    if not 0 <= index < data.test.count:
        raise ValueError(f"--image {index}: expected 0 to {data.test.count - 1}")
    label = inputs.classes[data.test.labels[index]]
    steps = explain(model, data.test.inputs[index])
    about = f"Test image {index} of {data.name}; run {run_id}"
    options.output.write_text(page(steps, label, inputs, about), encoding="utf-8")
    print(f"{one_line(options.output)}: the numbers calculated by hand equal the network's")
    return 0
