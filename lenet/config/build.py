"""Builds the parts of a run from a checked configuration."""

from collections.abc import Callable, Mapping
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate

from lenet.cli import first_error_line
from lenet.config.errors import ConfigError, is_own


def build(config: Mapping[str, Any], group: str, *args: Any, **kwargs: Any) -> Any:
    """The object of a group. A `_partial_` target is called with `args` and `kwargs`, which only
    the run knows.

    Raises: ConfigError where the target refuses its arguments.
    """
    node = config[group]
    for key in kwargs.keys() & node.keys():
        raise ConfigError(
            f"{group}.{key}={node[key]}: follows from the data or the run; leave it out"
        )
    try:
        part = instantiate(node)
        return part(*args, **kwargs) if node.get("_partial_") else part
    except InstantiationException as error:
        if not isinstance(error.__cause__, ValueError | TypeError):
            raise
        raise ConfigError(_about(group, error.__cause__)) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(_about(group, error)) from error


def try_out(group: str, part: Callable[..., Any], *args: Any) -> Any:
    """What the part returns for these arguments. A network whose layers don't fit together fails
    here first.

    Raises: ConfigError where the call fails.
    """
    try:
        return part(*args)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(_about(group, error)) from error


def _about(group: str, error: BaseException) -> str:
    line = first_error_line(error)
    return line if is_own(error) else f"{group}: {line}"
