"""Files appear whole or not at all, and are told where they are not what was written."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from srvp_fd_jax.files import atomic as files
from srvp_fd_jax.files.atomic import (
    CHECKSUM,
    arrays_sha256,
    check_writable,
    open_file,
    printable,
    read_safetensors,
    size_of,
    trim,
    write_atomically,
    write_safetensors,
)

OLD, NEW = b"old" * 1000, b"new" * 5000
LIMIT = 1000


@pytest.fixture
def path(tmp_path):
    (tmp_path / "file").write_bytes(OLD)
    return tmp_path / "file"


def test_replaces_the_file_and_leaves_nothing_else(path):
    write_atomically(path, NEW)
    assert path.read_bytes() == NEW
    assert list(path.parent.iterdir()) == [path]


def test_makes_the_folders_above(tmp_path):
    write_atomically(tmp_path / "a" / "b" / "file", NEW)
    assert (tmp_path / "a" / "b" / "file").read_bytes() == NEW


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_permissions_are_those_that_the_umask_allows(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", NEW)
        assert os.umask(umask) == umask
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_an_error_in_the_middle_leaves_the_old_file_alone(path):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, unlimited[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            write_atomically(path, NEW)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert path.read_bytes() == OLD
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_at_the_end_leaves_the_old_file_alone(path, monkeypatch, error):
    def fail(source, _):
        assert Path(source).read_bytes() == NEW
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(error):
        write_atomically(path, NEW)
    assert path.read_bytes() == OLD
    assert list(path.parent.iterdir()) == [path]


def test_a_kill_in_the_middle_leaves_the_old_file(path):
    program = f"""
