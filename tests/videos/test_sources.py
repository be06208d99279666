import io
import json
import os
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srvp_fd_jax.videos import sources
from srvp_fd_jax.videos.sources import (
    File,
    Video,
    as_videos,
    clip_names,
    find_videos,
    fingerprint,
    local_names,
    natural_key,
)

# Videos in natural order, and what lies beside them.
VIDEOS = [
    "v1.mp4",
    "v2.avi",
    "v9.webm",
    "v10.mp4",
    "v010.mp4",
    "V11.MP4",
    "v100.mkv",
    "w.gif",
    "x.mov",
]
BESIDE = ["v1.json", "v1.txt", "labels.csv", ".v3.mp4", "._v1.mp4", ".hidden/v4.mp4", "Thumbs.db"]
MAC = ["__MACOSX/v1.mp4", "__MACOSX/._v1.mp4"]
ORDER = [
    "V11.MP4",
    "v1.mp4",
    "v2.avi",
    "v9.webm",
    "v010.mp4",
    "v10.mp4",
    "v100.mkv",
    "w.gif",
    "x.mov",
]


def content(name: str) -> bytes:
    return f"content of {name}".encode()


def fill(root: Path, names: list[str]) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(name))
    return root


def zipped(path: Path, names: list[str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, content(name))
    return path


def tarred(path: Path, names: list[str]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        folder = tarfile.TarInfo("a_folder.mp4")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(content(name))
            archive.addfile(info, io.BytesIO(content(name)))
    return path


def relative(root: Path, videos: list[Video]) -> list[str]:
    return [str(PurePosixPath(video.name).relative_to(root.as_posix())) for video in videos]


def opened(video: Video) -> bytes:
    source = video.files[0].open()
    return Path(source).read_bytes() if isinstance(source, str) else source.read()


@pytest.mark.parametrize("form", ["folder", ".zip", ".ZIP", ".tar", ".tar.gz", ".tgz"])
@pytest.mark.parametrize("classes", ["", "run 2/", "deep/er/"])
def test_all_forms_give_the_same_videos_in_natural_order(tmp_path: Path, form: str, classes: str):
    names = [classes + name for name in [*reversed(VIDEOS), *BESIDE, *MAC]]
    root = tmp_path / ("a" + form.replace("folder", ""))
    make = {"folder": fill, ".zip": zipped, ".ZIP": zipped}.get(form, tarred)
    found = find_videos(make(root, names))
    assert relative(root, found) == [classes + name for name in ORDER]
    for video, name in zip(found, ORDER, strict=True):
        assert opened(video) == content(classes + name)
        assert len(video.files) == 1
        assert video.row is None


def test_folders_of_classes_come_in_natural_order(tmp_path: Path):
    fill(tmp_path, [f"class{c}/v{v}.mp4" for c in (10, 9, 1) for v in (10, 2)])
    expected = [f"class{c}/v{v}.mp4" for c in (1, 9, 10) for v in (2, 10)]
    assert relative(tmp_path, find_videos(tmp_path)) == expected


def test_webdataset_shards(tmp_path: Path):
    keys = [f"{i:06d}" for i in range(12)]
    for shard in range(3):
        own = keys[4 * shard : 4 * shard + 4]
        tarred(tmp_path / f"s-{shard}.tar", [f"{k}.{e}" for k in own for e in ("json", "mp4")])
    found = find_videos(tmp_path)
    assert [PurePosixPath(video.name).name for video in found] == [f"{key}.mp4" for key in keys]
    assert [opened(video) for video in found] == [content(f"{key}.mp4") for key in keys]
    assert relative(tmp_path, found)[5] == "s-1.tar/000005.mp4"


def test_frames_are_videos_by_folder(tmp_path: Path):
    names = [f"{v}/frame{t}.{e}" for v in ("b2", "b10") for t in range(12) for e in ("png", "txt")]
    fill(tmp_path / "folder", names)
    zipped(tmp_path / "a.zip", names)
    tarred(tmp_path / "a.tar", names)
    for root in (tmp_path / "folder", tmp_path / "a.zip", tmp_path / "a.tar"):
        found = find_videos(root)
        assert relative(root, found) == ["b2", "b10"]
        for video, name in zip(found, ("b2", "b10"), strict=True):
            got = [
                PurePosixPath(file.name).relative_to(root.as_posix()).as_posix()
                if root.is_dir()
                else file.name
                for file in video.files
            ]
            assert got == [f"{name}/frame{t}.png" for t in range(12)]


@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_images_beside_videos_are_no_videos(tmp_path: Path, form: str):
    """A folder of videos with a thumbnail of each, and of folders of frames."""
    names = [f"{v}.{e}" for v in range(4) for e in ("mp4", "jpg")]
    names += [f"frames/{v}/{t}.png" for v in range(2) for t in range(3)]
    root = fill(tmp_path / "a", names)
    if form != "folder":
        root = Path(shutil.make_archive(str(root), form, root))
    with pytest.warns(UserWarning, match=r"left out 4 images .* such as .*0\.jpg"):
        found = find_videos(root)
    assert relative(root, found) == [*(f"{v}.mp4" for v in range(4)), "frames/0", "frames/1"]
    found = find_videos(root, "?.mp4")  # without a warning
    assert relative(root, found) == [f"{v}.mp4" for v in range(4)]
    found = find_videos(root, "*.jpg")
    assert [len(video.files) for video in found] == [4]


def test_one_video_in_two_formats_gives_a_warning(tmp_path: Path):
    fill(tmp_path, ["1.mp4", "1.gif", "2.mp4", "b/2.gif", "3/1.png", "3.mp4"])
    with pytest.warns(UserWarning, match=r"4 videos have one name but for the suffix.*1\.gif"):
        find_videos(tmp_path)
    assert len(find_videos(tmp_path, "*.mp4")) == 3


KINDS = [
    *("mpg", "mpeg", "ts", "m2ts", "mts", "wmv", "asf", "flv", "ogv", "3gp", "3g2", "y4m", "vob"),
    *("mxf", "dv"),
]


def test_files_of_kinds_that_are_not_read_are_counted(tmp_path: Path):
    names = [f"{i}.{kind}" for i, kind in enumerate(KINDS)]
    fill(tmp_path, names + BESIDE + ["a.rm", "b.RM", "c.bmp"])
    with pytest.warns(UserWarning, match=r"not read as videos: 2 \.rm, 1 \.bmp$"):
        found = find_videos(tmp_path)
    assert relative(tmp_path, found) == names
    for i, _ in enumerate(KINDS):
        (tmp_path / names[i]).unlink()
    with pytest.raises(ValueError, match=r"holds no videos.*it holds 2 \.rm"):
        find_videos(tmp_path)


@pytest.mark.parametrize("form", ["folder", "zip", "tar.gz"])
@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ("*_gt.mp4", ["b/10_gt.mp4", "b/2_gt.mp4", "1_gt.mp4"]),
        ("1_*", ["1_gt.mp4", "1_pred.mp4"]),
        ("b/*_pred.mp4", ["b/2_pred.mp4"]),
        ("c/*", ["c"]),
    ],
)
def test_a_glob_chooses_files(tmp_path: Path, form: str, match: str, expected: list):
    names = ["1_gt.mp4", "1_pred.mp4", "b/2_gt.mp4", "b/2_pred.mp4", "b/10_gt.mp4", "c/1.png"]
    root = fill(tmp_path / "a", names)
    if form == "zip":
        root = zipped(tmp_path / "a.zip", names)
    elif form == "tar.gz":
        root = tarred(tmp_path / "a.tar.gz", names)
    assert set(relative(root, find_videos(root, match))) == set(expected)
    assert relative(root, as_videos(str(root), "real", match)) == relative(
        root, find_videos(root, match)
    )


