"""Reads a PyTorch state dict into NumPy arrays, without PyTorch.

This module reads both formats of `torch.save`, which `torch/serialization.py` defines:

* since 1.6 a zip file (`_save`): `<archive>/data.pkl` pickles the dict with a persistent id for
  each storage, and `<archive>/data/<key>` contains the storage's bytes, uncompressed;
* before that a stream (`_legacy_save`): four pickles (magic number, protocol version, system, the
  dict), a fifth with the keys of the storages, then for each key an int64 count and the elements.

A checkpoint may come from anyone. So `pickles` interprets its pickles, which runs nothing, and no
tensor is allocated before all sizes are checked. `zipfile` also trusts sizes and takes 500 bytes of
memory for a directory entry of 46 bytes, so the zip directory is read here.
"""

import enum
import io
import os
import struct
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from srvp_fd_jax.files import open_file, printable
from srvp_fd_jax.pickles import are_counts, interpret

__all__ = ["check_arrays", "check_written_out", "read_state_dict"]

# Largest pickle or zip directory in bytes, which bounds memory and time: a byte of pickle makes at
# most one object of up to 80 bytes. A tensor takes some 100 bytes of pickle and 60 of directory.
_TABLE_LIMIT = 1 << 20
_HEAD_LIMIT = 1 << 10  # for the magic number, the version and the system, at most 150 bytes
_MAX_DIMS = 64  # limit of PyTorch and of NumPy
_MAX_PROBLEMS = 20  # most problems of the same kind that an error message lists
_FLOATS = ("float16", "bfloat16", "float32", "float64")  # types that are converted to float32
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class _Function(enum.Enum):
    ORDERED_DICT = "collections.OrderedDict"
    PARAMETER = "torch._utils._rebuild_parameter"
    TENSOR = "torch._utils._rebuild_tensor"
    TENSOR_V2 = "torch._utils._rebuild_tensor_v2"
    TENSOR_V3 = "torch._utils._rebuild_tensor_v3"


# Newer types have no storage class (`_new_dtypes` in `torch/storage.py`): their tensors name an
# untyped storage and the type. Types without a counterpart in NumPy or ml_dtypes are left out.
_NAMES: dict[str, _Function | np.dtype[Any]] = {
    **{function.value: function for function in _Function},
    "torch.DoubleStorage": np.dtype("<f8"),
    "torch.FloatStorage": np.dtype("<f4"),
    "torch.HalfStorage": np.dtype("<f2"),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.LongStorage": np.dtype("<i8"),
    "torch.IntStorage": np.dtype("<i4"),
    "torch.ShortStorage": np.dtype("<i2"),
    "torch.CharStorage": np.dtype("i1"),
    "torch.ByteStorage": np.dtype("u1"),
    "torch.BoolStorage": np.dtype("?"),
    "torch.ComplexDoubleStorage": np.dtype("<c16"),
    "torch.ComplexFloatStorage": np.dtype("<c8"),
    "torch.storage.UntypedStorage": np.dtype("u1"),
    **{f"torch.{name}": np.dtype(name) for name in ("uint16", "uint32", "uint64")},
    "torch.float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "torch.float8_e4m3fnuz": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "torch.float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "torch.float8_e5m2fnuz": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "torch.float8_e8m0fnu": np.dtype(ml_dtypes.float8_e8m0fnu),
}


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]
    nbytes: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    dtype: np.dtype[Any]
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads the state dict that `torch.save(module.state_dict(), path)` wrote.

    No code from the file is run. `requires_grad`, hooks, devices and the `_metadata` of the dict
    are ignored.

    Args:
        path: Path of the checkpoint, in the zip format or the older stream format.

    Returns:
        The tensors by name in the order of the file, as read-only arrays. Tensors that share a
        storage share memory. If all names have the prefix `module.` of `torch.nn.DataParallel`, it
        is removed. bfloat16 and float8 arrays have the types of `ml_dtypes`.

    Raises:
        OSError: If the file is missing or cannot be read.
        ValueError: If the file is not a checkpoint, is damaged, contains anything but dense tensors
            by name, or is not supported: sparse or quantised tensors, tensors with a conj or neg
            bit, complex32, big-endian files, and zip files of 4 GiB or more.
    """
    with open_file(path) as file:
        try:
            tensors, contents = _read(file)
            prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
            return {
                name.removeprefix(prefix): _array(tensor, contents[tensor.storage.key])
                for name, tensor in tensors.items()
            }
        except ValueError as problem:
            raise ValueError(f"{os.fspath(path)}: {problem!s:.400}") from problem


def check_arrays(arrays: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Raises a `ValueError` unless arrays have the expected names and shapes and are `_FLOATS`."""
    unexpected = [f"unexpected {printable(name, 100)}" for name in arrays if name not in expected]
    problems = []
    for name, shape in expected.items():
        if name not in arrays:
            problems.append(f"missing {name}")
        elif arrays[name].shape != shape:
            problems.append(f"{name} has shape {arrays[name].shape}, expected {shape}")
        elif arrays[name].dtype.name not in _FLOATS:
            allowed = ", ".join(_FLOATS)
            problems.append(f"{name} has dtype {arrays[name].dtype}, allowed are {allowed}")
    if unexpected or problems:
        raise ValueError("; ".join([*_first(unexpected), *_first(problems)]))


