"""Finds videos in the forms that people store them in.

A folder, zip or tar of video files, frame folders and arrays, in any depth, and array files of many
videos: all become a list of `Video`s, small descriptions that worker processes read from. Archives
are not unpacked.
"""

import contextlib
import functools
import hashlib
import io
import json
import lzma
import math
import os
import posixpath
import re
import stat
import tarfile
import warnings
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

VIDEO_SUFFIXES = (".mp4", ".avi", ".webm", ".mov", ".mkv", ".gif", ".m4v")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
ARRAY_SUFFIXES = (".npy", ".npz")
ARCHIVE_SUFFIXES = (".zip", ".tar")
_MEDIA_SUFFIXES = VIDEO_SUFFIXES + IMAGE_SUFFIXES + ARRAY_SUFFIXES

# A RuntimeError is raised of members that are encrypted or compressed in an unknown way.
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, KeyError, RuntimeError)


MEMBER_BYTES = 1 << 30
"""Most bytes of a member of an archive or of a compressed array: a bomb would fill the memory."""

# Content is part of the fingerprint up to this many bytes: reading them costs little more than
# opening the file.
_SMALL_FILE = 1 << 20


class File(NamedTuple):
    """A file on disk, or inside an archive."""

    path: str
    member: str | None = None
    offset: int | None = None  # of the member's header in a tar

    @property
    def name(self) -> str:
        """Its own path, in the archive if it is in one."""
        return self.member or self.path

    @property
    def suffix(self) -> str:
        """By which it is read."""
        return _suffix(self.name)

    def open(self) -> str | io.BytesIO:
        """The path, or the bytes if they are in an archive."""
        _check_regular(self.path)
        if self.member is None:
            return self.path
        if self.offset is None:
            archive = _zip(self.path)
            try:
                check_budget(archive.getinfo(self.member).file_size, MEMBER_BYTES)
                return io.BytesIO(archive.read(self.member))
            except _BAD_ZIP as error:
                raise ValueError(f"{self.path}: not a readable archive: {error}") from error
        return io.BytesIO(_read_tar(self.path, self.offset))


def is_animated(file: File) -> bool:
    """Whether a WebP is a video: its header has the flag of animation."""
    if file.suffix != ".webp":
        return False
    # What cannot be read is told as the frame that it would be.
    with contextlib.suppress(Exception), _head(file) as stream:
        head = stream.read(21)
        return head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)
    return False


def _head(file: File) -> Any:
    _check_regular(file.path)
    if file.member is None:
        return open(file.path, "rb")
    if file.offset is None:
        return _zip(file.path).open(file.member)
    return file.open()


class Video(NamedTuple):
    """Where one video is.

    Attributes:
        name: Path for people to find it by.
        files: One video or array file, or one file a frame, in order.
        row: Its place in an array of many videos.
        strays: Names of images beside its frames that are none.
    """

    name: str
    files: tuple[File, ...]
    row: int | None = None
    strays: tuple[str, ...] = ()


def find_videos(path: str | os.PathLike[str]) -> list[Video]:
    """Finds videos.

    Args:
        path: A folder, .zip or .tar with, in any depth, video files, folders of frames, arrays of
            one video each [T, H, W, C] and, in a folder, archives of the same; or a .npy or .npz
            file of many videos [N, T, H, W, C], of grey ones [N, T, H, W] or of single frames
            [N, H, W, C]. Channels may stand before height and width.

    Returns:
        Videos in natural order of their names (v2 before v10).

    Raises:
        FileNotFoundError: If there is nothing at `path`.
        ValueError: If it is nothing of these, is damaged, or holds no videos.
    """
    if not os.fspath(path):
        raise ValueError("videos: got an empty path")
    root = Path(path)
    try:
        os.stat(root)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file or folder") from error
    if root.is_file() and _suffix(path) in ARRAY_SUFFIXES:
        rows = len(load_array(File(str(root)), memory()))
        videos = [Video(f"{path}[{row}]", (File(str(root)),), row) for row in range(rows)]
    elif root.is_dir() or _suffix(path) in ARCHIVE_SUFFIXES:
        videos = _grouped(dict(_files(root)))
    else:
        raise ValueError(
            f"{path}: expected a folder, or a file {', '.join(ARCHIVE_SUFFIXES + ARRAY_SUFFIXES)}"
        )
    if not videos:
        raise ValueError(
            f"{path}: holds no videos ({', '.join(VIDEO_SUFFIXES)}), frames "
            f"({', '.join(IMAGE_SUFFIXES)}) or arrays ({', '.join(ARRAY_SUFFIXES)})"
        )
    return videos


