"""The commands. `python -m lenet`"""

import sys

from lenet.cli import RUN_ID

COMMANDS = {
    "run.py": "train, test, log one run; with -m a sweep",
    "-m lenet.data.sets NAME": "fetch or verify a data set",
    "-m lenet.commands.predict RUN_ID PICTURE": "read digits from pictures",
    "-m lenet.commands.demo RUN_ID": "a page to draw on, where the network is seen at work",
    "-m lenet.training.evaluate RUN_ID": "test a run's network on test sets made worse",
    "-m lenet.commands.export RUN_ID --onnx FILE": "write a run's network as ONNX",
    "-m lenet.commands.explain RUN_ID": "a page that shows a run's LeNet-5 at work, for learners",
    "-m lenet.tracking.compare RUN_ID RUN_ID": "hold two runs side by side",
    "-m lenet.report.report RUN_ID": "the verdict on a sweep",
    "-m lenet.tracking.sender": "send what the tracking server has not taken yet",
    "-m lenet.commands.benchmark": "how fast LeNet-5 trains on this machine",
}


def main() -> int:
    width = max(map(len, COMMANDS))
    print("Commands; each has --help, with an example:\n")
    for command, what in COMMANDS.items():
        print(f"  python {command:<{width}}  {what}")
    print(f"\nRUN_ID is {RUN_ID}. The runs: mlflow ui")
    return 0


if __name__ == "__main__":
    sys.exit(main())
