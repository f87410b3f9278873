"""A user's mistakes on the command line and in YAML files, each answered in one line."""

import difflib
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
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lenet.cli import BROKEN_PIPE, INTERRUPTED, MISTAKE, first_error_line, one_line, stop_printing
from lenet.config.errors import ConfigError, clip, is_own, nearest, no_memory

_WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
_FAILURE = 1
# Hydra would read such a run id as a number, and 1234e567 as infinity.
_ID_LIKE_A_NUMBER = re.compile(r"^((?:resume|rerun)=)(?=[0-9a-f]{4,32}$)(\d+(?:e\d+)?)$")

Task = Callable[[DictConfig], Any]


def hydra_main(conf_folder: Path) -> Callable[[Task], Callable[[], None]]:
    """`hydra.main` for a function that is one run. A user's mistake becomes one line on standard
    error and exit status 2, a failed training one line and status 1, Ctrl-C status 130.
    `conf_folder` holds config.yaml and the config groups.

    With HYDRA_FULL_ERROR=1 in the environment errors keep their traceback.
    """

    def decorate(task: Task) -> Callable[[], None]:
        @functools.wraps(task)
        def one_run(cfg: DictConfig) -> Any:
            with one_line_errors(conf_folder):
                return task(cfg)

        command = hydra.main(str(conf_folder), "config", version_base="1.3")(one_run)

        @functools.wraps(one_run)
        def main() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and prints nothing itself
            with one_line_errors(conf_folder):
                sys.argv[1:] = _check_arguments(sys.argv[1:])
                command()

        return main

    return decorate


@contextmanager
def one_line_errors(conf_folder: Path) -> Iterator[None]:
    """Ends the process with one line for an error that is a user's mistake or comes from Hydra.
    Others are raised again.
    """
    try:
        yield
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        stop_printing()
        sys.exit(BROKEN_PIPE)
    except Exception as error:
        line = explain(error, conf_folder)
        if line is None and _is_from_hydra(error):
            line = _with_arguments(f"{type(error).__name__}: {error}".strip(": "))
        if _WANTS_TRACEBACK or line is None:
            raise
        print(f"error: {one_line(clip(line, 500))}", file=sys.stderr)
        sys.exit(_FAILURE if isinstance(error, ArithmeticError) or no_memory(error) else MISTAKE)


def _with_arguments(line: str) -> str:
    """Hydra's line, with the arguments before it where it names none of them."""
    named = any(argument in line for argument in sys.argv[1:])
    return line if named else f"{clip(' '.join(sys.argv[1:]))}: {line}"


def _is_from_hydra(error: Exception) -> bool:
    """Whether a call of Hydra or OmegaConf raised it, and not code of this package."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    packages = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame in frames]
    below = itertools.takewhile(lambda package: package != "lenet", reversed(packages))
    return not {"hydra", "omegaconf"}.isdisjoint(below)


def _check_arguments(arguments: list[str]) -> list[str]:
    """The arguments, with a run id that looks like a number in quotes.

    Raises: ConfigError for a wrong flag, for which Hydra would print its usage.
    """
    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    given, rest = parser.parse_known_args(arguments)
    if rest and rest[0].startswith("-"):
        flag, _, value = rest[0].partition("=")
        flags = [each for action in parser._actions for each in action.option_strings]
        close = difflib.get_close_matches(flag, flags, n=1)
        close = [f"{flag.lstrip('-')}={value}"] if value else close
        hint = f"did you mean {close[0]}?" if close else "--hydra-help lists all flags"
        raise ConfigError(f"{clip(rest[0])}: no such flag; {hint}")
    if rest:
        raise ConfigError(f"{clip(rest[0])}: comes after a flag; write -m first")
    if given.experimental_rerun is not None:
        raise ConfigError("--experimental-rerun: not offered, because it would run a pickle")
    return [_ID_LIKE_A_NUMBER.sub(r"\1'\2'", argument) for argument in arguments]


def _refuse(message: str) -> NoReturn:
    raise ConfigError(message)


def explain(error: BaseException, conf_folder: Path) -> str | None:
    """A user's mistake in one line, or None where the error is something else."""
    if line := no_memory(error):
        return line
    if isinstance(error, MissingConfigException):
        return _no_such_option(error, conf_folder)
    if isinstance(error, OverrideParseException):
        return (
            f"{clip(error.override) or repr('')}: expected KEY=VALUE; a value with special "
            "characters needs quotes of its own, as in 'note=\"a (b)\"'"
        )
    if "Ambiguous value" in str(error):
        argument = str(error).splitlines()[0].partition("'")[2].rstrip("'")
        key, _, values = argument.partition("=")
        return f"{argument}: several values need -m, for a sweep; a list is {key}=[{values}]"
    if isinstance(error, HydraException) and isinstance(error.__cause__, OmegaConfBaseException):
        return _wrong_key(error.__cause__, conf_folder)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return _with_arguments(first_error_line(error))
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}"
    if isinstance(error, ValueError | ArithmeticError) and is_own(error):
        return first_error_line(error)
    return None


def _wrong_key(error: OmegaConfBaseException, conf_folder: Path) -> str:
    key = str(error.full_key or error.key)
    if not isinstance(error, ConfigKeyError | ConfigAttributeError):
        return f"{key}: {first_error_line(error)}"
    if key == "tags" or key.startswith("tags."):
        return f"{key}: to add a tag write +{key}=..."
    groups = _groups(conf_folder)
    if key in groups:
        return f"{key}: is a group; expected the name of one of its options"
    parent = error.parent_node
    names = [str(name) for name in parent] if isinstance(parent, DictConfig) else []
    prefix = key.rpartition(".")[0]
    names += [] if prefix else groups
    return f"{key}: no such key{nearest(str(error.key), names, prefix)}"


def _no_such_option(error: MissingConfigException, conf_folder: Path) -> str:
    file = error.missing_cfg_file
    if file is None:
        return first_error_line(error)
    groups = _groups(conf_folder)
    group = max((name for name in groups if file.startswith(f"{name}/")), key=len, default="")
    option = file.removeprefix(f"{group}/")
    if not group:
        group, _, option = file.rpartition("/")
    if not group and "primary" in str(error):
        return f"--config-name={option}: no such file in {conf_folder} or in the folder after -cd"
    known = sorted(path.stem for path in (conf_folder / group).glob("*.yaml") if group in groups)
    if options := error.options or known:
        return f"{group}={option}: no such option; expected one of {', '.join(options)}"
    if str(error).startswith("In '"):  # the file whose defaults list has the name
        return first_error_line(error)
    return f"{group}={option}: no such group{nearest(group, groups)}"


def _groups(conf_folder: Path) -> list[str]:
    folders = {path.parent for path in conf_folder.rglob("*.yaml")} - {conf_folder}
    return sorted(path.relative_to(conf_folder).as_posix() for path in folders)