def fingerprint(videos: Sequence[Video]) -> str:
    """Hash of the videos and of the files that they are in.

    Of a file count its name below the folder that all files share, its size, its time of change,
    its place on the disk and, of a small one, its content: two files of one size and time, as
    unpacking an archive leaves them, are told apart.
    """
    digest = hashlib.sha256()
    numbers: dict[str, int] = {}
    for video in videos:
        for file in video.files:
            numbers.setdefault(file.path, len(numbers))
    absolute = [os.path.abspath(path) for path in numbers]
    folder = os.path.commonpath([os.path.dirname(path) for path in absolute])
    for path in absolute:
        _add(digest, os.path.relpath(path, folder), *_state(path))
    for video in videos:
        _add(digest, video.row, *((numbers[file.path], file.member) for file in video.files))
    return digest.hexdigest()


def check_budget(size: int, limit: int, what: str = "its content") -> None:
    """Raises a `ValueError` if so many bytes are more than the limit, before they are allocated."""
    if size > limit:
        raise ValueError(
            f"{what} would take {size / 2**20:,.0f} MiB, allowed are {limit / 2**20:,.0f} MiB"
        )


def load_array(file: File, limit: int = MEMBER_BYTES) -> Shaped[np.ndarray, "..."]:
    """The array of a .npy file, mapped to memory where it can be, or the only one of a .npz file.

    Only arrays of at least three axes count, so that labels may stand beside.

    Args:
        file: Where it is.
        limit: Bytes of an array that is not mapped.

    Raises:
        ValueError: If the file is damaged, or holds no such array, several, or too large a one.
    """
    return _kept_array(file, limit, _version(file.path))


@functools.lru_cache(maxsize=2)
def _kept_array(file: File, limit: int, version: tuple[int, ...]) -> Shaped[np.ndarray, "..."]:
    source = file.open()
    with _told(file.name, "array file"):
        arrays = _arrays(source, file.suffix, limit)
    if len(arrays) != 1:
        raise ValueError(
            f"{file.name}: holds {len(arrays)} arrays of frames or clips, expected one"
        )
    return arrays[0]


def _arrays(source: str | io.BytesIO, suffix: str, limit: int) -> list[Shaped[np.ndarray, "..."]]:
    """Arrays of at least three axes."""
    if suffix == ".npz":
        with zipfile.ZipFile(source) as archive:
            names = [name for name in archive.namelist() if _suffix(name) == ".npy"]
            opened = (functools.partial(archive.open, name) for name in names)
            return [array for open_ in opened for array in _read_npy(open_, limit, objects=False)]
    if isinstance(source, str):
        array: Any = np.load(source, mmap_mode="r", allow_pickle=False)
        return [array] if array.ndim >= 3 else []
    return _read_npy(lambda: io.BytesIO(source.getvalue()), limit)


def _read_npy(
    open_: Callable[[], Any], limit: int, *, objects: bool = True
) -> list[Shaped[np.ndarray, "..."]]:
    """The array, if it is of frames: its header is read first."""
    with open_() as stream:
        shape, dtype = _npy_header(stream)
    # Labels may be arrays of objects, which are not read.
    if len(shape) < 3 or (dtype.hasobject and not objects):
        return []
    check_budget(math.prod(shape) * dtype.itemsize, limit, "its array")
    with open_() as stream:
        return [np.lib.format.read_array(stream, allow_pickle=False)]


def _npy_header(stream: Any) -> tuple[tuple[int, ...], np.dtype]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:  # of names of fields, which frames do not have
        raise ValueError(f"format version {version}")
    return shape, dtype


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts numbers in names by value, names that differ in leading zeros only as they are."""
    parts = re.split(r"([0-9]+)", name)
    # By length and digits: Python makes no number of more than 4,300.
    digits = ((part.lstrip("0"), i % 2) for i, part in enumerate(parts))
    keys = [(len(d), d) if number else (-1, parts[i]) for i, (d, number) in enumerate(digits)]
    return keys, name


def _files(root: Path) -> Iterator[tuple[str, File]]:
    """Files of a folder or archive by name, the path of the root in front."""
    if root.is_dir():
        yield from _files_of_folder(root)
        return
    _check_regular(str(root))
    if _suffix(root) == ".zip":
        with _told(str(root), "archive"):
            members = _zip(str(root)).namelist()
        for member in members:
            if not _is_hidden(member) and not member.endswith("/"):  # a folder
                yield f"{root.as_posix()}/{member}", File(str(root), member)
    else:
        yield from _files_of_tar(root)


@contextlib.contextmanager
def _told(name: str, what: str) -> Iterator[None]:
    """What readers raise of damaged content, of many types, is told with the name of the file."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{name}: not a readable {what}: {error}") from error


