"""The commands: `python -m lenet COMMAND`, or `lenet COMMAND` after an installation."""

import ast
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from lenet.cli import MISTAKE, RUN_ID, answer, start

FOLDER = Path(__file__).parent / "commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns: its exit status; 2 after a mistake, printed as one line."""
    if argv is None:
        start()
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    return answer(lambda: run_command(name, arguments))


def run_command(name: str, arguments: Sequence[str]) -> int | None:
    """Returns: the command's exit status; None means 0."""
    commands = find_commands()
    if name in commands:
        status: int | None = import_module(f"lenet.commands.{name}").main(arguments)
        return status
    if name not in ("--help", "-h"):
        print(f"error: {name}: expected one of {', '.join(commands)}", file=sys.stderr)
        return MISTAKE
    print("usage: python -m lenet COMMAND ...   (--help after a COMMAND shows its options)\n")
    for command, path in commands.items():
        print(f"  {command:<10} {first_line(path)}")
    print(f"\nA RUN_ID is {RUN_ID}.\nTo train: python run.py --help")
    return 0


def find_commands() -> dict[str, Path]:
    """Each command's module by its name: a file or a folder in lenet/commands/."""
    files = [path for path in FOLDER.glob("*.py") if path.stem != "__init__"]
    folders = FOLDER.glob("*/__init__.py")
    named = {path.stem: path for path in files} | {path.parent.name: path for path in folders}
    return dict(sorted(named.items()))


def first_line(path: Path) -> str:
    """The first line of a module's docstring; the module is not imported, which takes seconds."""
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return doc.partition("\n")[0]


if __name__ == "__main__":
    sys.exit(main())
