"""Files that appear whole or not at all, and are checked before they are read."""

import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import safetensors.numpy


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


def read_safetensors(
    path: str | os.PathLike[str], check_metadata: Callable[[Mapping[str, str]], None]
) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Reads the metadata and, once `check_metadata` has let it through, the arrays of a file.

    Raises:
        OSError: If there is no such file, or it cannot be read.
        ValueError: If it is not a safetensors file, or what `check_metadata` raises.
    """
    with open(path, "rb"):  # of every failure safetensors says that there is no such file
        pass
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            check_metadata(metadata)
            names = file.keys()
            return metadata, {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        raise ValueError(str(error)) from error


def to_safetensors(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file that is the same for the same content: its metadata are in order."""
    data = safetensors.numpy.save(dict(arrays), dict(metadata))
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # arrays are aligned
    return len(text).to_bytes(8, "little") + text + data[start:]


def check_writable(path: Path) -> None:
    """Raises an `OSError` unless a file can be written there; nothing is left of the trial.

    Args:
        path: Of the file; folders above it may still be missing.
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