def check_written_out(arrays: Iterable[np.ndarray], path: str | os.PathLike[str]) -> None:
    """Raises a `ValueError` if copies of the arrays need more memory than the file has bytes.

    Expanded tensors and tensors with overlapping elements can have any size in a file of a few
    bytes. No network has such weights.
    """
    needed, size = sum(array.nbytes for array in arrays), os.path.getsize(path)
    if needed > size:
        raise ValueError(
            f"its tensors take {needed} bytes when written out, the file has {size}: expanded or "
            "overlapping tensors cannot be weights"
        )


def _read(file: io.BufferedIOBase) -> tuple[dict[str, _Tensor], dict[str, bytes]]:
    """The tensors by name, and the storages by key."""
    file_size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(8)
    file.seek(0)
    if head.startswith(b"PK\3\4"):
        return _read_zip(file, file_size)
    if head.startswith(b"\x80"):
        return _read_stream(file, file_size)
    came = f"begins with {head!r}" if head else "is empty"
    raise ValueError(f"not a PyTorch checkpoint: it {came}, unlike a zip file or a pickle")


def _read_zip(
    file: io.BufferedIOBase, file_size: int
) -> tuple[dict[str, _Tensor], dict[str, bytes]]:
    directory = _directory(file, file_size)
    # PyTorch < 2.0 wrote no such entry; like `torch.load`, we then assume little-endian.
    if "byteorder" in directory:
        order = _entry(file, directory, "byteorder", file_size)
        if order != b"little":
            raise ValueError(f"its byte order is {order!r:.40}; only b'little' is read")
    tensors = _tensors(_unpickle(io.BytesIO(_entry(file, directory, "data.pkl", file_size))))
    return tensors, {
        key: _entry(file, directory, f"data/{key}", storage.nbytes)
        for key, storage in _storages(tensors, file_size).items()
    }