def test_a_glob_that_chooses_nothing_is_an_error(tmp_path: Path):
    fill(tmp_path, ["1.mp4"])
    with pytest.raises(ValueError, match=r"match: got 'x\*', which none of the 1 files .*1\.mp4"):
        find_videos(tmp_path, "x*")
    with pytest.raises(ValueError, match=r"match: got '\*', but real is not a path"):
        as_videos(CLIPS, "real", "*")


def test_a_list_of_paths_in_a_file(tmp_path: Path):
    fill(tmp_path, ["v10.mp4", "v2.mp4", "folder/b.mp4", "folder/a.mp4", "c d.mp4"])
    lines = ["# comment", "", "v10.mp4", " v2.mp4 ", str(tmp_path / "folder"), "c d.mp4"]
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    expected = ["v10.mp4", "v2.mp4", "folder/a.mp4", "folder/b.mp4", "c d.mp4"]
    found = find_videos(tmp_path / "list.txt")
    assert [os.path.relpath(video.name, tmp_path) for video in found] == expected
    found = find_videos(tmp_path / "list.txt", "?.mp4")
    assert [os.path.relpath(video.name, tmp_path) for video in found] == expected[2:4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("v.mp4\nw.mp4", r"list\.txt: line 2: .*w\.mp4: no such file"),
        ("list.txt", r"list\.txt: line 1: .*is a list itself"),
        ("#", "lists no videos"),
    ],
)
def test_a_wrong_list_is_an_error(tmp_path: Path, text: str, message: str):
    fill(tmp_path, ["v.mp4"])
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_videos(tmp_path / "list.txt")


