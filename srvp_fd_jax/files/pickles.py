"""Reads pickles without running anything from them, and pickles of NumPy arrays.

A pickle can run code, and a file may come from anyone. So a name in a pickle stands for what a
table says, a type or a function that only checks and describes its arguments, and every other name
is an error.
"""

import io
import pickle
import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from srvp_fd_jax.files.atomic import printable

__all__ = ["Unpickler", "are_counts", "read_pickle"]

# Most reads of opcodes and arguments, which bounds memory and time: an opcode makes at most one
# object of some 100 bytes besides the bytes in the file. I3D's 231 arrays take 15,000.
_MOST_READS = 1 << 21

_PYTHONS: Any = pickle._Unpickler
_OPCODES = (
    *("PROTO", "STOP", "MARK", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BINPERSID"),
    *("NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"),
    *("BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"),
)
_KNOWN = {code: _PYTHONS.dispatch[code] for code in (getattr(pickle, name)[0] for name in _OPCODES)}


class _Window(io.BytesIO):
    reads = 0

    def read(self, size: int | None = -1) -> bytes:
        self.reads += 1
        if self.reads > _MOST_READS:
            raise ValueError(f"more than {_MOST_READS} opcodes and arguments")
        return super().read(size)


def _reason(error: Exception) -> str:
    match error:
        case ValueError():
            return str(error)
        case KeyError():
            return f"it has the opcode {bytes(error.args)!r}"
        case EOFError():
            return "it has no end"
    return repr(error)


class Unpickler(_PYTHONS):  # type: ignore[misc]
    """Reads dicts, lists, tuples, numbers, text, bytes and what the names in a table make.

    Of the two unpicklers in `pickle` it is the one in Python, which allocates what is in the file.
    That in C allocates what the file claims: a memo of gigabytes for one flipped bit in
    LONG_BINPUT. Keys of dicts must be text or ints of up to 31 bits, since hashing a deeply nested
    tuple overflows the C stack, and large ints that collide make a dict quadratic.

    Attributes:
        what: What a pickle should contain, for messages.
        names: What the global names stand for that a pickle may have.
        end: Number of bytes that the pickle takes, once it is loaded.
    """

    what: ClassVar[str]
    names: ClassVar[Mapping[str, Any]]

    def __init__(self, data: bytes):
        """Takes the bytes that the pickle may take."""
        self._window = _Window(data)
        super().__init__(self._window, encoding="utf-8")

    def load(self) -> Any:
        """Reads the pickle.

        Raises:
            ValueError: If it is damaged, or contains anything else.
        """
        try:
            value = super().load()
        except Exception as error:  # of any type, as the documentation of pickle says
            why = printable(_reason(error), 200)
            raise ValueError(f"damaged, or not a pickle of {self.what}: {why}") from error
        self.end = self._window.tell()
        return value

    def build(self, made: Any, state: Any) -> None:
        """Takes in what BUILD gives an object; an error by default."""
        raise ValueError("an object has a state")

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name."""
        if (full := f"{module}.{name}") not in self.names:
            raise ValueError(f"it asks for {full!r:.80}")
        return self.names[full]

    def _load_build(self) -> None:
        state = self.stack.pop()
        self.build(self.stack[-1], state)

    def _load_setitem(self) -> None:
        value = self.stack.pop()
        self._set_items([self.stack.pop(), value])

    def _load_setitems(self) -> None:
        self._set_items(self.pop_mark())

    def _set_items(self, items: list[Any]) -> None:
        for key in items[::2]:
            if not isinstance(key, str) and not (are_counts(key) and key < 1 << 31):
                raise ValueError(f"a dict has a key of type {type(key).__name__}")
        if type(self.stack[-1]) is not dict:
            raise ValueError("items of what is not a dict")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    dispatch: ClassVar[dict[int, Callable[[Any], Any]]] = {
        **_KNOWN,
        pickle.FRAME[0]: lambda self: self.read(8),
        # That of a bytearray would allocate the length that is claimed.
        pickle.BYTEARRAY8[0]: _PYTHONS.load_binbytes8,
        pickle.BUILD[0]: _load_build,
        pickle.SETITEM[0]: _load_setitem,
        pickle.SETITEMS[0]: _load_setitems,
    }


_TYPES = re.compile("b1|[iu][1248]|f[248]")


def _dtype(name: Any, align: Any, copy: Any) -> np.dtype[Any]:
    if not _TYPES.fullmatch(name):
        raise ValueError("it has an array of another type than bool, int or float")
    return np.dtype(name, copy=True)  # a copy, since BUILD changes it


def _reconstruct(subtype: Any, shape: Any, dtype: Any) -> np.ndarray:
    return np.empty(0, np.int8)  # until BUILD says what it is


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(content, bytes) or not isinstance(dtype, np.dtype):
        raise ValueError("it has an array whose content is not bytes")
    return np.frombuffer(content, dtype).reshape(shape, order=order)


class _OfArrays(Unpickler):
    what = "arrays of bool, int or float by name"
    names: ClassVar[Mapping[str, Any]] = {
        "numpy.ndarray": None,  # an argument of `_reconstruct`
        "numpy.dtype": _dtype,
        "numpy.core.multiarray._reconstruct": _reconstruct,
        "numpy._core.multiarray._reconstruct": _reconstruct,
        "numpy._core.numeric._frombuffer": _from_buffer,  # of protocol 5
        "numpy.core.numeric._frombuffer": _from_buffer,
    }

    def build(self, made: Any, state: Any) -> None:
        match made, state:
            case np.dtype(), (3, "<" | "|", None, None, None, -1, -1, 0):
                pass
            case np.ndarray(), (1, _, np.dtype(), bool(), bytes()):
                pass  # NumPy compares the shape with the bytes, which it keeps as they are
            case _:
                raise ValueError("it has an object that is not an array of bool, int or float")
        made.__setstate__(state)


def read_pickle(data: bytes) -> Any:
    """Reads a pickle of dicts, lists, tuples, numbers, text, bytes and arrays.

    Args:
        data: The pickle, under protocol 3 to 5. Bytes after its end are ignored.

    Returns:
        What was pickled. Arrays are of bool, int or float, and may be read-only.

    Raises:
        ValueError: If the pickle is damaged, or contains anything else.
    """
    return _OfArrays(data).load()


def are_counts(*values: object) -> bool:
    """Whether values are ints from 0 to 2⁶³ − 1. Multiplying larger ones can take long."""
    return all(type(value) is int and 0 <= value < 1 << 63 for value in values)
