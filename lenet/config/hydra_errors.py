"""A command's mistakes, each in one line, and found before anything is run or written."""

import contextlib
import difflib
import functools
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, ParamSpec, TypeVar

from hydra import compose
from hydra.conf import HydraConf
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.main import get_args_parser
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from lenet.cli import BROKEN_PIPE, INTERRUPTED, stop_printing
from lenet.config.bounds import ARGUMENT_LENGTH, runs_of, unwatch, watch, watch_anew
from lenet.config.check import (
    ConfigError,
    check,
    clip,
    first_line,
    flatten,
    is_own,
    nearest,
    one_line,
    presentable,
)

TRACEBACK_WANTED = os.environ.get("HYDRA_FULL_ERROR") == "1"
LINE_LENGTH = 500
# What tells a run and Hydra's grammar would take for a number, and give back as another.
ID_LIKE_A_NUMBER = re.compile(r"^((?:resume|rerun)=)(?=[0-9a-f]{4,32}$)(\d+(?:e\d+)?)$")
PLUGINS = "hydra_plugins.lenet"
P = ParamSpec("P")
R = TypeVar("R")
_typed: list[str] = []  # behind `python run.py`, where that is what runs


class Refused(BaseException):
    """Carries an error past Hydra, which goes on after a callback's exception with a warning."""


def answering(conf: Path) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorates a command, and the run that Hydra calls from within it: a user's mistake becomes
    one line on standard error and exit status 2, a training that failed one line and 1, Ctrl-C
    130. `conf` is the folder of the groups.

    With HYDRA_FULL_ERROR=1 in the environment errors keep their traceback.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises, and what is said is said here
    depth: list[str] = []

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def answered(*args: P.args, **kwargs: P.kwargs) -> R:
            composing = not depth
            depth.append(function.__name__)
            try:
                with _composing() if composing else _running():
                    return function(*args, **kwargs)
            except KeyboardInterrupt:
                print("Interrupted.", file=sys.stderr)
                sys.exit(INTERRUPTED)
            except BrokenPipeError:
                stop_printing()
                sys.exit(BROKEN_PIPE)
            except (Exception, Refused) as raised:
                error = raised.__cause__ if isinstance(raised, Refused) else raised
                assert isinstance(error, Exception)
                line = explain(error, conf)
                if line is None and composing and (error is not raised or _of_composing(error)):
                    line = _last_words(error)
                if TRACEBACK_WANTED or line is None:
                    raise
                print(f"error: {_named(line, error)}", file=sys.stderr)
                sys.exit(1 if isinstance(error, ArithmeticError) or no_memory(error) else 2)
            finally:
                depth.pop()

        return answered

    return decorate


@contextlib.contextmanager
def _composing() -> Iterator[None]:
    """Bounds what composing may take, and makes errors of Hydra's warnings."""
    watch()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", module=r"hydra\.")
            yield
    finally:
        unwatch()


@contextlib.contextmanager
def _running() -> Iterator[None]:
    unwatch()
    warnings.filterwarnings("default", module=r"hydra\.")
    yield