def _check_regular(path: str) -> None:
    """Raises a `ValueError` of what is there but no file: opening a FIFO would wait for ever."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"{path}: {'is a folder' if stat.S_ISDIR(mode) else 'is not a regular file'}"
        )


def _files_of_folder(
    folder: Path, above: frozenset[str] = frozenset()
) -> Iterator[tuple[str, File]]:
    above |= {os.path.realpath(folder)}  # a link may lead back
    with os.scandir(folder) as entries:
        for entry in entries:
            path = Path(entry)
            if _is_hidden(entry.name):
                continue
            if _is_folder(entry):
                if os.path.realpath(path) not in above:
                    yield from _files_of_folder(path, above)
            elif _suffix(path) in ARCHIVE_SUFFIXES:
                yield from _files(path)
            else:
                yield path.as_posix(), File(str(path))


def _files_of_tar(root: Path) -> Iterator[tuple[str, File]]:
    """Files and links to files; links to nothing are told where they are read."""
    with _told(str(root), "archive"), tarfile.open(root, "r:") as archive:
        members = {posixpath.normpath(info.name): info for info in archive}
    links = []
    for info in members.values():
        if _is_hidden(info.name):
            continue
        target = _target(info, members)
        if target.isfile() or (_is_link(info) and _suffix(info.name) in _MEDIA_SUFFIXES):
            yield f"{root.as_posix()}/{info.name}", File(str(root), info.name, target.offset)
        elif _is_link(info):
            links.append(info.name)
    if links:
        text = f"{root}: {len(links)} links to folders or to nothing in it are not followed"
        warnings.warn(f"{text}, such as {links[0]}", stacklevel=2)


def _target(info: tarfile.TarInfo, members: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo:
    """What a member links to in the end, or still a link where that is missing or in a circle."""
    at, seen = info, set()
    while _is_link(at) and at.name not in seen:
        seen.add(at.name)
        # Hard links tell paths from the root of the archive, symbolic ones from where they are.
        folder = "" if at.islnk() else posixpath.dirname(at.name)
        at = members.get(posixpath.normpath(posixpath.join(folder, at.linkname)), info)
    return at


def _is_link(info: tarfile.TarInfo) -> bool:
    return info.islnk() or info.issym()


def _read_tar(path: str, offset: int) -> bytes:
    """The content of one member, sparse ones with their holes."""
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                info = archive.next()
                content = archive.extractfile(info) if info and info.isfile() else None
                if info is None or content is None:
                    target = info.linkname if info else ""
                    raise ValueError(f"a link to {target!r}, which is no file in the archive")
                check_budget(info.size, MEMBER_BYTES)
                return content.read()
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a readable archive: {error}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link in a circle, which is told where it is read
        return False


def _grouped(files: dict[str, File]) -> list[Video]:
    """Video and array files for themselves, images by the folder that they are in."""
    videos, folders = {}, defaultdict(list)
    for name in sorted(files, key=natural_key):
        if _suffix(name) in VIDEO_SUFFIXES + ARRAY_SUFFIXES or is_animated(files[name]):
            videos[name] = Video(name, (files[name],))
        elif _suffix(name) in IMAGE_SUFFIXES:
            folders[str(PurePosixPath(name).parent)].append(name)
    for folder, names in folders.items():
        strays = _strays(names)
        frames = tuple(files[name] for name in names if name not in strays)
        videos[folder] = Video(folder, frames, strays=tuple(sorted(strays, key=natural_key)))
    return [videos[name] for name in sorted(videos, key=natural_key)]


def _strays(names: Sequence[str]) -> set[str]:
    """Images that are no frames of the sequence that most of them are.

    A sequence has numbers after the same beginning. Beside it a name without a number, or the only
    one with its beginning, is a stray; a second sequence is none, but a flaw to be told.
    """
    beginnings = {}
    for name in names:
        before, number, _ = re.split(r"([0-9]|$)", PurePosixPath(name).stem, maxsplit=1)
        beginnings[name] = before if number else None
    counts = Counter(beginnings.values())
    beginning, count = counts.most_common(1)[0]
    if beginning is None or count < 2 or 2 * count <= len(names):
        return set()
    return {name for name, own in beginnings.items() if own is None or counts[own] == 1}


def _is_hidden(name: str) -> bool:
    """Whether it is hidden, or one of the files that macOS adds to archives."""
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def memory() -> int:
    """Bytes that this machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _suffix(path: str | os.PathLike[str]) -> str:
    return PurePosixPath(os.fspath(path)).suffix.lower()


def _zip(path: str) -> zipfile.ZipFile:
    # Kept open: the table of contents of a large archive is slow to read. Threads may share it.
    return _kept_zip(path, _version(path))


@functools.lru_cache(maxsize=8)
def _kept_zip(path: str, version: tuple[int, ...]) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _version(path: str) -> tuple[int, ...]:
    """Changes when the file does."""
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size, status.st_dev, status.st_ino


def _state(path: str) -> tuple[object, ...]:
    """The version of a file and the hash of a small one; nothing of a link to nothing."""
    try:
        status = os.stat(path)
        content = None
        if stat.S_ISREG(status.st_mode) and status.st_size <= _SMALL_FILE:
            content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return *_version(path), content
    except OSError:  # reading the video will tell
        return ()


def _add(digest: Any, *parts: object) -> None:
    # JSON keeps the parts apart, and holds names that are not UTF-8.
    digest.update(json.dumps(parts).encode() + b"\n")
