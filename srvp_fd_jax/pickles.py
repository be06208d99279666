"""Interprets pickles without running anything from them, and reads pickles of NumPy arrays.

A pickle can run code, and a file may come from anyone. So this module never imports or calls what a
pickle names. `interpret` knows the opcodes that `pickle.dump` writes under protocols 2 to 5 for
dicts, lists, tuples, numbers, text and bytes, and raises an error for every other one. What a name
stands for, and what the opcodes make that would call something, is up to the reader: `read_pickle`
here, and `checkpoint` for PyTorch. `pickle.Unpickler` with a closed `find_class` would not be
enough: it allocates what the opcodes claim, such as a memo of gigabytes for one flipped bit in
LONG_BINPUT, and calls NumPy with any arguments. Here an array is a view of the bytes in the file,
whose number is checked, so a claimed shape takes no memory.
"""

import enum
import io
import math
import pickletools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["are_counts", "interpret", "read_pickle"]

# Most opcodes of a pickle, which bounds memory and time: an opcode makes at most one object of some
# 100 bytes besides the bytes in the file. I3D's 231 arrays take 7,500.
_MOST_OPCODES = 1 << 20
# Fewest bytes of pickle per REDUCE. Checking a tensor takes 100 µs, and with memoised arguments
# five bytes ask for one. NumPy writes at least 25 bytes per array, and torch.save at least 60 bytes
# with two REDUCEs per tensor.
_BYTES_A_REDUCE = 16
_MOST_DIMS = 64  # limit of NumPy

