"""Finds videos in the forms in which people store them.

Folders, archives, array files and objects in memory all become lists of `Video`s, which are small
descriptions to read from. Archives are not unpacked.
"""

import contextlib
import fnmatch
import functools
import gzip
import hashlib
import io
import json
import lzma
import math
import os
import posixpath
import re
import shutil
import stat
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from srvp_fd_jax.devices import values
from srvp_fd_jax.files.inputs import as_array, as_clips, warn

# NumPy parses headers with `ast`, whose recursion CPython 3.11 counts for all threads together.
_PARSING = threading.Lock()

DEMUXERS = {
    **dict.fromkeys((".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".f4v"), "mov"),
    **dict.fromkeys((".webm", ".mkv"), "matroska"),
    **dict.fromkeys((".avi", ".divx"), "avi"),
    ".gif": "gif",
    **dict.fromkeys((".mpg", ".mpeg", ".vob", ".m1v", ".m2v"), "mpeg,mpegvideo,mpegts"),
    **dict.fromkeys((".ts", ".m2ts", ".mts"), "mpegts"),
    **dict.fromkeys((".wmv", ".asf"), "asf"),
    ".flv": "flv",
    ".ogv": "ogg",
    ".y4m": "yuv4mpegpipe",
    ".mxf": "mxf",
    ".dv": "dv",
}
"""Demuxers that FFmpeg may use: others open files that a file names, even over a network."""

VIDEO_SUFFIXES = tuple(DEMUXERS)
IMAGE_SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".webp")
ARRAY_SUFFIXES = (".npy", ".npz")
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")
_MEDIA_SUFFIXES = VIDEO_SUFFIXES + IMAGE_SUFFIXES + ARRAY_SUFFIXES

# Files that need another library, and how their clips become an array for `compute`.
_BY_HAND = {
    **dict.fromkeys(
        (".h5", ".hdf5"),
        "import h5py; from srvp_fd_jax import compute; clips = h5py.File({!r})['NAME'][:]",
    ),
    **dict.fromkeys(
        (".pt", ".pth"),
        "import torch; from srvp_fd_jax import compute; "
        "clips = torch.load({!r}, weights_only=True)",
    ),
}

# What usually lies beside videos: texts, tables, sound, statistics, and what systems leave. Files
# of any other kind may be videos that are not read, so the user hears of them.
_COMPANIONS = (
    *(".txt", ".md", ".rst", ".pdf", ".html", ".log", ".srt", ".vtt", ".py", ".ipynb", ".sh"),
    *(".json", ".jsonl", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".toml", ".ini", ".cls"),
    *(".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus"),
    *(".safetensors", ".db", ".lnk", ".url", ".md5", ".sha256"),
)


# Members that are encrypted or compressed in an unknown way raise a RuntimeError.
_BAD_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, KeyError, RuntimeError)


MEMBER_BYTES = 1 << 30
"""Largest member of an archive or compressed array in bytes: a zip bomb would fill the memory."""

UNPACKED_BYTES = 1 << 36
"""Most bytes of a .tar.gz after decompression; it may also take half of the free disk at most."""

# Fingerprints cover the content of files up to this size: reading it costs little beyond opening.
_SMALL_FILE = 1 << 20


class File(NamedTuple):
    """A file on disk, or a member of an archive."""

    path: str
    member: str | None = None
    offset: int | None = None  # of the member's header in a tar
    unpacked: str | None = None  # the tar that a .tar.gz was decompressed to

    @property
    def name(self) -> str:
        """Path of the file, or of the member within its archive."""
        return self.member or self.path

    @property
    def suffix(self) -> str:
        """Suffix in lower case, which decides how the file is read."""
        return _suffix(self.name)

    def open(self) -> str | io.BytesIO:
        """The path of a file on disk, or the content of a member of an archive."""
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
        return io.BytesIO(_read_tar(self.path, self.offset, self.unpacked))