def _of_composing(error: BaseException) -> bool:
    """Whether it arose in Hydra, and not in a run, whose errors Hydra keeps and then raises."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    of_hydra = any(str(frame.f_globals.get("__name__")).startswith("hydra.") for frame in frames)
    return of_hydra and not any(frame.f_code.co_name == "return_value" for frame in frames)


def _last_words(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "refers to itself, or is nested too deeply"
    if str(error) and isinstance(error, ValueError | RuntimeError | AssertionError | Warning):
        return one_line(error)
    # An assertion without a message says what it holds only in its source.
    said = str(error) or str(traceback.extract_tb(error.__traceback__)[-1].line)
    return f"{type(error).__name__}: {said}"


def _named(line: str, error: BaseException) -> str:
    """The line with what it is about: the override Hydra had before it, else the whole command."""
    arguments = [argument for argument in _typed if argument]
    for argument in arguments:
        line = line.replace(argument, clip(argument))
    for frame, _ in traceback.walk_tb(error.__traceback__):
        override = frame.f_locals.get("override")
        past = frame.f_code.co_name == "_load_configuration_impl"  # where the loop is over
        if isinstance(override, Override) and not past:
            arguments = [str(override.input_line)]
    keys = [argument.lstrip("+~").partition("=")[0] for argument in arguments]
    names = [key if key[:5] == "hydra" else key.split(".")[0] for key in keys if key[:1] != "-"]
    if not is_own(error) and arguments and not any(name and name in line for name in names):
        line = f"{clip(' '.join(arguments))}: {line}"
    return clip(presentable(line), LINE_LENGTH)


def explain(error: BaseException, conf: Path) -> str | None:
    """A user's mistake in one line, or None where the error is no such thing.

    `conf` is the folder of the groups.
    """
    if line := no_memory(error):
        return line
    if isinstance(error, MissingConfigException):
        return _no_such_option(error, conf)
    cause = error.__cause__
    if isinstance(error, HydraException) and isinstance(cause, OmegaConfBaseException):
        key = str(cause.full_key or cause.key)
        if not isinstance(cause, ConfigKeyError | ConfigAttributeError):
            return f"{key}: {first_line(cause)}"
        if key == "tags" or key.startswith("tags."):
            return f"{key}: to add a tag write +{key}=..."
        if key in _groups(conf):
            return f"{key}: is a group; expected the name of one of its options"
        parent = cause.parent_node
        names = [str(name) for name in parent] if isinstance(parent, DictConfig) else []
        prefix = key.rpartition(".")[0]
        if not prefix:
            names += _groups(conf)
        return f"{key}: no such key{nearest(str(cause.key), names, prefix)}"
    if isinstance(error, OverrideParseException):
        return f"{clip(error.override) or repr('')}: is no KEY=VALUE ({_stuck_at(error)})"
    if isinstance(error, HydraException | OmegaConfBaseException):
        return one_line(error)
    if isinstance(error, ValueError | ArithmeticError) and is_own(error):
        return first_line(error)
    return None


def no_memory(error: BaseException) -> str | None:
    """What is to be said of a lack of memory; torch has its own word for it on each device."""
    words = ("can't allocate memory", "out of memory")
    of_torch = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    if not of_torch and not isinstance(error, MemoryError):
        return None
    size = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
    tried = f" ({size[1]} in one piece)" if size else ""
    return f"out of memory{tried}; a smaller data.batch_size needs less"


def _stuck_at(error: OverrideParseException) -> str:
    said, *more = str(error).splitlines()
    lexer = "LexerNoViableAltException: "
    if said.startswith(lexer):  # the override, and below it a caret
        caret = next(line for line in more if line.strip() == "^")
        rest = error.override[len(caret) - 1 - len(lexer) :]
        return f"it can't be read from {clip(rest, 30)} on; quote what is one text"
    if said.startswith("Error parsing"):
        said = more[-2]  # the last is a link
    return said.split(" expecting ")[0]  # a dozen names of the grammar's


def _no_such_option(error: MissingConfigException, conf: Path) -> str:
    if error.missing_cfg_file is None:
        return one_line(error)
    file = error.missing_cfg_file
    known = [name for name in _groups(conf) if file.startswith(f"{name}/")]
    group, _, option = file.rpartition("/")
    if known:
        group = max(known, key=len)
        option = file[len(group) + 1 :]
    if not group and "primary" in str(error):
        return f"--config-name={option}: no such file in {conf} or the folder given with -cd"
    options = error.options or sorted(path.stem for path in (conf / group).glob("*.yaml") if known)
    if options:
        return f"{group}={option}: no such option; expected one of {', '.join(options)}"
    if str(error).startswith("In '"):  # a defaults list, in the file of that name
        return first_line(error)
    return f"{group}={option}: no such group{nearest(group, _groups(conf))}"


def _groups(conf: Path) -> list[str]:
    folders = [path for path in conf.rglob("*") if path.is_dir()]
    return [path.relative_to(conf).as_posix() for path in folders if any(path.glob("*.yaml"))]


def asked_for(config: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """What the overrides say, as flat keys and values, be it the default or not. To be called
    within `hydra.main`.
    """
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    paths = [path for override in parsed for path in _paths_of(override)]
    defaults = compose(HydraConfig.get().job.config_name, overrides=[])
    default = flatten(OmegaConf.to_container(defaults, resolve=True))  # type: ignore[arg-type]
    return {
        key: value
        for key, value in flatten(config).items()
        if key not in ("resume", "rerun")
        and (
            any(key == path or key.startswith(f"{path}.") for path in paths)
            or key not in default
            or default[key] != value
        )
    }


def _paths_of(override: Override) -> list[str]:
    """What an override sets: a key, all of a group or, of an experiment, what its file says."""
    group, value = override.key_or_group, override.value()
    options: list[Any] = value if isinstance(value, list) else [value]
    repository = GlobalHydra.instance().config_loader().repository  # type: ignore[attr-defined]
    paths = [group.replace("/", ".")]
    for option in options:
        found = repository.load_config(f"{group}/{option}") if isinstance(option, str) else None
        if found and found.header.get("package") == "_global_":
            own: Any = OmegaConf.to_container(found.config, resolve=False)
            chosen = [entry.group for entry in found.defaults_list or [] if hasattr(entry, "group")]
            paths += [*flatten(own), *(name.lstrip("/").replace("/", ".") for name in chosen)]
    return paths


# ---- Before Hydra, and between Hydra and the run ---------------------------------------------


def reading(command: Callable[[], R]) -> Callable[[], R]:
    """Decorates Hydra's command: flags and lengths are looked at first, and answered in one line
    where Hydra would print its usage, or nothing.
    """

    @functools.wraps(command)
    def read() -> R:
        sys.argv[1:] = [ID_LIKE_A_NUMBER.sub(r"\1'\2'", argument) for argument in sys.argv[1:]]
        _typed[:] = sys.argv[1:]
        parser = get_args_parser()
        parser.error = _refuse  # type: ignore[method-assign]
        flags = [flag for action in parser._actions for flag in action.option_strings]
        for argument in _typed:
            flag, _, value = argument.partition("=")
            known = [name for name in flags if name == flag or (flag[2:] and name.startswith(flag))]
            if flag[:1] == "-" and not known:
                close = difflib.get_close_matches(flag, flags, n=1)
                means = f"{flag.lstrip('-')}={value}" if value else "".join(close)
                hint = f"did you mean {means}?" if means else "--hydra-help lists them"
                raise ConfigError(f"{clip(argument)}: no such flag; {hint}")
        given, rest = parser.parse_known_args()
        if rest:
            raise ConfigError(f"{rest[0]}: stands behind a flag; write -m first, say, or last")
        for argument in given.overrides:
            if len(argument) > ARGUMENT_LENGTH:
                raise ConfigError(f"{argument}: has more than {ARGUMENT_LENGTH:,} characters")
        if given.experimental_rerun is not None:
            raise ConfigError("--experimental-rerun: not offered, as it runs what it unpickles")
        if given.cfg and given.package:
            return _package_of(given.package, command)
        return command()

    return read


def _package_of(package: str, command: Callable[[], R]) -> R:
    """Hydra says of an unknown package that it is one, and ends with a status of its own."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            return command()
        except SystemExit:
            raise ConfigError(f"--package={package}: {said.getvalue()}") from None