def test_a_tar_gz_is_decompressed_once_within_a_budget(tmp_path: Path, monkeypatch):
    path = tarred(tmp_path / "a.tar.gz", [f"{i}.mp4" for i in range(9)])
    found = find_videos(path)
    assert len({video.files[0].unpacked for video in [*found, *find_videos(path)]}) == 1
    assert fingerprint(found) == fingerprint(find_videos(path))
    assert [opened(video) for video in found] == [content(f"{i}.mp4") for i in range(9)]
    monkeypatch.setattr(sources, "UNPACKED_BYTES", 4096)
    tarred(path, [f"{i}.mp4" for i in range(10)])
    with pytest.raises(ValueError, match=r"a\.tar\.gz: not a readable archive: its content would"):
        find_videos(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"a\.tar\.gz: not a readable archive"):
        find_videos(path)


@pytest.mark.parametrize(
    ("frames", "strays"),
    [
        (["1.png", "2.png", "10.png"], ["preview.png", "thumb_256x256.jpg"]),
        (["f_1.png", "f_2.png"], ["last.png"]),
        (["f_1_t-0.1.png", "f_2_t0.0.png", "f_3_t0.1.png"], ["cover.png"]),
        (["first.png", "second.png", "third3.png"], []),
        (["a_1.png", "a_2.png", "a_3.png", "b_1.png", "b_2.png"], []),  # told as a flaw
        (["1.png", "preview.png"], []),
        (["preview.png"], []),
    ],
)
def test_images_beside_a_sequence_are_no_frames(tmp_path: Path, frames: list, strays: list):
    fill(tmp_path / "v", frames + strays)
    (found,) = find_videos(tmp_path)
    assert [PurePosixPath(file.name).name for file in found.files] == frames
    assert [PurePosixPath(name).name for name in found.strays] == strays


def test_folders_in_zips_are_no_videos(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a.mp4/", "b.png/", "a.mp4/1.mp4"):
            archive.writestr(name, b"")
    assert relative(tmp_path / "a.zip", find_videos(tmp_path / "a.zip")) == ["a.mp4/1.mp4"]


def test_videos_frames_arrays_and_archives_may_be_mixed(tmp_path: Path):
    fill(tmp_path, ["c.mp4", "d/1.jpg", "d/2.jpg", "e/f.npz", "README"])
    zipped(tmp_path / "b.zip", ["2.mp4", "f/0.webp"])
    tarred(tmp_path / "g.tar", ["1.npy"])
    expected = ["b.zip/2.mp4", "b.zip/f", "c.mp4", "d", "e/f.npz", "g.tar/1.npy"]
    assert relative(tmp_path, find_videos(tmp_path)) == expected


def test_links_are_followed_and_loops_survive(tmp_path: Path):
    root = fill(tmp_path / "root", ["a/1.mp4", "b/2.mp4"])
    outside = fill(tmp_path / "outside", ["3.mp4"])
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "a" / "b").symlink_to(root / "b")
    (root / "b" / "a").symlink_to(root / "a")
    (root / "c").symlink_to(outside)
    (root / "4.mp4").symlink_to(outside / "3.mp4")
    (root / "5.mp4").symlink_to(tmp_path / "nothing")
    found = find_videos(root)
    expected = ["4.mp4", "5.mp4", "a/1.mp4", "a/b/2.mp4", "b/2.mp4", "b/a/1.mp4", "c/3.mp4"]
    assert relative(root, found) == expected
    assert fingerprint(found) == fingerprint(find_videos(root))