def is_animated(file: File) -> bool:
    """Whether a file is an animated WebP, by the flag in its header, or an animated PNG."""
    if file.suffix not in (".webp", ".png", ".apng"):
        return False
    # A file that cannot be read counts as a frame, and raises its error when it is read.
    with contextlib.suppress(Exception), _head(file) as stream:
        if file.suffix == ".webp":
            head = stream.read(21)
            return head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)
        before, _, _ = stream.read(1 << 16).partition(b"IDAT")
        return b"acTL" in before
    return False


def _head(file: File) -> Any:
    _check_regular(file.path)
    if file.member is None:
        return open(file.path, "rb")
    if file.offset is None:
        return _zip(file.path).open(file.member)
    return file.open()


class Video(NamedTuple):
    """Where one video is stored.

    Attributes:
        name: Path by which messages name the video.
        files: One video or array file, or one image per frame, in order; empty if `items` is set.
        row: Index of the video in an array file of many videos or in `items`; else None.
        strays: Names of images in the folder of its frames that are not frames themselves.
        items: Object in memory that gives videos by index; None for videos in files.
        root: Folder in which all videos were found; empty if there is none.
    """

    name: str
    files: tuple[File, ...] = ()
    row: int | None = None
    strays: tuple[str, ...] = ()
    items: Any = None
    root: str = ""

    @property
    def is_array(self) -> bool:
        """Whether the video is read without a decoder."""
        return self.items is not None or self.files[0].suffix in ARRAY_SUFFIXES


def as_videos(source: Any, name: str, match: str | None = None) -> list[Video]:
    """Finds videos in files or in memory.

    Args:
        source: A path as for `find_videos`; a list of paths, each as for `find_videos` or of a
            single video, which may be an array [T, H, W, C]; an array of clips; or any object with
            `__len__` and `__getitem__` whose items are videos.
        name: Name of the source in messages.
        match: Glob that chooses files, see `find_videos`; only for paths.

    Returns:
        The videos, in natural order of their names within a path, else in the order given.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If the source has another form or holds no videos.
    """
    if isinstance(source, str | os.PathLike):
        return find_videos(source, match)
    if isinstance(source, list | tuple) and all(isinstance(p, str | os.PathLike) for p in source):
        if not source:
            raise ValueError(f"{name}: got an empty list")
        return [video for path in source for video in _at(path, match)]
    if match is not None:
        raise ValueError(f"match: got {match!r}, but {name} is not a path")
    if hasattr(source, "shape"):
        source = as_array(source, name)
        array = values(source)
        if array is None:
            raise ValueError(f"{name}: got an array whose values lie in other processes")
        if array.ndim != 5:
            raise ValueError(
                f"{name}: got an array of shape {source.shape}, expected clips [N, T, H, W, C] or "
                "[N, T, C, H, W]"
            )
        source = as_clips(array, name, range_told=True)
    elif isinstance(source, Mapping) or not (
        hasattr(source, "__len__") and hasattr(source, "__getitem__")
    ):
        raise ValueError(
            f"{name}: got a {type(source).__name__}, expected a path, paths, an array, statistics "
            "or an object with __len__ and __getitem__"
        )
    if not len(source):
        raise ValueError(f"{name}: holds no videos")
    return [Video(f"{name}[{i}]", row=i, items=source) for i in range(len(source))]


def _at(path: str | os.PathLike[str], match: str | None = None) -> list[Video]:
    """The video at a path, or all videos in the folder, archive or array file at the path."""
    file, suffix = File(os.fspath(path)), _suffix(path)
    if os.path.isfile(path) and (
        suffix in VIDEO_SUFFIXES
        or is_animated(file)
        or (suffix in ARRAY_SUFFIXES and load_array(file, memory()).ndim < 5)
    ):
        return [Video(file.path, (file,))] if _matches(file.path, match) else []
    return [video._replace(root="") for video in find_videos(path, match)]


