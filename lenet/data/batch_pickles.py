"""CIFAR's python batches: pickles, read without running anything that they name."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class _Type:
    """In place of numpy.dtype: the name alone."""

    def __init__(self, name: str, *options: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        """The byte order: bytes have none."""


class _Bytes:
    """In place of an array: its content and shape. Pickles of numpy describe it in two ways."""

    def __init__(self, content: Any = b"", dtype: Any = None, shape: Any = (), order: Any = "C"):
        self.content, self.dtype, self.shape = content, dtype, shape

    def __setstate__(self, state: Any) -> None:
        _, self.shape, self.dtype, _, self.content = state

    def array(self) -> NDArray[np.uint8]:
        if not isinstance(self.dtype, _Type) or self.dtype.name not in ("u1", "uint8"):
            raise ValueError("expected an array of bytes")
        content = self.content
        content = content.encode("latin1") if isinstance(content, str) else content
        return np.frombuffer(content, np.uint8).reshape(self.shape)


def _encoded(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


def _empty(*arguments: Any) -> _Bytes:
    return _Bytes()


# All that a batch may name. Numpy's own functions are not among them: a made-up state of a dtype
# makes numpy read memory that is not its own.
STAND_INS: dict[str, Any] = {"numpy.dtype": _Type, "numpy.ndarray": _Bytes}
STAND_INS |= {"_codecs.encode": _encoded}
for _core in ("core", "_core"):
    STAND_INS[f"numpy.{_core}.multiarray._reconstruct"] = _empty
    STAND_INS[f"numpy.{_core}.numeric._frombuffer"] = _Bytes


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return STAND_INS[f"{module}.{name}"]
        except KeyError:
            raise ValueError(f"it needs {module}.{name}; nothing of it was run") from None


def read_batch(path: Path) -> dict[str, Any]:
    """The dictionary of a batch, with arrays of bytes.

    Raises: ValueError, or another error of unpickling, where the file is anything else.
    """
    with path.open("rb") as file:
        found = _Unpickler(file, encoding="latin1").load()
    if not isinstance(found, dict):
        raise ValueError(f"expected a dictionary, found {type(found).__name__}")
    named = {k.decode() if isinstance(k, bytes) else k: v for k, v in found.items()}
    return {k: v.array() if isinstance(v, _Bytes) else v for k, v in named.items()}
