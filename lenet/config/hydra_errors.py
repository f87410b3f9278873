"""A user's mistakes on the command line and in YAML files, each answered in one line."""

import functools
import itertools
import os
import re
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.main import get_args_parser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lenet.cli import (
    BROKEN_PIPE,
    MISTAKE,
    first_error_line,
    is_interrupted,
    one_line,
    plain,
    shortened,
    tell,
)
from lenet.config.errors import ConfigError, clip, is_own, nearest, no_memory
from lenet.config.help import completions, help_lines
from lenet.config.instead import (
    any_of,
    argument_of,
    instead_of_flag,
    keys_like,
    no_key_and_value,
    wrong_file,
)
from lenet.config.labs import lab_folder

_WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
_FAILURE = 1
# Hydra would read such a run id as a number, and 1234e567 as infinity.
_ID_LIKE_A_NUMBER = re.compile(r"^((?:resume|rerun)=)(?=[0-9a-f]{4,32}$)(\d+(?:e\d+)?)$")

Task = Callable[[DictConfig], Any]


def hydra_main(program: str) -> Callable[[Task], Callable[[], None]]:
    """`hydra.main` for a function that is one run. A user's mistake becomes one line on standard
    error and exit status 2, a failed training one line and status 1.
    `conf/` beside the program holds config.yaml and the config groups.

    With HYDRA_FULL_ERROR=1 in the environment errors keep their traceback.
    """

    conf_folder = Path(program).resolve().parent / "conf"

    def decorate(task: Task) -> Callable[[], None]:
        @functools.wraps(task)
        def one_run(cfg: DictConfig) -> Any:
            with one_line_errors(conf_folder):
                return task(cfg)

        @functools.wraps(task)
        def main() -> None:
            with one_line_errors(conf_folder):
                run_hydra(one_run, conf_folder, sys.argv[1:])

        return main

    return decorate


def run_hydra(task: Task, conf_folder: Path, arguments: Sequence[str]) -> None:
    """`hydra.main` with these arguments instead of the command's.

    Raises: ConfigError for a wrong flag, and what Hydra or the task raises.
    """
    sys.argv[1:], given = _check_arguments(list(arguments), conf_folder)
    if given.help:
        print(*help_lines(conf_folder, given.overrides, given.config_dir), sep="\n")
        return
    if given.shell_completion and (words := completions(os.environ.get("COMP_LINE", ""))):
        print(*words)
        return
    before = os.environ.get("HYDRA_FULL_ERROR", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and prints nothing itself
    try:
        hydra.main(str(conf_folder), "config", version_base="1.3")(task)()
    finally:
        os.environ["HYDRA_FULL_ERROR"] = before


@contextmanager
def one_line_errors(conf_folder: Path) -> Iterator[None]:
    """Ends the process with one line for an error that is a user's mistake or comes from Hydra.
    Others are raised again.
    """
    try:
        yield
        print(end="", flush=True)
    except BrokenPipeError:
        sys.exit(BROKEN_PIPE)
    except Exception as error:
        line = explain(error, conf_folder)
        if _WANTS_TRACEBACK or line is None or is_interrupted():
            raise
        tell(shortened(one_line(line), 500))
        has_failed = no_memory(error) or (isinstance(error, ArithmeticError) and is_own(error))
        sys.exit(_FAILURE if has_failed else MISTAKE)


def _check_arguments(arguments: list[str], conf_folder: Path) -> tuple[list[str], Namespace]:
    """The arguments, with a run id that looks like a number in quotes, and what they mean.
    `-cd sweeps` means the lab's where the current folder has none.

    Raises: ConfigError for a wrong flag, for which Hydra would print its usage.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    given, rest = parser.parse_known_args(arguments)
    if rest:
        raise ConfigError(instead_of_flag(rest[0], arguments, conf_folder))
    if given.experimental_rerun is not None:
        raise ConfigError("--experimental-rerun: not offered, because it would run a pickle")
    arguments = [_ID_LIKE_A_NUMBER.sub(r"\1'\2'", argument) for argument in arguments]
    if given.config_dir == "sweeps" and not Path("sweeps").is_dir():
        arguments += ["-cd", str(lab_folder() / "sweeps")]
    return arguments, given


def _refuse(message: str) -> NoReturn:
    raise ConfigError(plain(message))


def explain(error: BaseException, conf_folder: Path) -> str | None:
    """A user's mistake in one line, or None where the error is something else."""
    if line := no_memory(error):
        return line
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option}: no such option; expected one of {', '.join(error.options)}"
    if isinstance(error, MissingConfigException) and "primary config" in str(error):
        return wrong_file(str(error.missing_cfg_file))
    if isinstance(error, OverrideParseException):
        return no_key_and_value(error.override, conf_folder)
    if unused := re.search(r"No match in the defaults list\.\n.* use \+(.*)", str(error)):
        outer, slash, inner = unused[1].partition("=")[0].rpartition("/")
        what = f"the chosen {outer} has no {inner}; leave it out" if slash else "no such key"
        return f"{unused[1]}: {what}"
    if "Ambiguous value" in str(error):
        argument = str(error).splitlines()[0].partition("'")[2].rstrip("'")
        return (
            f"{argument}: several values are a sweep, which needs -m: python run.py -m {argument}; "
            "a list needs brackets: [1,2]"
        )
    if "An item is already at" in str(error):
        return f"{clip(argument_of('+'))}: this key exists; leave out the +"
    cause = error.__cause__ if isinstance(error, HydraException) else error
    if isinstance(cause, OmegaConfBaseException) and cause.key is not None:
        return _wrong_key(cause)
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}"
    if isinstance(error, ValueError | ArithmeticError) and is_own(error):
        return first_error_line(error)
    return _words_of_hydra(error)