def find_videos(path: str | os.PathLike[str], match: str | None = None) -> list[Video]:
    """Finds videos in files.

    Args:
        path: Path of a folder, .zip, .tar or .tar.gz that holds, in any depth, video files, folders
            of frames or arrays of one video each [T, H, W, C]; a folder may also hold such
            archives. Or path of a .npy or .npz file of many videos [N, T, H, W, C], grey videos
            [N, T, H, W] or single frames [N, H, W, C]. Channels may come before height and width.
            Or path of a .txt file that lists such paths or single videos, one a line, relative to
            the folder of the list.
        match: Glob that chooses the files whose names, or paths below `path`, match it, such as
            "*_gt.mp4" or "test/*". None for all files.

    Returns:
        The videos in natural order of their names (v2 before v10), or in the order of the list.

    Raises:
        FileNotFoundError: If `path`, or a path in a list, does not exist.
        ValueError: If `path` is of another kind, is damaged or holds no videos, or if no file
            matches.
    """
    if not os.fspath(path):
        raise ValueError("videos: got an empty path")
    root = Path(path)
    try:
        os.stat(root)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path}: no such file or folder") from error
    suffix = _suffix(path)
    if root.is_file() and suffix in ARRAY_SUFFIXES:
        rows = len(load_array(File(str(root)), memory())) if _matches(str(root), match) else 0
        return [Video(f"{path}[{row}]", (File(str(root)),), row) for row in range(rows)]
    if root.is_file() and suffix == ".txt":
        videos = [video for listed in _listed(root) for video in _at(listed, match)]
        if not videos:
            raise ValueError(f"{path}: lists no videos" + (f" that match {match}" if match else ""))
        return videos
    if suffix in _BY_HAND and not root.is_dir():
        read = _BY_HAND[suffix].format(os.fspath(path))
        raise ValueError(f"{path}: is read by your own code: {read}; compute(clips, ...)")
    if not root.is_dir() and suffix not in ARCHIVE_SUFFIXES:
        raise ValueError(
            f"{path}: expected a folder or a {', '.join(ARCHIVE_SUFFIXES + ARRAY_SUFFIXES)} file "
            f"(for single videos pass the folder that they are in, or a .txt file that lists them)"
        )
    files = dict(_files(root))
    matching = {name: file for name, file in files.items() if _matches(name, match, root)}
    videos = _grouped(matching, root)
    if not videos and files and not matching:
        raise ValueError(
            f"match: got {match!r}, which none of the {len(files)} files in {path} matches, such "
            f"as {next(iter(files))}"
        )
    if not videos:
        kinds = Counter(_suffix(name) or "no suffix" for name in files)
        held = f"; it holds {_counted(kinds)}" if kinds else ""
        raise ValueError(
            f"{path}: holds no videos ({', '.join(VIDEO_SUFFIXES)}), frames "
            f"({', '.join(IMAGE_SUFFIXES)}) or arrays ({', '.join(ARRAY_SUFFIXES)}){held}"
        )
    return [video._replace(root=str(root)) for video in videos] if root.is_dir() else videos


def _matches(name: str, match: str | None, root: Path | None = None) -> bool:
    if match is None:
        return True
    path = PurePosixPath(name)
    below = path.relative_to(root.as_posix()) if root else path
    return any(fnmatch.fnmatchcase(str(one), match) for one in (below, path.name))


def _listed(path: Path) -> Iterator[str]:
    """Paths that a text file lists, one a line; empty lines and those that begin with # are none.

    Raises:
        FileNotFoundError: If there is no file of that name.
        ValueError: If the list names another list.
    """
    check_budget(path.stat().st_size, MEMBER_BYTES)
    lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        listed = os.path.join(path.parent, line)
        if not os.path.lexists(listed):
            raise FileNotFoundError(f"{path}: line {number}: {listed}: no such file or folder")
        if _suffix(listed) == ".txt":
            raise ValueError(f"{path}: line {number}: {listed}: is a list itself")
        yield listed


def _counted(kinds: Mapping[str, int]) -> str:
    """Counts by kind in words, the most common first."""
    return ", ".join(f"{count} {kind}" for kind, count in Counter(kinds).most_common(8))


def fingerprint(videos: Sequence[Video]) -> str:
    """Hash of the videos and the files that hold them.

    A file counts by its path below the folder that all files share, size, times of modification
    and change, device and inode. A small file also counts by its content, since unpacking an
    archive may give two files the same size and time.
    """
    digest = hashlib.sha256()
    numbers: dict[str, int] = {}
    for video in videos:
        for file in video.files:
            numbers.setdefault(file.path, len(numbers))
    absolute = [os.path.abspath(path) for path in numbers]
    folder = _common_folder(absolute)
    for path in absolute:
        _add(digest, os.path.relpath(path, folder), *_state(path))
    for video in videos:
        _add(digest, video.row, *((numbers[file.path], file.member) for file in video.files))
    return digest.hexdigest()


