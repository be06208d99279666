"""Reads files with checks and writes them atomically."""

import errno
import hashlib
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Callable, Iterable, Mapping
from io import BufferedReader
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

CHECKSUM = "content_sha256"
"""Name of the hash of all other content, in the metadata of a safetensors file."""

# Types of safetensors that NumPy has too (bfloat16 from ml_dtypes).
_READ_TYPES = {"BOOL", "BF16", *(f"F{n}" for n in (16, 32, 64))} | {
    f"{kind}{n}" for kind in "IU" for n in (8, 16, 32, 64)
}


def cache_folder() -> Path:
    """Folder of cached files, `$XDG_CACHE_HOME/srvp-fd-jax`, by default in `~/.cache`.

    If neither that variable nor the home folder is known, it is a path that cannot exist.
    """
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        caches = Path(os.devnull)
    return caches / "srvp-fd-jax"


def size_of(paths: Iterable[Path]) -> int:
    """Total size of files in bytes, where missing files count as empty."""
    return sum(size for size, _ in map(_size_and_use, paths))


def trim(paths: Iterable[Path], limit: int) -> None:
    """Removes the least recently used files until the others have at most `limit` bytes."""
    files = {path: _size_and_use(path) for path in paths}
    total = sum(size for size, _ in files.values())
    for path, (size, _) in sorted(files.items(), key=lambda item: item[1][1]):
        if total <= limit:
            return
        path.unlink(missing_ok=True)
        total -= size


def _size_and_use(path: Path) -> tuple[int, float]:
    try:
        status = path.stat()
    except FileNotFoundError:  # another process has removed it
        return 0, 0.0
    return status.st_size, max(status.st_atime, status.st_mtime)


def printable(text: str, limit: int = 2000) -> str:
    """Escapes line breaks and control characters in text that may contain names of files.

    The middle of a text with more than `limit` characters is left out.
    """
    if len(text) > limit:
        kept = limit // 2 - 20
        text = f"{text[:kept]} ... ({len(text)} characters) ... {text[-kept:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def open_file(path: str | os.PathLike[str]) -> BufferedReader:
    """Opens a regular file to read its bytes.

    Raises:
        OSError: If the file is missing, is a folder, pipe or device, or may not be read. Opening a
            pipe would wait for a writer.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, expected a file", os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a pipe or a device, expected a file", os.fspath(path))
    return open(path, "rb")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def arrays_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of the names, types, shapes and little-endian bytes of arrays, in hexadecimal.

    The order of the arrays and their memory layouts make no difference.
    """
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.name, array.shape]).encode())
        flat = np.ravel(array).astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(flat.view(np.uint8).data)
    return digest.hexdigest()


def read_safetensors(
    path: str | os.PathLike[str], check_metadata: Callable[[Mapping[str, str]], None]
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Reads the metadata and the arrays of a safetensors file.

    Args:
        path: Path of the file. If the file has a checksum, as all files of `write_safetensors`, it
            is verified.
        check_metadata: Called before the arrays are read; raises a `ValueError` for a wrong file.

    Returns:
        Metadata, and arrays by name.

    Raises:
        OSError: If the file cannot be opened, see `open_file`.
        ValueError: If the file is not a safetensors file, has arrays of a type that NumPy lacks,
            does not match its checksum, or is rejected by `check_metadata`.
    """
    # Opened here first, because safetensors reports "No such file" for unreadable files too.
    with open_file(path):
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                check_metadata(metadata)
                names = list(file.keys())
                for name in names:
                    if (dtype := file.get_slice(name).get_dtype()) not in _READ_TYPES:
                        raise ValueError(
                            f"the array {name!r:.80} is of the type {dtype}, which NumPy lacks"
                        )
                arrays = {name: file.get_tensor(name) for name in names}
        except safetensors.SafetensorError as error:
            raise ValueError("not a safetensors file, or a damaged one") from error
    if CHECKSUM in metadata and metadata[CHECKSUM] != _checksum(metadata, arrays):
        raise ValueError("its content is not what was written: it is damaged or was altered")
    return metadata, arrays


def write_safetensors(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes a safetensors file with a checksum, see `write_atomically`.

    The same arrays and metadata give the same bytes.
    """
    # safetensors writes an array's memory as it is, so the memory must be in C order.
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = {**metadata, CHECKSUM: _checksum(metadata, arrays)}
    data = safetensors.numpy.save(arrays, metadata)
    # The order in which safetensors writes metadata differs from call to call.
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    write_atomically(path, len(text).to_bytes(8, "little") + text + data[end:])


def _checksum(metadata: Mapping[str, str], arrays: Mapping[str, np.ndarray]) -> str:
    rest = sorted((name, value) for name, value in metadata.items() if name != CHECKSUM)
    return hashlib.sha256(json.dumps([rest, arrays_sha256(arrays)]).encode()).hexdigest()


def check_writable(path: Path) -> None:
    """Raises an `OSError` unless a file can be written to `path`, and leaves no trace.

    Folders of the path may be missing, as `write_atomically` makes them.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, expected a file")
    above = path.absolute().parent
    while not above.exists():
        above = above.parent
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:  # which names the temporary file
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name in the same folder, then renames it.

    A reader sees either the old or the new file, and an interrupted write leaves the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Files of `tempfile` would be private; open() gives the permissions that the umask allows.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno:  # of a full disk it names no file
            raise OSError(error.errno, error.strerror, os.path.abspath(path)) from error
        raise