def test_a_hidden_folder_above_does_not_matter(tmp_path: Path):
    root = fill(tmp_path / ".cache" / "data", ["1.mp4"])
    assert len(find_videos(root)) == 1
    assert len(find_videos(zipped(root / "a.zip", ["1.mp4"]))) == 1


def test_relative_paths_and_strings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fill(tmp_path / "a", ["1.mp4", "b/2.mp4"])
    monkeypatch.chdir(tmp_path / "a")
    assert [video.name for video in find_videos(".")] == ["1.mp4", "b/2.mp4"]
    monkeypatch.chdir(tmp_path)
    assert [video.name for video in find_videos("a/")] == ["a/1.mp4", "a/b/2.mp4"]


def test_links_in_tars_are_told_and_not_followed(tmp_path: Path):
    links = {
        "1.mp4": (tarfile.SYMTYPE, "/etc/passwd"),
        "2.mp4": (tarfile.LNKTYPE, "a/3.mp4"),
        "folder": (tarfile.SYMTYPE, "a"),
    }
    path = tarred(tmp_path / "a.tar", ["a/3.mp4"])
    with tarfile.open(path, "a") as archive:
        for name, (kind, target) in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    with pytest.warns(UserWarning, match="1 links are not followed, such as folder"):
        found = find_videos(path)
    assert relative(path, found) == ["1.mp4", "2.mp4", "a/3.mp4"]
    for video, target in zip(found, ("/etc/passwd", "a/3.mp4"), strict=False):
        with pytest.raises(ValueError, match=f"is a link to '{target}'"):
            opened(video)


@pytest.mark.parametrize("form", ["gnu", "oldgnu", "posix"])
def test_sparse_members_of_tars_have_their_holes(tmp_path: Path, form: str):
    with open(tmp_path / "1.mp4", "wb") as file:
        file.write(b"head")
        file.seek(1 << 20)
        file.write(b"tail")
    (tmp_path / "2.mp4").write_bytes(b"next")
    content = (tmp_path / "1.mp4").read_bytes()
    command = ["tar", "-cSf", "a.tar", f"--format={form}", "1.mp4", "2.mp4"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=100)
    assert (tmp_path / "a.tar").stat().st_size < 100_000
    assert [opened(video) for video in find_videos(tmp_path / "a.tar")] == [content, b"next"]


def test_long_names_in_tars(tmp_path: Path):
    name = "v" * 300 + ".mp4"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / "a.tar", "w", format=form) as archive:
            for i in range(2):
                info = tarfile.TarInfo(f"{i}{name}")
                info.size = 1
                archive.addfile(info, io.BytesIO(f"{i}".encode()))
        assert [opened(video) for video in find_videos(tmp_path / "a.tar")] == [b"0", b"1"]


# What people hold videos in

CLIPS = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 8, 3), np.uint8)


class Videos:
    """What has a length and gives videos by number."""

    def __init__(self, *videos: object):
        self.videos = videos

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, i: int) -> object:
        return self.videos[i]


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_is_what_is_found_there(tmp_path: Path, kind):
    fill(tmp_path, VIDEOS)
    assert as_videos(kind(tmp_path), "real") == find_videos(tmp_path)