def _wrong_key(error: OmegaConfBaseException) -> str:
    key = str(error.full_key or error.key)
    if not isinstance(error, ConfigKeyError | ConfigAttributeError):
        return f"{key}: {first_error_line(error)}"
    if key.startswith("tags."):
        return f"{key}: to add a tag write +{key}=..."
    group, slash, _ = key.rpartition("/")
    if slash:
        options = OmegaConf.select(error.parent_node, group.replace("/", "."))
        return f"{key}: no such key{nearest(key, [f'{group}/{name}' for name in options or ()])}"
    group = key.partition(".")[0]
    if swept := [a for a in sys.argv[1:] if a.startswith(f"{group}=") and "," in a]:
        return (
            f"{key}: not known before the sweep chooses from {clip(swept[0])}; write "
            f"++{argument_of(key)}"
        )
    is_root = "." not in key and isinstance(error.parent_node, DictConfig)
    if is_root and (meant := keys_like(key, error.parent_node)):
        value = argument_of(key).partition("=")[2]
        return f"{key}: no such key; did you mean {any_of(f'{name}={value}' for name in meant)}?"
    if is_root:
        return f"{key}: no such key; `python run.py --help` lists all keys"
    names = map(str, error.parent_node) if isinstance(error.parent_node, DictConfig) else ()
    return f"{key}: no such key{nearest(str(error.key), names, key.rpartition('.')[0])}"


def _words_of_hydra(error: BaseException) -> str | None:
    """The first line of an error that a call of Hydra or OmegaConf raised, or None for one from
    this package. The command's arguments come first where the line names none of them.
    """
    line = first_error_line(error)
    if not isinstance(error, HydraException):
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        packages = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames]
        below = itertools.takewhile(lambda package: package != "lenet", reversed(packages))
        if {"hydra", "omegaconf"}.isdisjoint(below):
            return None
        line = f"{type(error).__name__}: {error}".strip(": ")
    named = any(argument in line for argument in sys.argv[1:])
    return line if named else f"{clip(' '.join(sys.argv[1:]))}: {line}"