_MARK = object()
_CONSTANTS = {"MARK": _MARK, "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_POPS = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2, "REDUCE": 2, "BUILD": 2}
_POPS |= {"STACK_GLOBAL": 2, "BINPERSID": 1, "STOP": 1}
_POPS_TO_MARK = {"TUPLE", "APPENDS", "SETITEMS"}
_MEMO = {"BINPUT", "LONG_BINPUT", "MEMOIZE", "BINGET", "LONG_BINGET"}
_OTHERS = {"PROTO", "FRAME", "GLOBAL", "EMPTY_LIST", "EMPTY_DICT"}
_KNOWN = {*_CONSTANTS, *_LITERALS, *_POPS, *_POPS_TO_MARK, *_MEMO, *_OTHERS}


def _read_name(window: io.BytesIO) -> str:
    # The reader of pickletools would interpret backslashes and warn of invalid escapes.
    return ".".join(window.readline().decode().removesuffix("\n") for _ in range(2))


_OPCODES: dict[bytes, tuple[str, Any]] = {  # names, and readers of the arguments or None
    opcode.code.encode("latin-1"): (opcode.name, opcode.arg and opcode.arg.reader)
    for opcode in pickletools.opcodes
    if opcode.name in _KNOWN
} | {b"c": ("GLOBAL", _read_name)}


def interpret(
    window: io.BytesIO,
    what: str,
    names: Mapping[str, Any],
    make: Callable[..., Any],
    keys: tuple[type, ...] = (str,),
) -> Any:
    """Interprets the pickle at the position of `window`, which it moves to the pickle's end.

    Args:
        window: The bytes that the pickle may take.
        what: What the pickle should contain, for messages.
        names: What the global names stand for that the pickle may have.
        make: Gives what takes the place of an opcode: `make("REDUCE", function, arguments)`,
            `make("BUILD", object, state)` and `make("BINPERSID", identity)`. They may be anything
            that a pickle can have, and `make` raises a `ValueError` for what it does not know.
        keys: Types that the keys of dicts may have. Integers may have up to 31 bits.

    Raises:
        ValueError: If the pickle is damaged, or contains anything else.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    built: dict[int, tuple[Any, Any]] = {}  # by identity an object, and what BUILD made of it
    reduces = 0
    try:
        for _ in range(_MOST_OPCODES):
            if (code := window.read(1)) not in _OPCODES:
                came = f"the opcode {code!r}" if code else f"no end in {window.tell()} bytes"
                raise ValueError(f"it has {came}")
            name, read = _OPCODES[code]
            argument = read and read(window)
            popped = _pop(stack, None if name in _POPS_TO_MARK else _POPS.get(name, 0))
            match name:
                case "STOP":
                    return popped[0]
                case "GLOBAL" | "STACK_GLOBAL" if all(isinstance(part, str) for part in popped):
                    full = argument or ".".join(popped)
                    if full not in names:
                        raise ValueError(f"it asks for {full!r:.80}")
                    stack.append(names[full])
                case "REDUCE" | "BUILD" | "BINPERSID":
                    reduces += name == "REDUCE"
                    if reduces * _BYTES_A_REDUCE > (size := window.tell()):
                        raise ValueError(f"it asks for {reduces} objects in {size} bytes")
                    stack.append(make(name, *popped))
                    if name == "BUILD":
                        built[id(popped[0])] = popped[0], stack[-1]
                case "BINPUT" | "LONG_BINPUT" | "MEMOIZE":
                    memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    item = memo[argument]
                    stack.append(built.get(id(item), (item, item))[1])
                case "SETITEM" | "SETITEMS" if isinstance(stack[-1], dict) and len(popped) % 2 == 0:
                    # Hashing a deeply nested tuple overflows the C stack, and large integers can be
                    # chosen to collide, which makes a dict quadratic.
                    for key in popped[::2]:
                        is_large = isinstance(key, int) and key.bit_length() > 31
                        if is_large or not isinstance(key, keys):
                            raise ValueError(f"a dict has a key of type {type(key).__name__}")
                    stack[-1].update(zip(popped[::2], popped[1::2], strict=True))
                case _:
                    _execute(name, argument, popped, stack)
        raise ValueError(f"it has more than {_MOST_OPCODES} opcodes")
    except (ValueError, IndexError, KeyError) as problem:  # an empty stack, an unset memo
        why = problem if isinstance(problem, ValueError) else repr(problem)
        raise ValueError(f"damaged, or not a pickle of {what}: {why}") from problem


def _pop(stack: list[Any], count: int | None) -> tuple[Any, ...]:
    """Pops the last `count` objects of the stack, or for None those above the mark."""
    if count is not None:
        return tuple([stack.pop() for _ in range(count)][::-1])
    items: list[Any] = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return tuple(items[::-1])


def _execute(name: str, argument: Any, popped: tuple[Any, ...], stack: list[Any]) -> None:
    """Runs one of the opcodes that only move objects."""
    match name:
        case "PROTO" | "FRAME":
            pass
        case _ if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        case _ if name in _LITERALS:
            stack.append(argument)
        case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack.append(popped)
        case "EMPTY_LIST":
            stack.append([])
        case "EMPTY_DICT":
            stack.append({})
        case "APPEND" | "APPENDS" if isinstance(stack[-1], list):
            stack[-1].extend(popped)
        case _:
            raise ValueError(f"it has the opcode {name} out of place")


class _Global(enum.Enum):
    ARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    RECONSTRUCT = "numpy._core.multiarray._reconstruct"
    FROM_BUFFER = "numpy._core.numeric._frombuffer"  # of protocol 5


_TYPES = re.compile("b1|[iu][1248]|f[248]")
_NAMES = {
    **{known.value: known for known in _Global},
    **{known.value.replace("._core.", ".core."): known for known in _Global},  # of NumPy 1
}


def read_pickle(data: bytes) -> Any:
    """Reads a pickle of dicts with text as keys, lists, tuples, numbers, text, bytes and arrays.

    Args:
        data: The pickle, under protocol 3, 4 or 5. Bytes after its end are ignored.

    Returns:
        What was pickled. Arrays of bool, int or float may be read-only, and they may share memory.

    Raises:
        ValueError: If the pickle is damaged, or contains anything else.
    """
    return interpret(io.BytesIO(data), "arrays of bool, int or float by name", _NAMES, _make)


def _make(opcode: str, *operands: Any) -> Any:
    """Does what NumPy would do to unpickle an array or a dtype."""
    match opcode, *operands:
        case "REDUCE", _Global.DTYPE, (str(name), False, True) if _TYPES.fullmatch(name):
            return np.dtype(name, copy=True)
        case "BUILD", np.dtype() as t, (3, "<" | ">" | "|" as order, None, None, None, -1, -1, 0):
            return t.newbyteorder(order)
        case "REDUCE", _Global.RECONSTRUCT, (_Global.ARRAY, (0,), b"b"):
            return np.empty(0, np.int8)
        case "BUILD", np.ndarray(), (1, shape, np.dtype() as dtype, bool(is_fortran), content):
            return _array(content, dtype, shape, "F" if is_fortran else "C")
        case "REDUCE", _Global.FROM_BUFFER, (content, np.dtype() as dtype, shape, order):
            return _array(content, dtype, shape, order)
    raise ValueError("it has an object that is not an array of bool, int or float")


def _array(content: Any, dtype: np.dtype[Any], shape: Any, order: Any) -> np.ndarray:
    if not isinstance(content, bytes | bytearray):
        raise ValueError("it has an array whose content is not bytes")
    is_shape = isinstance(shape, tuple) and len(shape) <= _MOST_DIMS and are_counts(*shape)
    if not is_shape or order not in ("C", "F"):
        raise ValueError("it has an array whose shape or order is not valid")
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(
            f"it has an array of shape {shape} and type {dtype} in {len(content)} bytes"
        )
    return np.ndarray(shape, dtype, content, order=order)


def are_counts(*values: object) -> bool:
    """Whether values are ints from 0 to 2⁶³ − 1. Multiplying larger ones can take long."""
    return all(type(value) is int and 0 <= value < 1 << 63 for value in values)