@pytest.mark.parametrize("kind", [list, tuple])
def test_paths_are_taken_in_their_order(tmp_path: Path, kind):
    fill(tmp_path, ["v10.mp4", "v2.MP4", "folder/b.mp4", "folder/a.mp4"])
    zipped(tmp_path / "a.zip", ["1.mp4", "2.mp4"])
    np.save(tmp_path / "many.npy", CLIPS)
    np.savez(tmp_path / "one.npz", CLIPS[0])
    names = ["v10.mp4", "v2.MP4", "folder", "a.zip", "many.npy", "one.npz"]
    paths = [tmp_path / name for name in names[:3]] + [str(tmp_path / name) for name in names[3:]]
    found = as_videos(kind(paths), "real")
    assert [os.path.relpath(video.name, tmp_path) for video in found] == [
        *("v10.mp4", "v2.MP4", "folder/a.mp4", "folder/b.mp4", "a.zip/1.mp4", "a.zip/2.mp4"),
        *("many.npy[0]", "many.npy[1]", "many.npy[2]", "one.npz"),
    ]
    assert found[0] == Video(str(tmp_path / "v10.mp4"), (File(str(tmp_path / "v10.mp4")),))
    assert [video.row for video in found[-4:]] == [0, 1, 2, None]
    assert [video.is_array for video in found] == [False] * 6 + [True] * 4


def as_torch(array: np.ndarray) -> object:
    return pytest.importorskip("torch").from_numpy(array)


@pytest.mark.parametrize(
    "make",
    [np.asarray, jnp.asarray, as_torch, list, tuple, lambda clips: Videos(*clips)],
    ids=["numpy", "jax", "torch", "list", "tuple", "object"],
)
def test_videos_in_memory_are_told_by_number(make):
    found = as_videos(make(CLIPS), "fake")
    assert [video.name for video in found] == ["fake[0]", "fake[1]", "fake[2]"]
    assert [(video.files, video.row, video.is_array) for video in found] == [
        ((), i, True) for i in range(3)
    ]
    for video, clip in zip(found, CLIPS, strict=True):
        np.testing.assert_array_equal(video.items[video.row], clip)


@pytest.mark.parametrize("make", [jnp.asarray, as_torch], ids=["jax", "torch"])
def test_arrays_of_devices_are_read_once(make):
    found = as_videos(make(CLIPS), "real")
    assert all(video.items is found[0].items for video in found)
    assert isinstance(found[0].items, np.ndarray)


def test_objects_give_nothing_before_they_are_read():
    class Lazy(Videos):
        def __getitem__(self, i: int) -> object:
            raise AssertionError("read")

    assert len(as_videos(Lazy(1, 2), "real")) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ([], "real: got an empty list"),
        ((), "real: got an empty list"),
        (CLIPS[:0], "real: holds no videos"),
        (Videos(), "real: holds no videos"),
        ("", "got an empty path"),
    ],
    ids=["list", "tuple", "array", "object", "path"],
)
def test_nothing_holds_no_videos(source, message: str):
    with pytest.raises(ValueError, match=message):
        as_videos(source, "real")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "real: got a NoneType, expected a path, paths, an array, statistics or an object w"),
        (3, "real: got a int, expected a path"),
        (object(), "real: got a object, expected a path"),
        ({1, 2}, "real: got a set, expected a path"),
        (iter(CLIPS), "expected a path, paths, an array, statistics or an object with __len__"),
        (np.float32(3), r"real: got an array of shape \(\), expected clips \[N, T, H, W, C\]"),
        (CLIPS[0], r"real: got an array of shape \(4, 8, 8, 3\), expected clips \[N, T, H, W"),
        (CLIPS[None], r"got an array of shape \(1, 3, 4, 8, 8, 3\), expected clips"),
    ],
    ids=["None", "int", "object", "set", "iterator", "scalar", "one clip", "6 axes"],
)
def test_things_that_hold_no_videos_are_told(source, message: str):
    with pytest.raises(ValueError, match=message):
        as_videos(source, "real")


def test_arrays_without_values_are_told():
    with pytest.raises(ValueError, match="whose values lie in other processes"):
        jax.eval_shape(lambda clips: len(as_videos(clips, "real")), jnp.asarray(CLIPS))


@pytest.mark.parametrize("make", [str, lambda path: [path], lambda path: [str(path)]])
def test_paths_of_nothing_are_told(tmp_path: Path, make):
    with pytest.raises(FileNotFoundError, match=r"v\.mp4: no such file or folder"):
        as_videos(make(tmp_path / "v.mp4"), "real")


# Bad input