def local_names(videos: Sequence[Video]) -> list[str]:
    """Names of videos below the folder in which they were found, however its path is spelled.

    Without such a folder, as in archives and lists, it is the deepest one that all of them share.
    """
    absolute = [os.path.abspath(video.name) for video in videos]
    root = videos[0].root if videos else ""
    folder = os.path.abspath(root) if root else _common_folder(absolute)
    return [os.path.relpath(path, folder) for path in absolute]


def folders_left_out(videos: Sequence[Video], clips: int) -> list[str]:
    """Folders with none of the first videos, if folders hold several videos as classes do."""
    folders = [os.path.dirname(name) for name in local_names(videos)]
    unique = dict.fromkeys(folders)
    if 2 * len(unique) > len(folders):  # such as a folder of each video
        return []
    taken = set(folders[:clips])
    return [folder for folder in unique if folder not in taken]


def clip_names(videos: Sequence[Video], side: str, paired: bool = False) -> list[str]:
    """Names by which the clips of one side are chosen, and are pairs with those of the other side.

    These are the local names without the suffix, but for those that would be equal then. The index
    in an array is no name, so the clips of arrays are no pairs. If `paired`, all names are the
    indices of the videos.
    """
    if paired:
        return [f"[{i}]" for i in range(len(videos))]
    local = [
        name if video.row is None else f"{side}: {name}"
        for name, video in zip(local_names(videos), videos, strict=True)
    ]
    names = dict.fromkeys(local)  # a list may name a video twice
    counts = Counter(map(_stem, names))
    return [stem if counts[stem := _stem(name)] == 1 else name for name in local]