def _directory(file: io.BufferedIOBase, file_size: int) -> dict[str, tuple[int, ...]]:
    """Method, CRC, two sizes and offset of each entry (PKWARE's APPNOTE.TXT, 4.3.12 and 4.3.16)."""
    if file_size >= 0xFFFFFFFF:
        raise ValueError(f"a zip file of {file_size} bytes; only those below 4 GiB are read")
    file.seek(max(0, file_size - 22))
    end = file.read()
    if not end.startswith(b"PK\5\6"):
        raise ValueError("a zip file that does not close with its directory, so it is cut short")
    length, start = struct.unpack_from("<II", end, 12)
    if length > _TABLE_LIMIT or start + length > file_size:
        raise ValueError(f"a zip file with a directory of {length} bytes, or outside the file")
    file.seek(start)
    table = file.read(length)
    directory, at = {}, 0
    while at != length:
        if table[at : at + 4] != b"PK\1\2" or at + 46 > length:
            raise ValueError("the zip file's directory is damaged")
        *entry, name, extra, comment, offset = struct.unpack_from("<10xH4x3I3H8xI", table, at)
        path = table[at + 46 : at + 46 + name].decode(errors="replace")
        directory[path.partition("/")[2]] = (*entry, offset)
        at += 46 + name + extra + comment
    return directory


def _entry(
    file: io.BufferedIOBase, directory: dict[str, tuple[int, ...]], name: str, limit: int
) -> bytes:
    if name not in directory:
        raise ValueError(f"a zip file without the entry {name!r:.80} in its folder")
    method, crc, packed, length, offset = directory[name]
    if method != 0 or packed != length:
        raise ValueError(f"the zip entry {name!r:.80} is compressed; torch.save only stores")
    if length > limit:
        raise ValueError(f"the zip entry {name!r:.80} claims {length} bytes; allowed are {limit}")
    file.seek(offset)
    header = file.read(30).ljust(30)
    file.seek(sum(struct.unpack_from("<HH", header, 26)), os.SEEK_CUR)
    content = file.read(length)
    # torch.serialization.set_crc32_options(False) writes zeros instead of the checksums.
    if not header.startswith(b"PK\3\4") or (crc and zlib.crc32(content) != crc):
        raise ValueError(f"the zip entry {name!r:.80} is damaged or cut short")
    return content


def _read_stream(
    file: io.BufferedIOBase, file_size: int
) -> tuple[dict[str, _Tensor], dict[str, bytes]]:
    if _unpickle(file, _HEAD_LIMIT) != _MAGIC or _unpickle(file, _HEAD_LIMIT) != _PROTOCOL:
        raise ValueError("a pickle without the magic number and version that torch.save puts first")
    system = _unpickle(file, _HEAD_LIMIT)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("a stream not from a little-endian machine; only those are read")
    tensors = _tensors(_unpickle(file))
    storages = _storages(tensors, file_size)
    keys, contents = _unpickle(file), {}
    # The types are checked first, because hashing a deeply nested tuple overflows the C stack.
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError(f"the list of storages is {_kind(keys)}; allowed is a list of strings")
    if len(keys) != len(storages) or set(keys) != storages.keys():
        raise ValueError("the list of storages differs from those that the tensors use")
    for key in keys:
        nbytes = storages[key].dtype.itemsize * int.from_bytes(file.read(8), "little", signed=True)
        if nbytes != storages[key].nbytes:
            raise ValueError(f"a storage has {nbytes} bytes; allowed are {storages[key].nbytes}")
        contents[key] = file.read(nbytes)
    return tensors, contents


def _tensors(state: object) -> dict[str, _Tensor]:
    if not isinstance(state, dict):
        raise ValueError(f"holds {_kind(state)}; allowed is a dict of tensors by name")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, _Tensor):
            came = f"the {_kind(key)} {key!r:.80} holds {_kind(value)}"
            raise ValueError(f"{came}; a state dict has tensors under strings")
    return state


def _storages(tensors: dict[str, _Tensor], file_size: int) -> dict[str, _Storage]:
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    claimed = sum(storage.nbytes for storage in storages.values())
    if claimed > file_size:
        raise ValueError(f"its storages claim {claimed} bytes; the file has only {file_size}")
    return storages


