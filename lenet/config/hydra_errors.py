"""A user's mistakes on the command line and in YAML files, each answered in one line."""

import functools
import itertools
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import hydra
import yaml
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.main import get_args_parser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lenet.cli import BROKEN_PIPE, MISTAKE, first_error_line, is_interrupted, one_line, shortened
from lenet.config.errors import ConfigError, clip, is_own, nearest, no_memory

_WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
_FAILURE = 1
# Hydra would read such a run id as a number, and 1234e567 as infinity.
_ID_LIKE_A_NUMBER = re.compile(r"^((?:resume|rerun)=)(?=[0-9a-f]{4,32}$)(\d+(?:e\d+)?)$")

Task = Callable[[DictConfig], Any]


def hydra_main(conf_folder: Path) -> Callable[[Task], Callable[[], None]]:
    """`hydra.main` for a function that is one run. A user's mistake becomes one line on standard
    error and exit status 2, a failed training one line and status 1.
    `conf_folder` holds config.yaml and the config groups.

    With HYDRA_FULL_ERROR=1 in the environment errors keep their traceback.
    """

    def decorate(task: Task) -> Callable[[], None]:
        @functools.wraps(task)
        def one_run(cfg: DictConfig) -> Any:
            with one_line_errors():
                return task(cfg)

        command = hydra.main(str(conf_folder), "config", version_base="1.3")(one_run)

        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and prints nothing itself
            with one_line_errors():
                sys.argv[1:] = _check_arguments(sys.argv[1:])
                command()

        return main

    return decorate


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Ends the process with one line for an error that is a user's mistake or comes from Hydra.
    Others are raised again.
    """
    try:
        yield
        print(end="", flush=True)
    except BrokenPipeError:
        sys.exit(BROKEN_PIPE)
    except Exception as error:
        line = explain(error)
        if _WANTS_TRACEBACK or line is None or is_interrupted():
            raise
        print(f"error: {shortened(one_line(line), 500)}", file=sys.stderr)
        has_failed = no_memory(error) or (isinstance(error, ArithmeticError) and is_own(error))
        sys.exit(_FAILURE if has_failed else MISTAKE)


def _check_arguments(arguments: list[str]) -> list[str]:
    """The arguments, with a run id that looks like a number in quotes.

    Raises: ConfigError for a wrong flag, for which Hydra would print its usage.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    given, rest = parser.parse_known_args(arguments)
    if rest:
        raise ConfigError(
            f"{clip(rest[0])}: no such flag, or it comes after one; write KEY=VALUE without "
            "dashes, and -m first"
        )
    if given.experimental_rerun is not None:
        raise ConfigError("--experimental-rerun: not offered, because it would run a pickle")
    return [_ID_LIKE_A_NUMBER.sub(r"\1'\2'", argument) for argument in arguments]


def _refuse(message: str) -> NoReturn:
    raise ConfigError(message)


def explain(error: BaseException) -> str | None:
    """A user's mistake in one line, or None where the error is something else."""
    if line := no_memory(error):
        return line
    if isinstance(error, MissingConfigException) and error.options:
        group, _, option = str(error.missing_cfg_file).rpartition("/")
        return f"{group}={option}: no such option; expected one of {', '.join(error.options)}"
    if isinstance(error, OverrideParseException):
        return (
            f"{clip(error.override) or repr('')}: expected KEY=VALUE; a value with special "
            "characters needs quotes of its own, as in 'note=\"a (b)\"'"
        )
    if unused := re.search(r"No match in the defaults list\.\n.* use \+(.*)", str(error)):
        outer, slash, inner = unused[1].partition("=")[0].rpartition("/")
        what = f"the chosen {outer} has no {inner}; leave it out" if slash else "no such key"
        return f"{unused[1]}: {what}"
    if "Ambiguous value" in str(error):
        argument = str(error).splitlines()[0].partition("'")[2].rstrip("'")
        return f"{argument}: several values need -m, for a sweep; a list needs brackets: [1,2]"
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
