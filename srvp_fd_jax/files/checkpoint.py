"""Reads a PyTorch state dict into NumPy arrays, without PyTorch.

This module reads both formats of `torch.save`, which `torch/serialization.py` defines:

* since 1.6 a zip file (`_save`): `<archive>/data.pkl` pickles the dict with a persistent id for
  each storage, and `<archive>/data/<key>` contains the storage's bytes, uncompressed;
* before that a stream (`_legacy_save`): four pickles (magic number, protocol version, system, the
  dict), a fifth with the keys of the storages, then for each key an int64 count and the elements.

A checkpoint may come from anyone. So `pickles` reads its pickles, which runs nothing, and no tensor
is allocated before all sizes are checked.
"""

import errno
import io
import os
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from srvp_fd_jax.files.atomic import open_file, printable
from srvp_fd_jax.files.pickles import Unpickler, are_counts

__all__ = ["check_arrays", "check_written_out", "read_state_dict"]

# Largest pickle in bytes, which bounds memory and time: a byte of pickle makes at most one object
# of up to 80 bytes. A tensor takes some 100 bytes of pickle.
_TABLE_LIMIT = 1 << 20
_HEAD_LIMIT = 1 << 10  # for the magic number, the version and the system, at most 150 bytes
_MAX_DIMS = 64  # limit of PyTorch and of NumPy
_MAX_PROBLEMS = 20  # most problems of the same kind that an error message lists
_FLOATS = ("float16", "bfloat16", "float32", "float64")  # types that are converted to float32
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


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
            bit, complex32, and big-endian files.
    """
    with open_file(path) as file:
        try:
            tensors, contents = _read(file)
            prefix = "module." if all(name.startswith("module.") for name in tensors) else ""
            return {
                name.removeprefix(prefix): _array(tensor, contents[tensor.storage.key])
                for name, tensor in tensors.items()
            }
        except (ValueError, EOFError, RuntimeError, OSError, zipfile.BadZipFile) as problem:
            if isinstance(problem, OSError) and problem.errno != errno.EINVAL:
                raise  # unlike that of a damaged offset
            text = printable(str(problem) or repr(problem), 400)
            raise ValueError(f"{os.fspath(path)}: {text}") from problem


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
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}

        def read(name: str, limit: int) -> bytes:
            if name not in entries:
                raise ValueError(f"a zip file without the entry {name!r:.80} in its folder")
            info = entries[name]
            if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
                raise ValueError(
                    f"the zip entry {name!r:.80} is compressed; torch.save only stores"
                )
            if (size := info.file_size) > limit:
                raise ValueError(f"the zip entry {name!r:.80} claims {size} bytes of {limit}")
            if not info.CRC:  # torch.serialization.set_crc32_options(False) leaves checksums out
                del info.CRC
            return archive.read(info)

        # PyTorch < 2.0 wrote no such entry; like `torch.load`, we then assume little-endian.
        if "byteorder" in entries and (order := read("byteorder", 80)) != b"little":
            raise ValueError(f"its byte order is {order!r}; only b'little' is read")
        pickled = read("data.pkl", min(_TABLE_LIMIT, file_size))
        tensors = _tensors(_Unpickler(pickled).load())
        return tensors, {
            key: read(f"data/{key}", storage.nbytes)
            for key, storage in _storages(tensors, file_size).items()
        }


def _read_stream(
    file: io.BufferedIOBase, file_size: int
) -> tuple[dict[str, _Tensor], dict[str, bytes]]:
    if _next(file, _HEAD_LIMIT) != _MAGIC or _next(file, _HEAD_LIMIT) != _PROTOCOL:
        raise ValueError("a pickle without the magic number and version that torch.save puts first")
    system = _next(file, _HEAD_LIMIT)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("a stream not from a little-endian machine; only those are read")
    tensors = _tensors(_next(file))
    storages = _storages(tensors, file_size)
    keys, contents = _next(file), {}
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


def _next(file: io.BufferedIOBase, limit: int | None = None) -> Any:
    """Reads the pickle at the position of the file, which it moves to the pickle's end."""
    start = file.tell()
    unpickler = _Unpickler(file.read(limit or _TABLE_LIMIT))
    value = unpickler.load()
    file.seek(start + unpickler.end)
    return value


def _tensors(state: Any) -> dict[str, _Tensor]:
    if isinstance(state, list) and all(map(_is_pair, state)):  # an OrderedDict of Python 2
        state = dict(state)
    if not isinstance(state, dict):
        raise ValueError(f"holds {_kind(state)}; allowed is a dict of tensors by name")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, _Tensor):
            came = f"the {_kind(key)} {key!r:.80} holds {_kind(value)}"
            raise ValueError(f"{came}; a state dict has tensors under strings")
    return state


def _is_pair(item: object) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)


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


# What stands for the functions of PyTorch (`torch/_utils.py`), with their arguments.


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError("a tensor's storage is not one")
    dtype = storage.dtype if dtype is None else dtype
    if not isinstance(dtype, np.dtype):
        raise ValueError("a tensor's type is not one")
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


def _tensor_v2(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    metadata: Any = None,
) -> _Tensor:
    if metadata:
        raise ValueError("a tensor has its conj or neg bit set; only resolved ones are read")
    return _tensor(storage, offset, size, stride)


def _tensor_v3(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
) -> _Tensor:
    return _tensor(storage, offset, size, stride, dtype)


def _parameter(data: Any, requires_grad: Any, hooks: Any) -> Any:
    return data


def _ordered_dict(pairs: Any = None) -> Any:
    """An empty dict, or the list of pairs that Python 2 writes."""
    return {} if pairs is None else pairs


class _Unpickler(Unpickler):
    what = "dense tensors of types that NumPy or ml_dtypes has"
    # Newer types have no storage class (`_new_dtypes` in `torch/storage.py`): their tensors name an
    # untyped storage and the type. Types without a counterpart in NumPy or ml_dtypes are left out.
    names: ClassVar[Mapping[str, Any]] = {
        "collections.OrderedDict": _ordered_dict,
        "torch._utils._rebuild_parameter": _parameter,
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor_v2,
        "torch._utils._rebuild_tensor_v3": _tensor_v3,
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

    def persistent_load(self, pid: Any) -> _Storage:
        # In the stream format there is a sixth item for views of storages, always None.
        match pid:
            case ("storage", dtype, key, _, n) | ("storage", dtype, key, _, n, None):
                if isinstance(dtype, np.dtype) and isinstance(key, str) and are_counts(n):
                    return _Storage(key, dtype, n * dtype.itemsize)
        raise ValueError("a persistent id that is not of a storage")

    def build(self, made: Any, state: Any) -> None:
        if not isinstance(made, dict | list):  # an OrderedDict, whose _metadata is ignored
            super().build(made, state)


def _first(problems: list[str]) -> list[str]:
    more = len(problems) - _MAX_PROBLEMS
    return [*problems[:_MAX_PROBLEMS], f"and {more} more"] if more > 0 else problems


def _kind(value: object) -> str:
    return type(value).__name__.removeprefix("_")