def test_nothing_there(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nothing: no such file or folder"):
        find_videos(tmp_path / "nothing")


@pytest.mark.parametrize("names", [[], ["README", "labels.json"], [".1.mp4", "__MACOSX/2.mp4"]])
def test_no_videos(tmp_path: Path, names: list):
    (tmp_path / "folder").mkdir()
    fill(tmp_path / "folder", names)
    zipped(tmp_path / "a.zip", names)
    tarred(tmp_path / "a.tar", names)
    for root in ("folder", "a.zip", "a.tar"):
        with pytest.raises(ValueError, match=rf"{root}: holds no videos \(.mp4.*, frames .*arrays"):
            find_videos(tmp_path / root)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.mp4", r"a \.txt file that lists them"),
        ("a", "expected a folder or a .zip, .tar"),
        ("a.h5", r"import h5py; from srvp_fd_jax import compute; clips = .*File\('.*a\.h5'\)"),
        ("a.pt", r"import torch; from srvp_fd_jax import .*load\('.*a\.pt', weights_only=True\)"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=text):
        find_videos(tmp_path / name)


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tgz", "npy", "npz"])
@pytest.mark.parametrize("text", [b"", b"text " * 400])
def test_what_is_no_archive_or_array(tmp_path: Path, suffix: str, text: bytes):
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=rf"a.{suffix}: (not a readable|holds no)"):
        find_videos(path)


@pytest.mark.parametrize("make", [zipped, tarred])
def test_a_truncated_archive_is_told(tmp_path: Path, make):
    path = make(tmp_path / f"a.{make.__name__[:3]}", [f"{i}.mp4" for i in range(50)])
    path.write_bytes(path.read_bytes()[: 700 + 512])
    with pytest.raises(ValueError, match=f"{path.name}: not a readable archive"):
        find_videos(path)
    with pytest.raises(ValueError, match=f"{path.name}: not a readable archive"):
        find_videos(tmp_path)


def test_encrypted_and_damaged_members_are_told(tmp_path: Path):
    path = zipped(tmp_path / "a.zip", ["1.mp4"])
    whole = path.read_bytes()
    (video,) = find_videos(path)
    for offset in (6, whole.index(b"PK\1\2") + 8):
        whole = whole[:offset] + b"\1" + whole[offset + 1 :]  # the flag of encryption
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"a.zip: not a readable archive.*(encrypted|password)"):
        opened(video)


def test_a_replaced_zip_is_read_anew(tmp_path: Path):
    zipped(tmp_path / "a.zip", ["1.mp4"])
    assert opened(find_videos(tmp_path)[0]) == content("1.mp4")
    zipped(tmp_path / "a.zip", ["22.mp4", "3.mp4"])
    assert [opened(video) for video in find_videos(tmp_path)] == [
        content("3.mp4"),
        content("22.mp4"),
    ]


def test_more_zips_than_stay_open(tmp_path: Path):
    for i in range(20):
        zipped(tmp_path / f"{i}.zip", [f"{i}.mp4"])
    found = find_videos(tmp_path)
    assert [opened(video) for video in found] == [content(f"{i}.mp4") for i in range(20)]
    handles = [os.readlink(f"/proc/self/fd/{fd}") for fd in list_handles()]
    assert sum(str(tmp_path) in path for path in handles) <= 8


def list_handles() -> list[str]:
    return [fd for fd in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{fd}")]


def test_names_that_are_not_utf_8(tmp_path: Path):
    name = os.fsdecode(b"v\xff.mp4")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / name).write_bytes(content("1"))
    with tarfile.open(tmp_path / "a.tar", "w", encoding="utf-8") as archive:
        archive.add(tmp_path / "a" / name, name)
    for root in (tmp_path / "a", tmp_path / "a.tar"):
        found = find_videos(root)
        assert relative(root, found) == [name]
        assert opened(found[0]) == content("1")
        assert len(fingerprint(found)) == 64
    zipped(tmp_path / "a.zip", ["vé.mp4"])
    damaged = (tmp_path / "a.zip").read_bytes().replace("é".encode(), b"\xff\xff")
    (tmp_path / "a.zip").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"a.zip: not a readable archive: .*utf-8"):
        find_videos(tmp_path / "a.zip")


