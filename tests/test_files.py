"""Files appear whole or not at all."""

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from srvp_fd_jax import files
from srvp_fd_jax.files import (
    check_writable,
    printable,
    read_safetensors,
    size_of,
    to_safetensors,
    trim,
    write_atomically,
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
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, ({LIMIT}, {LIMIT}))
write = runpy.run_path({files.__file__!r})["write_atomically"]
write(pathlib.Path({os.fspath(path)!r}), {NEW!r})
"""
    run = subprocess.run([sys.executable, "-c", program], check=False)
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


def test_safetensors_are_the_same_for_the_same_content(tmp_path):
    metadata = {f"key {i}": f"ü {i}" for i in range(9)}
    arrays = {"b": np.arange(3.0), "a": np.arange(4, dtype=np.int32)}
    data = to_safetensors(arrays, metadata)
    for _ in range(5):
        assert to_safetensors(arrays, dict(reversed(metadata.items()))) == data
    (tmp_path / "file").write_bytes(data)
    read, loaded = read_safetensors(tmp_path / "file", lambda metadata: None)
    assert read == metadata
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)


def test_printable_text_is_one_short_line_without_control_characters():
    assert printable("vidéo ∞ 1.mp4") == "vidéo ∞ 1.mp4"
    assert printable("a\x1b[2Jb\nc\u202e\udcff") == "a\\x1b[2Jb\\nc\\u202e\\udcff"
    cut = printable("first" + "x" * 50_000 + "last")
    assert len(cut) <= 2000
    assert cut.startswith("first")
    assert cut.endswith("last")
    assert "(50009 characters)" in cut
