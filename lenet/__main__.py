"""`python -m lenet COMMAND`, after an installation also `lenet COMMAND`."""

import sys
from importlib import import_module

from lenet.cli import MISTAKE, RUN_ID

COMMANDS = {
    "data": ("NAME", "fetch or verify a data set"),
    "predict": ("RUN_ID PICTURE", "read digits from pictures"),
    "demo": ("RUN_ID", "a page to draw on, where the network is seen at work"),
    "evaluate": ("RUN_ID", "test a run's network on test sets made worse"),
    "export": ("RUN_ID --onnx FILE", "write a run's network as ONNX"),
    "explain": ("RUN_ID", "a page that shows a run's LeNet-5 at work, for learners"),
    "diff": ("RUN_ID RUN_ID", "hold two runs side by side"),
    "report": ("RUN_ID", "the verdict on a sweep"),
    "send": ("", "send what the tracking server has not taken yet"),
    "benchmark": ("", "how fast LeNet-5 trains on this machine"),
}
HOME = {  # until each has its file in lenet/commands
    "data": "data.sets",
    "predict": "commands.predict",
    "demo": "commands.demo.__main__",
    "evaluate": "commands.robustness",
    "export": "commands.export",
    "explain": "commands.explain",
    "diff": "tracking.compare",
    "report": "report.report",
    "send": "tracking.sender",
    "benchmark": "commands.benchmark.__main__",
}


def main() -> int:
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in COMMANDS:
        run = import_module(f"lenet.{HOME[command]}").main
        return int(run(sys.argv[2:]))
    if command not in ("--help", "-h"):
        print(f"error: {command}: expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        return MISTAKE
    lines = {f"{name} {arguments}": what for name, (arguments, what) in COMMANDS.items()}
    width = max(map(len, lines))
    print("Commands; each has --help, with an example:\n")
    for line, what in lines.items():
        print(f"  python -m lenet {line:<{width}}  {what}")
    print(f"\nRUN_ID is {RUN_ID}. The runs: mlflow ui. To train: python run.py --help")
    return 0


if __name__ == "__main__":
    sys.exit(main())