def test_numbers_of_any_length_in_names(tmp_path: Path):
    names = [f"{digit}{'0' * 5000}.mp4" for digit in (10, 9, 2)]
    path = zipped(tmp_path / "a.zip", names)
    assert relative(path, find_videos(path)) == names[::-1]


def test_links_in_a_circle_are_told_where_they_are_read(tmp_path: Path):
    root = fill(tmp_path / "a", ["2.mp4"])
    (root / "1.mp4").symlink_to("1.mp4")
    (root / "circle").symlink_to("circle")
    found = find_videos(root)
    assert relative(root, found) == ["1.mp4", "2.mp4"]
    with pytest.raises(OSError, match="symbolic links"):
        opened(found[0])
    with pytest.raises(OSError, match="symbolic links"):
        find_videos(root / "circle")


def test_an_empty_path_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(fill(tmp_path, ["1.mp4"]))
    with pytest.raises(ValueError, match="empty path"):
        find_videos("")


# Order

NAMES = st.lists(st.text("ab/.10²٣ -", max_size=8), max_size=6)


@given(NAMES)
def test_any_names_have_one_order(names: list[str]):
    ordered = sorted(set(names), key=natural_key)
    backwards = ordered[::-1]
    assert sorted(backwards, key=natural_key) == ordered
    assert len({json.dumps(natural_key(name)) for name in ordered}) == len(ordered)


@given(st.text("ab²", max_size=3), st.lists(st.integers(0, 10**25), min_size=1), st.text("cd"))
def test_numbers_come_by_value(before: str, numbers: list[int], after: str):
    names = [f"{before}{number}{after}" for number in numbers]
    assert sorted(names, key=natural_key) == [f"{before}{n}{after}" for n in sorted(numbers)]


# Fingerprints


def fingerprint_of(root: Path) -> str:
    return fingerprint(find_videos(root))