import pathlib, resource, runpy, signal
# What this imports may be compiled to files, which the limit would cut.
write = runpy.run_path({files.__file__!r})["write_atomically"]
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, {LIMIT}))
write(pathlib.Path({os.fspath(path)!r}), {NEW!r})
"""
    run = subprocess.run([sys.executable, "-c", program], check=False, timeout=100)
    assert run.returncode == -signal.SIGXFSZ
    (part,) = set(path.parent.iterdir()) - {path}
    assert part.stat().st_size == LIMIT
    assert path.read_bytes() == OLD


def test_writers_do_not_share_a_temporary_file(path, monkeypatch):
    replace, names = os.replace, []
    monkeypatch.setattr(os, "replace", lambda *names_: (names.append(names_[0]), replace(*names_)))
    for _ in range(2):
        write_atomically(path, NEW)
    assert len(set(names)) == 2


# Safetensors files.

ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array(3, np.int32),
    "c": np.zeros((0, 2)),
    "d": np.array([True, False]),
    "e": np.array([1.5, -2], ml_dtypes.bfloat16),
}
METADATA = {f"name {i}": f"välue {i}" for i in range(8)}


def let_through(metadata):
    pass


def assert_same_content(got, arrays, metadata):
    got_metadata, got_arrays = got
    assert {k: v for k, v in got_metadata.items() if k != CHECKSUM} == metadata
    assert got_arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert got_arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(got_arrays[name], array)
        assert got_arrays[name].shape == array.shape


def test_the_same_content_is_the_same_bytes_in_whatever_order(path):
    write_safetensors(path, ARRAYS, METADATA)
    first = path.read_bytes()
    backwards = {name: np.asarray(ARRAYS[name], order="F") for name in reversed(ARRAYS)}
    for _ in range(5):
        write_safetensors(path, backwards, dict(reversed(METADATA.items())))
        assert path.read_bytes() == first
    assert_same_content(read_safetensors(path, let_through), ARRAYS, METADATA)


def test_a_flipped_bit_is_told_or_does_no_harm(path):
    write_safetensors(path, {"a": ARRAYS["a"], "b": ARRAYS["b"]}, {"name": "value"})
    whole, told = path.read_bytes(), 0
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            metadata, arrays = read_safetensors(path, let_through)
        except ValueError:
            told += 1
        else:  # in the name of the checksum
            metadata = {name: value for name, value in metadata.items() if name == "name"}
            expected = {"a": ARRAYS["a"], "b": ARRAYS["b"]}
            assert_same_content((metadata, arrays), expected, {"name": "value"})
    assert told > 8 * len(whole) - 8 * len(CHECKSUM) - 64


def test_a_file_without_a_checksum_is_read(path):
    path.write_bytes(safetensors.numpy.save(ARRAYS, METADATA))
    assert_same_content(read_safetensors(path, let_through), ARRAYS, METADATA)


def test_the_hash_of_arrays_is_of_all_that_they_are():
    a = ARRAYS["a"]
    same = [{"a": a, "b": a[0]}, {"b": a[0], "a": a}, {"a": np.asarray(a, order="F"), "b": a[0]}]
    same.append({"a": a.astype(">f4"), "b": a[0]})
    others = [
        {"a": a},
        {"a": a, "c": a[0]},
        {"a": a.reshape(3, 2), "b": a[0]},
        {"a": a.view(np.int32), "b": a[0]},
        {"a": -a, "b": a[0]},
    ]
    assert len({arrays_sha256(arrays) for arrays in same}) == 1
    assert len({arrays_sha256(arrays) for arrays in [*same, *others]}) == 1 + len(others)


# What is no file, or may not be read.


@pytest.mark.parametrize("read", [open_file, lambda path: read_safetensors(path, let_through)])
def test_what_is_no_file_is_named(tmp_path, read):
    with pytest.raises(FileNotFoundError, match="none"):
        read(tmp_path / "none")
    with pytest.raises(IsADirectoryError, match=f"a folder, expected a file: '{tmp_path}'"):
        read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"a pipe or a device, expected a file: .*pipe"):
        read(tmp_path / "pipe")


def test_what_may_not_be_read_is_not_said_to_be_missing(path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied", os.fspath(path))

    # The tests may run as root, who may read everything.
    monkeypatch.setattr(files, "open", refuse, raising=False)
    with pytest.raises(PermissionError, match=r"Permission denied: .*file"):
        read_safetensors(path, let_through)


def test_types_that_numpy_has_not_are_told(path):
    array = np.zeros(3, ml_dtypes.float8_e4m3fn)
    path.write_bytes(safetensors.numpy.save({"a": array}, {}))
    with pytest.raises(ValueError, match=r"^the array 'a' is of the type F8_E4M3, "):
        read_safetensors(path, let_through)


@pytest.mark.parametrize("dtype", ["F32", "\x1b[31m\n" * 1000])
def test_what_safetensors_says_is_one_line_without_control_characters(path, dtype):
    tensor = {"dtype": dtype, "shape": [9], "data_offsets": [0, 4]}
    header = json.dumps({"\x1b[31m\n" * 1000: tensor}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(ValueError, match="damaged") as caught:
        read_safetensors(path, let_through)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_what_was_used_last_is_kept(tmp_path):
    paths = [tmp_path / f"{i}" for i in range(4)]
    for i, used in enumerate((30, 10, 40, 20)):
        paths[i].write_bytes(bytes(100))
        os.utime(paths[i], (used, used - 5))
    trim([*paths, tmp_path / "gone"], 250)
    assert [path.exists() for path in paths] == [True, False, True, False]
    assert size_of(paths) == 200
    trim(paths, 250)
    assert size_of(paths) == 200


def test_writable_is_told_without_a_trace(tmp_path):
    check_writable(tmp_path / "a" / "b" / "file")
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "a"):
        with pytest.raises(OSError, match=r"is a folder|Not a directory"):
            check_writable(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_printable_text_is_one_short_line_without_control_characters():
    assert printable("vidéo ∞ 1.mp4") == "vidéo ∞ 1.mp4"
    assert printable("a\x1b[2Jb\nc\u202e\udcff") == "a\\x1b[2Jb\\nc\\u202e\\udcff"
    cut = printable("first" + "x" * 50_000 + "last")
    assert len(cut) <= 2000
    assert cut.startswith("first")
    assert cut.endswith("last")
    assert "(50009 characters)" in cut


def test_an_error_of_the_disk_names_the_file_itself(tmp_path, monkeypatch):
    """As on a full disk, whose error names no file, and for one that names the temporary file."""
    monkeypatch.chdir(tmp_path)
    for named in ((), ("temporary",)):
        with monkeypatch.context() as patch:

            def full(*_: object, named: tuple[str, ...] = named) -> None:
                raise OSError(errno.ENOSPC, "No space left on device", *named)

            patch.setattr(os, "replace", full)
            with pytest.raises(OSError, match="No space left on device") as caught:
                write_atomically(Path("a/file"), b"new")
        assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, f"{tmp_path}/a/file")
        assert not any((tmp_path / "a").iterdir())
