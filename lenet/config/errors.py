"""A wrong configuration, and the words that every message about one is made of."""

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A configuration that can't be run: one line with the key, the value and what is accepted."""


def is_own(error: BaseException) -> bool:
    """Whether this package raised it: its errors name the key or the file, those of torch don't."""
    return type(error).__module__.startswith("lenet.")


def clip(text: str, width: int = 80) -> str:
    """A text that fits into a line: the middle of a long one is left out."""
    return text if len(text) <= width else f"{text[: width // 2]} ... {text[-width // 4 :]}"


def nearest(key: str, names: Iterable[str], prefix: str = "") -> str:
    """The end of a message `no such key`: the name that was probably meant, or all names."""
    dotted = f"{prefix}." if prefix else ""
    names = sorted({name for name in names if not name.startswith("_")})
    if close := difflib.get_close_matches(key, names, n=1):
        return f"; did you mean {dotted}{close[0]}?"
    return f"; there are {', '.join(dotted + name for name in names)}" if names else ""


def no_memory(error: BaseException) -> str | None:
    """A line about missing memory, or None for another error. Torch raises its own error types."""
    words = ("can't allocate memory", "out of memory")
    of_torch = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    if of_torch or isinstance(error, MemoryError):
        return "out of memory; a smaller data.batch_size needs less"
    return None