def _stem(name: str) -> str:
    """A name without the suffix of a video, an image or an array."""
    suffix = PurePosixPath(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in _MEDIA_SUFFIXES else name


def _common_folder(paths: Sequence[str]) -> str:
    return os.path.commonpath([os.path.dirname(path) for path in paths])


def check_budget(size: int, limit: int, what: str = "its content") -> None:
    """Raises a `ValueError` if content of `size` bytes, not allocated yet, exceeds `limit`."""
    if size > limit:
        raise ValueError(
            f"{what} would take {size / 2**20:,.0f} MiB, allowed are {limit / 2**20:,.0f} MiB"
        )


def load_array(file: File, limit: int = MEMBER_BYTES) -> Shaped[np.ndarray, "..."]:
    """Loads the array of a .npy file, or the only array of frames of a .npz file.

    Arrays of fewer than three axes, such as labels, are ignored. A .npy file on disk is mapped to
    memory; any other array may take at most `limit` bytes.

    Raises:
        ValueError: If the file is damaged or has no, several or too large arrays of frames.
    """
    return _kept_array(file, limit, _version(file.path))


@functools.lru_cache(maxsize=2)
def _kept_array(file: File, limit: int, version: tuple[int, ...]) -> Shaped[np.ndarray, "..."]:
    source = file.open()
    with _told(file.name, "array file"), _PARSING:
        arrays = _arrays(source, file.suffix, limit)
    if len(arrays) != 1:
        raise ValueError(
            f"{file.name}: holds {len(arrays)} arrays of frames or clips, expected one"
        )
    return arrays[0]


def _arrays(source: str | io.BytesIO, suffix: str, limit: int) -> list[Shaped[np.ndarray, "..."]]:
    """Loads the arrays of at least three axes."""
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
    """Loads the array if its header has the shape of frames; else returns an empty list."""
    with open_() as stream:
        shape, dtype = _npy_header(stream)
    # An array of objects may hold labels.
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
    else:  # (3, 0) is for names of fields, which frames lack
        raise ValueError(f"got format version {version}, expected (1, 0) or (2, 0)")
    return shape, dtype


def natural_key(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sort key that compares numbers in names by value; leading zeros break ties."""
    parts = re.split(r"([0-9]+)", name)
    # Compares numbers by length and digits: `int` takes at most 4,300 digits.
    digits = ((part.lstrip("0"), i % 2) for i, part in enumerate(parts))
    keys = [(len(d), d) if number else (-1, parts[i]) for i, (d, number) in enumerate(digits)]
    return keys, name


def _files(root: Path) -> Iterator[tuple[str, File]]:
    """Yields the files of a folder or archive, with names that begin with the path of `root`."""
    if root.is_dir():
        yield from _files_of_folder(root)
        return
    _check_regular(str(root))
    if _suffix(root) == ".zip":
        with _told(str(root), "archive"):
            members = _zip(str(root)).namelist()
        for member in members:
            if not _is_hidden(member) and not member.endswith("/"):  # not a folder
                yield f"{root.as_posix()}/{member}", File(str(root), member)
    else:
        yield from _files_of_tar(root)


@contextlib.contextmanager
def _told(name: str, what: str) -> Iterator[None]:
    """Turns the many errors of damaged content into a `ValueError` that names the file."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{name}: not a readable {what}: {error}") from error


def _check_regular(path: str) -> None:
    """Raises a `ValueError` unless `path` is a regular file: a FIFO would block for ever."""
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        raise ValueError(
            f"{path}: {'is a folder' if stat.S_ISDIR(mode) else 'is not a regular file'}"
        )


def _files_of_folder(
    folder: Path, above: frozenset[str] = frozenset()
) -> Iterator[tuple[str, File]]:
    above |= {os.path.realpath(folder)}  # a link may lead to a folder above
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
    """Yields files, and links named like files, which raise an error when they are read."""
    unpacked = None if _suffix(root) == ".tar" else _unpacked(str(root))
    with _told(str(root), "archive"), tarfile.open(unpacked or root, "r:") as archive:
        members = {posixpath.normpath(info.name): info for info in archive}
    links = []
    for info in members.values():
        if _is_hidden(info.name):
            continue
        is_link = info.islnk() or info.issym()
        if info.isfile() or (is_link and _suffix(info.name) in _MEDIA_SUFFIXES):
            file = File(str(root), info.name, info.offset, unpacked)
            yield f"{root.as_posix()}/{info.name}", file
        elif is_link:
            links.append(info.name)
    if links:
        warn(f"{root}: {len(links)} links are not followed, such as {links[0]}")


def _unpacked(path: str) -> str:
    """Path of the tar in a .tar.gz, which is decompressed once and removed with this process.

    Gzip has no index: reading a member would decompress all before it.
    """
    return _kept_tar(path, _version(path))


@functools.cache
def _kept_tar(path: str, version: tuple[int, ...]) -> str:
    folder = _scratch().name
    limit = min(UNPACKED_BYTES, shutil.disk_usage(folder).free // 2)
    target = os.path.join(folder, f"{len(os.listdir(folder))}.tar")
    try:
        with _told(path, "archive"), gzip.open(path) as source, open(target, "wb") as tar:
            while block := source.read(1 << 20):
                check_budget(tar.tell() + len(block), limit)
                tar.write(block)
    except BaseException as error:
        Path(target).unlink(missing_ok=True)
        if isinstance(error, gzip.BadGzipFile):  # an OSError that names no file
            raise ValueError(f"{path}: not a readable archive: {error}") from error
        raise
    return target


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="srvp-fd-jax-")


def _read_tar(path: str, offset: int, unpacked: str | None = None) -> bytes:
    """The content of one member; holes of a sparse member are read as zeros."""
    try:
        with open(unpacked or path, "rb") as file:
            file.seek(offset)
            with tarfile.open(fileobj=file, mode="r:") as archive:
                info = archive.next()
                content = archive.extractfile(info) if info and info.isfile() else None
                if info is None or content is None:
                    target = info.linkname if info else ""
                    raise ValueError(
                        f"is a link to {target!r}: unpack the archive, in which links are not read"
                    )
                check_budget(info.size, MEMBER_BYTES)
                return content.read()
    except tarfile.TarError as error:
        raise ValueError(f"{path}: not a readable archive: {error}") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a circular link, which raises its error when it is read
        return False


def _grouped(files: dict[str, File], root: Path) -> list[Video]:
    """Makes one video per video file, array file and folder of images.

    Images beside video files are their thumbnails or copies of their frames, and no videos.
    """
    videos: dict[str, Video] = {}
    folders: dict[str, list[str]] = defaultdict(list)
    others: Counter[str] = Counter()
    with_videos = set()
    for name in sorted(files, key=natural_key):
        suffix, folder = _suffix(name), str(PurePosixPath(name).parent)
        if suffix in VIDEO_SUFFIXES + ARRAY_SUFFIXES:
            videos[name] = Video(name, (files[name],))
            with_videos |= {folder} if suffix in VIDEO_SUFFIXES else set()
        elif suffix in IMAGE_SUFFIXES:
            folders[folder].append(name)
        elif suffix and suffix not in _COMPANIONS:
            others[suffix] += 1
    beside = []
    for folder, names in folders.items():
        animated = _animated(names, files)
        videos |= {name: Video(name, (files[name],)) for name in animated}
        names = [name for name in names if name not in animated]
        if folder in with_videos or animated:
            beside += names
        elif names:
            strays = _strays(names)
            frames = tuple(files[name] for name in names if name not in strays)
            videos[folder] = Video(folder, frames, strays=tuple(sorted(strays, key=natural_key)))
    if beside:
        warn(
            f"{root}: left out {len(beside)} images that lie beside video files, such as "
            f"{beside[0]}; --match, in Python match=, chooses files"
        )
    stems = Counter(map(_stem, videos))
    twice = [name for name in videos if stems[_stem(name)] > 1]
    if twice:
        warn(
            f"{root}: {len(twice)} videos have one name but for the suffix, such as {twice[0]}, so "
            "some may be copies in another format; --match, in Python match=, chooses files"
        )
    if others and videos:
        warn(f"{root}: left out files that are not read as videos: {_counted(others)}")
    return [videos[name] for name in sorted(videos, key=natural_key)]


def _animated(names: Sequence[str], files: Mapping[str, File]) -> list[str]:
    """Names of animations among the images of a folder.

    Of PNGs the first decides whether the others are opened, as frames are many.
    """
    png = [name for name in names if _suffix(name) in (".png", ".apng")]
    looked_at = png if png and is_animated(files[png[0]]) else []
    looked_at = looked_at + [name for name in names if _suffix(name) == ".webp"]
    return [name for name in looked_at if is_animated(files[name])]


def _strays(names: Sequence[str]) -> set[str]:
    """Names of images in a folder that are not frames of its sequence.

    If more than half of the names share a beginning before a number, a name without a number or
    with a unique beginning is a stray. A second sequence is kept: reading it raises an error.
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
    """Whether a file is hidden or was added to an archive by macOS."""
    return any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def memory() -> int:
    """Memory of this machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _suffix(path: str | os.PathLike[str]) -> str:
    path = PurePosixPath(os.fspath(path))
    return ".tar.gz" if path.name.lower().endswith(".tar.gz") else path.suffix.lower()


def _zip(path: str) -> zipfile.ZipFile:
    # Kept open: the directory of a large archive is slow to read. Threads may share the object.
    return _kept_zip(path, _version(path))


@functools.lru_cache(maxsize=8)
def _kept_zip(path: str, version: tuple[int, ...]) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _version(path: str) -> tuple[int, ...]:
    """Numbers that change when the file changes."""
    status = os.stat(path)
    # The change time tells a file that was written in place and given its old modification time.
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_dev, status.st_ino


def _state(path: str) -> tuple[object, ...]:
    """Version of a file and, for a small one, hash of its content; empty for a broken link."""
    try:
        status = os.stat(path)
        content = None
        if stat.S_ISREG(status.st_mode) and status.st_size <= _SMALL_FILE:
            content = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        return *_version(path), content
    except OSError:  # reading the video raises the error
        return ()


def _add(digest: Any, *parts: object) -> None:
    # JSON separates the parts, and can hold names that are not UTF-8.
    digest.update(json.dumps(parts).encode() + b"\n")