@pytest.mark.parametrize("form", ["folder", "zip", "tar", "npy"])
def test_fingerprints_do_not_depend_on_the_place(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "one" / "a"  # of which nothing but its folder is moved
    root.parent.mkdir()
    if form == "folder":
        fill(root, ["c/1.mp4", "c/2.mp4", "d/1.png"])
    elif form == "npy":
        root = root.with_suffix(".npy")
        np.save(root, np.zeros((3, 4, 8, 8, 1), np.uint8))
    else:
        root = root.with_suffix(f".{form}")
        {"zip": zipped, "tar": tarred}[form](root, ["1.mp4", "2.mp4"])
    before = fingerprint_of(root)
    assert before == fingerprint_of(root)
    monkeypatch.chdir(root.parent)
    assert fingerprint_of(Path(root.name)) == before
    moved = tmp_path / "two" / "deeper"
    moved.mkdir(parents=True)
    shutil.move(root.parent, moved)
    assert fingerprint_of(moved / "one" / root.name) == before


def test_fingerprints_change_with_names_sizes_and_times(tmp_path: Path):
    root = fill(tmp_path / "a", ["c/1.mp4", "c/2.mp4", "d/1.png"])
    stamp = (1_700_000_000 * 10**9,) * 2
    for path in root.rglob("*.*"):
        os.utime(path, ns=stamp)
    seen = [fingerprint_of(root)]

    def changed() -> None:
        assert fingerprint_of(root) not in seen
        seen.append(fingerprint_of(root))

    (root / "c/1.mp4").write_bytes(b"longer " * 9)
    os.utime(root / "c/1.mp4", ns=stamp)
    changed()
    os.utime(root / "c/2.mp4", ns=(stamp[0], stamp[0] + 1000))
    changed()
    (root / "c/2.mp4").rename(root / "c/3.mp4")
    changed()
    fill(root, ["c/4.mp4"])
    changed()
    (root / "c/4.mp4").unlink()
    assert fingerprint_of(root) == seen[-2]


def test_what_lies_beside_does_not_change_fingerprints(tmp_path: Path):
    root = fill(tmp_path, ["1.mp4", "2.mp4"])
    before = fingerprint_of(root)
    fill(root, BESIDE)
    assert fingerprint_of(root) == before


STAMP = (1_700_000_000 * 10**9,) * 2


@pytest.mark.parametrize("large", [False, True])
def test_single_files_of_one_size_and_time_have_fingerprints_of_their_own(
    tmp_path: Path, large: bool
):
    """As `tar xf` leaves train.npy and test.npy; large files are not read for it."""
    shape = (3, 600, 600, 3) if large else (3, 4, 8, 8, 1)
    for name, value in (("train", 0), ("test", 1), ("other/test", 2)):
        path = tmp_path / f"{name}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, np.full(shape, value, np.uint8))
        os.utime(path, ns=STAMP)
    names = ["train.npy", "test.npy", "other/test.npy"]
    assert len({fingerprint_of(tmp_path / name) for name in names}) == 3
    kept = fingerprint_of(tmp_path / "train.npy")
    (tmp_path / "train.npy").rename(tmp_path / "valid.npy")
    assert fingerprint_of(tmp_path / "valid.npy") != kept


def test_a_small_file_rewritten_in_place_within_its_time_has_another_fingerprint(tmp_path: Path):
    root = fill(tmp_path, ["1.mp4", "2.mp4"])
    before = fingerprint_of(root)
    times = (root / "1.mp4").stat()
    with open(root / "1.mp4", "r+b") as file:
        file.write(b"C")
    os.utime(root / "1.mp4", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint_of(root) != before


def test_members_of_an_archive_are_part_of_its_fingerprint(tmp_path: Path):
    """What is found in an archive depends on the release."""
    found = find_videos(zipped(tmp_path / "a.zip", ["1.mp4", "2.mp4", "3.mp4"]))
    assert fingerprint(found[:2]) != fingerprint(found[1:])


def test_a_large_file_rewritten_in_place_has_another_fingerprint(tmp_path: Path):
    """Its content is not read, and its size and its modification time are those before."""
    path = tmp_path / "1.mp4"
    path.write_bytes(bytes(2 << 20))
    before, times = fingerprint_of(tmp_path), path.stat()
    with open(path, "r+b") as file:
        file.write(b"C" * (1 << 20))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert fingerprint_of(tmp_path) != before


def test_local_names_do_not_depend_on_the_path_of_the_folder(tmp_path, monkeypatch):
    for name in ("a/1.npy", "a/12.npy", "b/1.npy"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "videos" / name, np.zeros((3, 4, 4, 1), np.uint8))
    monkeypatch.chdir(tmp_path)
    for spelled in ("videos", "./videos", str(tmp_path / "videos")):
        assert local_names(find_videos(spelled)) == ["a/1.npy", "a/12.npy", "b/1.npy"]
    assert local_names(find_videos("videos/b")) == ["1.npy"]
    shutil.rmtree("videos/b")  # the names of the others stay
    assert local_names(find_videos("videos")) == ["a/1.npy", "a/12.npy"]
    shutil.make_archive("wrapped", "tar", ".", "videos/a")
    assert local_names(find_videos("wrapped.tar")) == ["1.npy", "12.npy"]
    assert local_names(as_videos([np.zeros((3, 4, 4, 1), np.uint8)] * 2, "x")) == ["x[0]", "x[1]"]


@pytest.mark.filterwarnings("ignore:.*one name but for the suffix")
def test_clips_have_the_names_of_their_videos_without_the_suffix(tmp_path):
    for name in ("a/1.mp4", "a/2.GIF", "b/1.avi", "b/v1.5/0.png", "b/v1.5/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    videos = find_videos(tmp_path)
    assert clip_names(videos, "real") == ["a/1", "a/2", "b/1", "b/v1.5"]
    assert clip_names(videos, "real", paired=True) == ["[0]", "[1]", "[2]", "[3]"]
    (tmp_path / "b/1.mp4").touch()  # beside 1.avi
    assert clip_names(find_videos(tmp_path), "real") == [
        "a/1",
        "a/2",
        "b/1.avi",
        "b/1.mp4",
        "b/v1.5",
    ]
    clips = np.zeros((2, 3, 4, 4, 1), np.uint8)
    np.save(tmp_path / "clips.npy", clips)
    assert clip_names(find_videos(tmp_path / "clips.npy"), "fake") == [
        "fake: clips.npy[0]",
        "fake: clips.npy[1]",
    ]