def _refuse(message: str) -> NoReturn:
    raise ConfigError(message)


class Guard(Callback):
    """Holds all that a command is going to run against `check` before Hydra runs any of it.

    Without it a run is checked when Hydra has made its folders, and the second run of a sweep when
    the first is over.
    """

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _refusing():
            checked(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _refusing():
            if str(config.hydra.sweeper._target_).startswith(f"{PLUGINS}."):
                return  # they check their runs themselves
            # A sampler's runs are known one at a time; each is checked when it begins.
            if str(config.hydra.sweeper._target_).endswith(".BasicSweeper"):
                _check_sweep(config)
        unwatch()


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise Refused from error


def checked(config: DictConfig) -> dict[str, Any]:
    """What Hydra would call the run with. Raises: ConfigError."""
    with read_write(config), open_dict(config):
        config.hydra.runtime.output_dir = str(Path.cwd())
        config.hydra.job.id, config.hydra.job.num = "0", 0
    HydraConfig.instance().set_config(config)
    return check(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))


def _check_sweep(config: DictConfig) -> None:
    sweeper, name = config.hydra.sweeper, config.hydra.job.config_name
    size = sweeper.max_batch_size
    if size is not None and size < 1:
        raise ConfigError(f"hydra.sweeper.max_batch_size={size}: should be 1 or more")
    # As they were typed: an interpolation is for each run to resolve.
    typed: Any = OmegaConf.to_container(config.hydra.overrides, resolve=False)
    params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    for run in runs_of(parser.parse_overrides([*params, *typed["task"]])):
        watch_anew()
        checked(compose(name, [*typed["hydra"], *run], return_hydra_config=True))


# In the schema of Hydra's own settings, so that a main file of one's own has it as well.
GUARD = {"guard": {"_target_": f"{__name__}.{Guard.__name__}"}}
ConfigStore.instance().store("config", HydraConf(callbacks=GUARD), group="hydra", provider="hydra")