def _array(tensor: _Tensor, content: bytes) -> np.ndarray:
    if len(content) != tensor.storage.nbytes:
        came = f"the storage {tensor.storage.key!r:.80} has {len(content)} bytes"
        raise ValueError(f"{came}; its tensors need {tensor.storage.nbytes}")
    if 0 in tensor.size:
        return np.ndarray(tensor.size, tensor.dtype, content)
    # The stride of an axis with one element is arbitrary, and in bytes it may exceed 64 bits.
    steps = [s if n > 1 else 0 for n, s in zip(tensor.size, tensor.stride, strict=True)]
    offset, *strides = (n * tensor.dtype.itemsize for n in (tensor.offset, *steps))
    return np.ndarray(tensor.size, tensor.dtype, content, offset, strides)


def _unpickle(file: io.BufferedIOBase, limit: int | None = None) -> object:
    """Interprets the pickle at the position of the file, which it moves to the pickle's end."""
    start = file.tell()
    window = io.BytesIO(file.read(limit or _TABLE_LIMIT))
    what = "dense tensors of types that NumPy or ml_dtypes has"
    # The states of optimisers, which may be saved beside a state dict, have ints as keys.
    value = interpret(window, what, _NAMES, _make, (str, int))
    file.seek(start + window.tell())
    return value


def _make(opcode: str, *operands: Any) -> dict[str, Any] | _Storage | _Tensor:
    """Describes what PyTorch would make (`torch/_utils.py` defines its functions)."""
    match opcode, *operands:
        case "REDUCE", _Function.ORDERED_DICT, ():
            return {}
        case "BUILD", dict() as state, _:
            return state  # without the _metadata of an OrderedDict
        # In the stream format there is a sixth item for views of storages, always None.
        case "BINPERSID", ("storage", dtype, key, _, n) | ("storage", dtype, key, _, n, None):
            if isinstance(dtype, np.dtype) and isinstance(key, str) and are_counts(n):
                return _Storage(key, dtype, n * dtype.itemsize)
        case "REDUCE", _Function.PARAMETER, (_Tensor() as tensor, _, _):
            return tensor
        case "REDUCE", _Function.TENSOR, (_Storage() as storage, offset, size, stride):
            return _tensor(storage, storage.dtype, offset, size, stride)
        case "REDUCE", _Function.TENSOR_V2, (_Storage() as storage, offset, size, stride, _, _):
            return _tensor(storage, storage.dtype, offset, size, stride)
        case "REDUCE", _Function.TENSOR_V3, (_Storage() as storage, offset, size, stride, _, _, t):
            if isinstance(t, np.dtype):
                return _tensor(storage, t, offset, size, stride)
        case "REDUCE", _Function.TENSOR_V2, (_, _, _, _, _, _, dict()):
            raise ValueError("a tensor has its conj or neg bit set; only resolved ones are read")
    raise ValueError(f"it has a {opcode} that torch.save does not write for a dense tensor")


def _tensor(
    storage: _Storage, dtype: np.dtype[Any], offset: Any, size: Any, stride: Any
) -> _Tensor:
    tuples = isinstance(size, tuple) and isinstance(stride, tuple)
    if not tuples or not len(size) == len(stride) <= _MAX_DIMS:
        raise ValueError(f"a tensor's size and stride are not tuples of up to {_MAX_DIMS} numbers")
    if not are_counts(offset, *size, *stride):
        raise ValueError("a tensor's size, stride or offset has an item that is not a count")
    end = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1
    if 0 not in size and end * dtype.itemsize > storage.nbytes:
        came = f"a tensor of type {dtype}, size {size}, stride {stride} and offset {offset}"
        raise ValueError(f"{came} does not lie inside its storage of {storage.nbytes} bytes")
    return _Tensor(storage, dtype, offset, size, stride)


def _first(problems: list[str]) -> list[str]:
    more = len(problems) - _MAX_PROBLEMS
    return [*problems[:_MAX_PROBLEMS], f"and {more} more"] if more > 0 else problems


def _kind(value: object) -> str:
    return type(value).__name__.removeprefix("_")
