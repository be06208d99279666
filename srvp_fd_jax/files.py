"""Files that appear whole or not at all, and are checked before they are read."""

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
"""Name in a safetensors file's metadata of the hash of all that the file holds besides."""

# Of the types of safetensors those that NumPy has, bfloat16 by ml_dtypes.
_READ_TYPES = {"BOOL", "BF16", *(f"F{n}" for n in (16, 32, 64))} | {
    f"{kind}{n}" for kind in "IU" for n in (8, 16, 32, 64)
}


def cache_folder() -> Path:
    """Where what was computed once is kept: `$XDG_CACHE_HOME/srvp-fd-jax`.

    Without that variable and a home it is a path that can neither be there nor be written.
    """
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        caches = Path(os.devnull)
    return caches / "srvp-fd-jax"


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of files together, of those that are there."""
    return sum(size for size, _ in map(_size_and_use, paths))


def trim(paths: Iterable[Path], limit: int) -> None:
    """Removes the files that were not used for the longest time, until the others fit.

    Args:
        paths: Of files that can be made anew.
        limit: Bytes of those that stay.
    """
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
    """Text as it may reach a terminal or a page: one line, not too long, no control characters.

    Args:
        text: With names of files and members in it, which may be of any characters.
        limit: Characters of the result; the middle of a longer text is left out.
    """
    if len(text) > limit:
        kept = limit // 2 - 20
        text = f"{text[:kept]} ... ({len(text)} characters) ... {text[-kept:]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def open_file(path: str | os.PathLike[str]) -> BufferedReader:
    """Opens a file to read it, and nothing else: opening a pipe waits for whoever writes to it.

    Args:
        path: Path of the file.

    Returns:
        The open file.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it is a folder, a pipe or a device, or may not be read; the message names it.
    """
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, expected a file", os.fspath(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a pipe or a device, expected a file", os.fspath(path))
    return open(path, "rb")


def arrays_sha256(arrays: Mapping[str, np.ndarray]) -> str:
    """Hash of arrays: of their names, types, shapes and little-endian bytes, by name.

    Args:
        arrays: In any order and memory layout, which make no difference.

    Returns:
        A SHA-256 in hexadecimal.
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
    """Reads the metadata and, once `check_metadata` has let it through, the arrays of a file.

    Args:
        path: Path of the file. What `write_safetensors` wrote is held to its checksum; older files
            have none.
        check_metadata: Raises a `ValueError` where the file is not the one that is looked for.

    Returns:
        Metadata, and arrays by name.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it is a folder, a pipe or a device, or may not be read.
        ValueError: If it is not a safetensors file, has arrays of a type that NumPy has not, was
            altered since it was written, or what `check_metadata` raises.
    """
    # Opened here first: safetensors says "No such file" of those that may not be read as well.
    with open_file(path):
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                check_metadata(metadata)
                names = list(file.keys())
                for name in names:
                    if (dtype := file.get_slice(name).get_dtype()) not in _READ_TYPES:
                        raise ValueError(f"the array {name!r:.80} is of the type {dtype}")
                arrays = {name: file.get_tensor(name) for name in names}
        except safetensors.SafetensorError as error:
            raise ValueError(printable(str(error), 400)) from error
    if CHECKSUM in metadata and metadata[CHECKSUM] != _checksum(metadata, arrays):
        raise ValueError("its content is not what was written: it is damaged or was altered")
    return metadata, arrays


def write_safetensors(
    path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes a safetensors file with a checksum; it appears whole or not at all.

    Args:
        path: Path of the file; what is there is replaced.
        arrays: By name. The same arrays and metadata give the same bytes.
        metadata: By name.
    """
    # Memory in another order than C's, safetensors would write as it lies.
    arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    metadata = {**metadata, CHECKSUM: _checksum(metadata, arrays)}
    data = safetensors.numpy.save(arrays, metadata)
    # It writes metadata in an order that differs from call to call.
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
    """Raises an `OSError` unless a file can be written there; nothing is left of the trial.

    Args:
        path: Path of the file; folders above it may still be missing.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder, expected a file")
    above = path.absolute().parent
    while not above.exists():
        above = above.parent
    with tempfile.TemporaryFile(dir=above):
        pass


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a file under a temporary name beside it and renames it into place.

    A reader sees the old file or the new one, and an interrupted writer leaves the old one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`, whose files are private: open() gives the permissions that the umask allows.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
