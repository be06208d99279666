import contextlib
import functools
import io
import itertools
import os
import re
import shutil
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import av
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from clips import cut, decode, moving, real_videos, write_video
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from srvp_fd_jax.protocols import find_protocol
from srvp_fd_jax.videos import reading
from srvp_fd_jax.videos.loading import clip_frames, load_clips
from srvp_fd_jax.videos.reading import read_frames
from srvp_fd_jax.videos.sources import File, Video, as_videos, find_videos

B_FRAMES = {"g": "12", "bf": "3"}
OPEN = "open-gop=1:b-adapt=0:scenecut=0"
QUIET = "log-level=none:pools=none:frame-threads=1"
ALT_REF = {"g": "12", "auto-alt-ref": "1", "lag-in-frames": "16", "b": "200k"}

# Codec and options by file name.
ENCODED = {
    "h264.mp4": ("libx264", B_FRAMES),
    "h264_open_gop.mp4": ("libx264", {**B_FRAMES, "x264-params": OPEN}),
    "h264_no_key_frames.mp4": ("libx264", {**B_FRAMES, "x264-params": "intra-refresh=1"}),
    "hevc.mp4": ("libx265", {**B_FRAMES, "x265-params": f"{OPEN}:{QUIET}"}),
    "vp9.mp4": ("libvpx-vp9", {**ALT_REF, "cpu-used": "8"}),
    "mpeg4.mp4": ("mpeg4", B_FRAMES),
    "mpeg4.avi": ("mpeg4", {"g": "12"}),
    "mpeg4_b_frames.avi": ("mpeg4", B_FRAMES),
    "h264_b_frames.avi": ("libx264", B_FRAMES),
    "mjpeg.avi": ("mjpeg", {}),
    "vp8.webm": ("libvpx", ALT_REF),
    "vp9.webm": ("libvpx-vp9", {**ALT_REF, "cpu-used": "8"}),
    "h264.mov": ("libx264", {"g": "30", "bf": "3"}),
    "png.mov": ("png", {}),
    "h264.mkv": ("libx264", B_FRAMES),
    "hevc.mkv": ("libx265", {**B_FRAMES, "x265-params": f"{OPEN}:{QUIET}"}),
    "ffv1.mkv": ("ffv1", {}),
    "pixels.gif": ("gif", {}),
}
PIXELS = {"gif": "rgb8", "mjpeg": "yuvj420p", "png": "rgb24"}


def video(*paths: Path) -> Video:
    return Video(str(paths[0]), tuple(File(str(path)) for path in paths))


def every(length: int) -> np.ndarray:
    return np.arange(length)


def read(*paths: Path) -> np.ndarray:
    return read_frames(video(*paths), every)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@functools.cache
def encoded(folder: Path, name: str) -> tuple[Path, np.ndarray]:
    """A file of `ENCODED` and its frames."""
    codec, options = ENCODED[name]
    pixels = PIXELS.get(codec, "yuv420p")
    path = write_video(folder / name, moving(50), codec, pixels=pixels, options=options)
    return path, decode(path)


def assert_any_run_is_exact(path: Path, frames: np.ndarray, runs: int = 6) -> None:
    rng = np.random.default_rng(len(path.name))
    np.testing.assert_array_equal(read(path), frames)
    for _ in range(runs):
        step = int(rng.integers(1, 4))
        numbers = np.arange(rng.integers(len(frames) - 6), len(frames), step)[: rng.integers(1, 9)]
        lengths = []

        def choose(length: int, numbers=numbers, lengths=lengths) -> np.ndarray:
            lengths.append(length)
            return numbers

        np.testing.assert_array_equal(read_frames(video(path), choose), frames[numbers])
        assert lengths[-1] == len(frames)


@pytest.mark.parametrize("name", ENCODED)
def test_any_run_of_frames_is_that_of_a_plain_loop(folder: Path, name: str):
    path, frames = encoded(folder, name)
    assert len(frames) == 50
    assert_any_run_is_exact(path, frames)


def test_files_have_what_makes_reading_hard(folder: Path):
    def packets(name: str) -> list[av.Packet]:
        with av.open(str(encoded(folder, name)[0])) as container:
            return [packet for packet in container.demux(video=0) if packet.size]

    assert sum(packet.is_keyframe for packet in packets("h264.mp4")) >= 4
    for name in ("h264.mp4", "hevc.mkv", "mpeg4.mp4"):
        times = [packet.pts for packet in packets(name)]
        assert times != sorted(times)
    # Frames after a key frame that are shown before it.
    for name in ("h264_open_gop.mp4", "hevc.mkv"):
        rest = list(itertools.dropwhile(lambda packet: not packet.is_keyframe, packets(name)[1:]))
        assert any(packet.pts < rest[0].pts for packet in rest)


@pytest.mark.parametrize("suffix", [".webm", ".mkv"])
def test_frames_of_vp8_that_are_never_shown(folder: Path, suffix: str):
    def hide(data: bytes) -> bytes:
        return bytes([data[0] & ~0x10]) + data[1:]  # show_frame of RFC 6386, 9.1

    path, frames = encoded(folder, "vp8.webm")
    hidden = cut(path, folder / f"hidden{suffix}", 0, {7: hide, 8: hide, 30: hide})
    plain = decode(hidden)
    np.testing.assert_array_equal(plain, np.delete(frames, [7, 8, 30], axis=0))
    assert_any_run_is_exact(hidden, plain)


@pytest.mark.parametrize("path", real_videos(), ids=lambda path: path.stem)
def test_real_clips(path: Path):
    if path.stem.startswith("carphone"):  # 176×144; the others are large
        assert_any_run_is_exact(path, decode(path), runs=3)
    with av.open(str(path)) as container:
        frames = itertools.islice(container.decode(video=0), 60, 70)
        plain = [frame.to_ndarray(format="rgb24") for frame in frames]
    np.testing.assert_array_equal(read_frames(video(path), lambda n: np.arange(60, 70)), plain)


@pytest.mark.parametrize("name", ["v.mp4", "v.mov", "v.mkv", "v.avi", "v.webm", "v.gif"])
def test_variable_frame_rate(tmp_path: Path, name: str):
    times = np.cumsum(np.random.default_rng(0).integers(2, 30, 40)).tolist()
    codec = {".webm": "libvpx-vp9", ".gif": "gif"}.get(Path(name).suffix, "libx264")
    path = write_video(
        tmp_path / name,
        moving(40),
        codec,
        pixels=PIXELS.get(codec, "yuv420p"),
        times=times,
        options={} if codec == "gif" else {"g": "12"},
    )
    frames = decode(path)
    assert len(frames) == 40
    assert_any_run_is_exact(path, frames, runs=4)


@pytest.mark.parametrize("name", ["hevc.mkv", "h264_open_gop.mp4", "mpeg4.mp4", "h264.mp4"])
@pytest.mark.parametrize("suffix", [".mkv", ".mp4"])
def test_cut_at_a_key_frame(folder: Path, name: str, suffix: str):
    path, frames = encoded(folder, name)
    rest = cut(path, folder / f"{name}.cut{suffix}", 2)
    plain = decode(rest)
    assert 10 < len(plain) < len(frames)
    assert_any_run_is_exact(rest, plain, runs=4)


@pytest.mark.parametrize("shape", [(31, 45), (48, 64)])
def test_sizes_and_colours_are_kept(tmp_path: Path, shape: tuple[int, int]):
    frames = moving(5, *shape)
    path = write_video(tmp_path / "a.mkv", frames, "ffv1", pixels="bgr0")
    np.testing.assert_array_equal(read(path), frames)
    path = write_video(tmp_path / "a.mov", frames, "png", pixels="rgb24")
    np.testing.assert_array_equal(read(path), frames)


def test_sound_does_not_matter(tmp_path: Path):
    frames = moving(20)
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as output:
        sound = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        stream = output.add_stream("ffv1", rate=25, width=64, height=48, pix_fmt="bgr0")
        for i, frame in enumerate(frames):
            samples = np.zeros((1, 480), np.int16)  # sound lasts longer
            heard = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            heard.sample_rate, heard.pts = 8000, i * 480
            output.mux(sound.encode(heard))
            output.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        output.mux(sound.encode())
        output.mux(stream.encode())
    assert_any_run_is_exact(path, frames, runs=2)


def grey_palette_avi(frames: np.ndarray) -> bytes:
    """An uncompressed AVI of grey frames with a palette, as ImageJ and MATLAB write it."""

    def chunk(name: bytes, *parts: bytes) -> bytes:
        body = b"".join(parts)
        return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)

    (count, height, width), size = frames.shape, frames[0].size
    head = chunk(
        b"avih", struct.pack("<14I", 100_000, 0, 0, 16, count, 0, 1, 0, width, height, *[0] * 4)
    )
    kind = struct.pack("<IHHIIIIIIII4h", *[0] * 4, 1, 10, 0, count, size, 0, 0, 0, 0, width, height)
    bitmap = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 0, size, 0, 0, 256, 0)
    palette = b"".join(bytes([i, i, i, 0]) for i in range(256))
    stream = [chunk(b"strh", b"vidsDIB ", kind), chunk(b"strf", bitmap, palette)]
    head += chunk(b"LIST", b"strl", *stream)
    rows = [chunk(b"00db", frame[::-1].tobytes()) for frame in frames]
    places = np.cumsum([4] + [len(row) for row in rows]).tolist()
    index = [struct.pack("<4s3I", b"00db", 16, at, size) for at in places[:-1]]
    lists = [chunk(b"LIST", b"hdrl", head), chunk(b"LIST", b"movi", *rows), chunk(b"idx1", *index)]
    return chunk(b"RIFF", b"AVI ", *lists)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_grey_palette_survives(tmp_path: Path, zipped: bool):
    frames = np.random.default_rng(0).integers(0, 256, (20, 16, 24), np.uint8)
    (tmp_path / "v.avi").write_bytes(grey_palette_avi(frames))
    one = video(tmp_path / "v.avi")
    if zipped:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(tmp_path / "v.avi", "v.avi")
        (one,) = find_videos(tmp_path / "a.zip")
    for numbers in (np.arange(20), np.arange(1, 20, 3), np.array([19])):
        got = read_frames(one, lambda n, numbers=numbers: numbers)
        np.testing.assert_array_equal(got, np.repeat(frames[numbers, ..., None], 3, axis=-1))


MATRICES = [(a, b, c, d) for a in (-1, 0, 1) for d in (-1, 0, 1) for b, c in [(0, 0)] if a and d]
MATRICES += [(0, b, c, 0) for b in (-1, 1) for c in (-1, 1)]


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("matrix", MATRICES)
def test_frames_are_turned_and_mirrored_by_the_display_matrix(tmp_path: Path, suffix, matrix):
    """ISO/IEC 14496-12, 6.2.2: a pixel at (x, y) is shown at (ax + cy, bx + dy)."""
    path = write_video(tmp_path / f"v{suffix}", moving(12, 48, 64), options=B_FRAMES)
    stored, content = decode(path), path.read_bytes()
    a, b, c, d = matrix
    at = content.index(b"tkhd") + 4 + 40  # version 0 of the box
    fixed = struct.pack(">9i", *(v << 16 for v in (a, b, 0, c, d, 0, 0, 0)), 1 << 30)
    assert content[at : at + 36] == struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(content[:at] + fixed + content[at + 36 :])
    y, x = np.mgrid[:48, :64]
    rows, columns = b * x + d * y, a * x + c * y
    rows, columns = rows - rows.min(), columns - columns.min()
    shown = np.zeros((12, rows.max() + 1, columns.max() + 1, 3), np.uint8)
    shown[:, rows, columns] = stored[:, y, x]
    assert_any_run_is_exact(path, shown, runs=2)


def test_side_data_that_pyav_does_not_know_hides_no_rotation():
    pixels = moving(1)[0]

    class Unknown:
        def __iter__(self):
            raise ValueError("31 is not a valid Type")

    for angle in (0, 90, 180, -90):  # counterclockwise, as PyAV's
        frame = SimpleNamespace(side_data=Unknown(), rotation=angle)
        np.testing.assert_array_equal(reading.upright(pixels, frame), np.rot90(pixels, angle // 90))


def test_none_are_read_if_none_are_asked_for(folder: Path):
    path, _ = encoded(folder, "h264.mp4")
    lengths = []

    def choose(length: int) -> np.ndarray:
        lengths.append(length)
        return np.arange(0)

    assert len(read_frames(video(path), choose)) == 0
    assert lengths == [50]


# Images


@pytest.mark.parametrize(
    ("suffix", "options"),
    [
        (".png", {}),
        (".jpg", {"quality": 80}),
        (".jpeg", {"quality": 95, "subsampling": 0}),
        (".webp", {"quality": 80}),
        (".webp", {"lossless": True}),
    ],
)
def test_frames_are_pillows(tmp_path: Path, suffix: str, options: dict):
    paths = [tmp_path / f"{t}{suffix}" for t in range(12)]
    for path, frame in zip(paths, moving(12), strict=True):
        Image.fromarray(frame).save(path, **options)
    plain = np.stack([np.asarray(Image.open(path)) for path in paths])
    (found,) = find_videos(tmp_path)
    np.testing.assert_array_equal(read_frames(found, every), plain)
    np.testing.assert_array_equal(read_frames(found, lambda n: np.array([3, 9])), plain[[3, 9]])


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_images_have_one_channel(tmp_path: Path, mode: str):
    image = Image.fromarray(moving(1)[0]).convert(mode)
    image.save(tmp_path / "0.png")
    expected = np.asarray(image.convert("L"))[None, :, :, None]
    np.testing.assert_array_equal(read(tmp_path / "0.png"), expected)


@pytest.mark.parametrize("mode", ["RGBA", "P"])
@pytest.mark.parametrize("transparency", [None, 3, bytes([255, 0, 128])])
def test_alpha_and_palettes_become_rgb(tmp_path: Path, mode: str, transparency: int | bytes | None):
    image = Image.fromarray(moving(1)[0]).quantize(16)
    if mode == "RGBA":
        image = image.convert("RGB")
        image.putalpha(Image.fromarray(moving(2)[1, :, :, 0]))
        expected = np.asarray(image)[..., :3]
    else:
        palette = np.reshape(image.getpalette(), (-1, 3))
        expected = palette[np.asarray(image)]
    options = {} if mode == "RGBA" or transparency is None else {"transparency": transparency}
    image.save(tmp_path / "0.png", **options)
    np.testing.assert_array_equal(read(tmp_path / "0.png")[0], expected)


UPRIGHT = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: np.rot90,
}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_images_are_turned_and_mirrored_by_their_exif(tmp_path: Path, suffix: str):
    """As the table of the EXIF standard says, from row 0 and column 0 on."""
    stored = moving(1)[0]
    for orientation, upright in UPRIGHT.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(stored).save(tmp_path / f"0{suffix}", quality=90, exif=exif)
        plain = np.asarray(Image.open(tmp_path / f"0{suffix}"))
        np.testing.assert_array_equal(read(tmp_path / f"0{suffix}")[0], upright(plain))


def test_damaged_exif_does_not_matter(tmp_path: Path):
    Image.fromarray(moving(1)[0]).save(tmp_path / "0.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(read(tmp_path / "0.png")[0], moving(1)[0])


def test_a_grey_frame_among_colours_becomes_rgb(tmp_path: Path):
    """As tools that save the smallest image store a fade to black."""
    frames = moving(3)
    frames[1] = frames[1].mean(-1, keepdims=True)
    for t, frame in enumerate(frames):
        Image.fromarray(frame if t != 1 else frame[..., 0]).save(tmp_path / f"{t}.png")
    (found,) = find_videos(tmp_path)
    np.testing.assert_array_equal(read_frames(found, every), frames)


def test_cmyk_jpegs_become_rgb(tmp_path: Path):
    Image.fromarray(moving(1)[0]).convert("CMYK").save(tmp_path / "0.jpg")
    expected = np.asarray(Image.open(tmp_path / "0.jpg").convert("RGB"))
    np.testing.assert_array_equal(read(tmp_path / "0.jpg")[0], expected)


def test_images_of_16_bits_are_refused(tmp_path: Path):
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "0.png")
    with pytest.raises(ValueError, match=r"0.png: got mode I.*, expected 8 bits"):
        read(tmp_path / "0.png")


def named(folder: Path, *names: str) -> Path:
    """Frames by name."""
    for name in names:
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1.png", "2.png", "4.png"], "frame 3 is missing"),
        (["0.png", "8.png", "24.png", "32.png"], "frame 16 is missing"),
        (["f08_64x64.png", "f09_64x64.png", "f11_64x64.png"], "frame 10 is missing"),
        (["1_0.1.png", "2_0.2.png", "4_0.4.png"], "frame 3 is missing"),
        (["1.png", "2.png", "2.jpg", "3.png"], "two frames with number 2"),
        (["1.png", "02.png", "2.png", "3.png"], "two frames with number 2"),
        (["a_1.png", "a_2.png", "b_1.png", "b_2.png"], "two frames with number 1"),
        (["v1_1.png", "v1_2.png", "v2_1.png", "v2_2.png"], "two frames with number 1"),
    ],
)
def test_flaws_in_the_numbers_of_frames_are_told(tmp_path: Path, names: list, message: str):
    (found,) = find_videos(named(tmp_path, *names))
    with pytest.raises(ValueError, match=message):
        read_frames(found, every)


@pytest.mark.parametrize(
    "names",
    [
        ["7.png"],
        ["8.png", "9.png", "10.png", "11.png"],
        ["0.png", "8.png", "16.png"],
        ["1_256x256.png", "2_256x256.png", "3_256x256.png"],
        ["frame_1_t0.33.png", "frame_2_t0.66.png", "frame_3_t1.00.png"],
        ["0033.png", "0067.png", "0100.png", "0133.png"],  # milliseconds
        ["first.png", "second.png"],
    ],
)
def test_frames_named_in_ways_of_their_own_are_read(tmp_path: Path, names: list):
    (found,) = find_videos(named(tmp_path, *names))
    assert len(read_frames(found, every)) == len(names)


def test_frames_of_several_sizes_are_refused_where_they_are_read(tmp_path: Path):
    named(tmp_path, "0.png", "1.png", "2.png")
    Image.new("RGB", (8, 9)).save(tmp_path / "1.png")
    (found,) = find_videos(tmp_path)
    with pytest.raises(ValueError, match=r"several sizes, \(8, 8, 3\) and \(9, 8, 3\)"):
        read_frames(found, every)
    assert len(read_frames(found, lambda n: np.array([0, 2]))) == 2


# Arrays

RGB = np.random.default_rng(0).integers(0, 256, (4, 6, 10, 12, 3), np.uint8)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize(
    ("array", "clips"),
    [
        (RGB, RGB),
        (RGB.transpose(0, 1, 4, 2, 3), RGB),
        (RGB[..., :1], RGB[..., :1]),
        (RGB[..., 0], RGB[..., :1]),
        (RGB[:, 0], RGB[:, :1]),
        (RGB[:, 0].transpose(0, 3, 1, 2), RGB[:, :1]),
        (np.float32(RGB) / 255, np.float32(RGB) / 255),
        (np.float16(RGB / 255.0), np.float16(RGB / 255.0)),
        ((RGB / 255.0).astype(">f4"), np.float32(RGB / 255.0)),
    ],
    ids=["NTHWC", "NTCHW", "NTHW1", "NTHW", "NHWC", "NCHW", "float32", "float16", "big-endian"],
)
def test_arrays_of_many_videos(tmp_path: Path, array: np.ndarray, clips: np.ndarray, suffix: str):
    path = tmp_path / f"a{suffix}"
    if suffix == ".npy":
        np.save(path, array)
    else:
        names = np.array(["x", None, "z", "w"])  # objects
        np.savez(path, names=names, clips=array, labels=np.arange(4), boxes=np.zeros((4, 2)))
    found = find_videos(path)
    assert [one.name for one in found] == [f"{path}[{i}]" for i in range(4)]
    for one, clip in zip(found, clips, strict=True):
        np.testing.assert_array_equal(read_frames(one, every), clip)
        numbers = np.arange(0, len(clip), 2)
        got = read_frames(one, lambda n, numbers=numbers: numbers)
        np.testing.assert_array_equal(got, clip[numbers])
        assert got.dtype == array.dtype.newbyteorder("=")


@pytest.mark.parametrize(
    ("array", "clip"),
    [
        (RGB[0], RGB[0]),
        (RGB[0].transpose(0, 3, 1, 2), RGB[0]),
        (RGB[0, ..., 0], RGB[0, ..., :1]),
        (RGB[0, ..., :1], RGB[0, ..., :1]),
    ],
    ids=["THWC", "TCHW", "THW", "THW1"],
)
def test_arrays_of_one_video_in_a_folder(tmp_path: Path, array: np.ndarray, clip: np.ndarray):
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "b.npz", video=array, label=3)
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.write(tmp_path / "a.npy", "c.npy")
    found = find_videos(tmp_path)
    assert len(found) == 3
    for one in found:
        np.testing.assert_array_equal(read_frames(one, every), clip)
        np.testing.assert_array_equal(read_frames(one, lambda n: np.array([1, 4])), clip[[1, 4]])


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[["a", None]]], object), "not a readable array file"),
        (np.zeros((4, 5)), "holds 0 arrays of frames or clips"),
        (np.zeros((4, 8, 8, 3), np.int64), "got dtype int64"),
        (np.full((4, 8, 8, 3), 255.0), "got values from 255 to 255"),
        (np.full((4, 8, 8, 3), np.nan), "not finite"),
        (np.zeros((4, 8, 8, 5), np.uint8), "with 1 or 3 channels"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, array: np.ndarray, message: str):
    np.save(tmp_path / "a.npy", array)
    (found,) = find_videos(tmp_path)
    with pytest.raises(ValueError, match=message):
        read_frames(found, every)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_a_replaced_array_is_read_anew(tmp_path: Path, suffix: str):
    save = np.save if suffix == ".npy" else np.savez
    path = tmp_path / f"a{suffix}"
    for value in (1, 2):
        save(tmp_path / f"new{suffix}", np.full((2, 3, 8, 8, 3), value, np.uint8))
        shutil.move(tmp_path / f"new{suffix}", path)
        assert (read_frames(find_videos(path)[0], every) == value).all()


# Videos in memory


class Decoder:
    """What TorchCodec's decoder has of what is used of it; it counts what it decodes."""

    def __init__(self, frames: np.ndarray):
        self.frames = torch.from_numpy(frames).permute(0, 3, 1, 2)
        self.asked = []

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, key: int | slice) -> torch.Tensor:
        self.asked.append(key)
        return self.frames[key]

    def get_frames_at(self, indices: list[int]) -> object:
        self.asked.append(indices)
        return SimpleNamespace(data=self.frames[indices])


@pytest.mark.parametrize(
    ("make", "clip"),
    [
        (lambda: RGB[0], RGB[0]),
        (lambda: RGB[0].transpose(0, 3, 1, 2), RGB[0]),
        (lambda: RGB[0, ..., 0], RGB[0, ..., :1]),
        (lambda: np.float32(RGB[0]) / 255, np.float32(RGB[0]) / 255),
        (lambda: jnp.asarray(RGB[0]), RGB[0]),
        (lambda: torch.from_numpy(RGB[0]), RGB[0]),
        (lambda: (torch.from_numpy(RGB[0]) / 255).requires_grad_(), np.float32(RGB[0]) / 255),
        (lambda: Decoder(RGB[0]), RGB[0]),
        (lambda: list(RGB[0]), RGB[0]),
        (lambda: {"video": RGB[0], "label": 3, "name": "abc", "box": np.zeros((6, 4))}, RGB[0]),
        (lambda: {"text": None, "words": [[1, 2], [3]], "video": torch.tensor(RGB[0])}, RGB[0]),
        (lambda: {"label": 3, "video": Decoder(RGB[0])}, RGB[0]),
    ],
    ids=[
        *("THWC", "TCHW", "THW", "float32", "jax", "torch", "gradient", "decoder", "frames"),
        *("labels", "ragged labels", "decoder and label"),
    ],
)
def test_videos_that_an_object_gives(make, clip: np.ndarray):
    for one in as_videos([make(), make()], "real"):
        got = read_frames(one, every)
        np.testing.assert_array_equal(got, clip)
        assert got.dtype == clip.dtype
        np.testing.assert_array_equal(
            read_frames(one, lambda n: np.array([1, n - 1])), clip[[1, 5]]
        )


@pytest.mark.parametrize(
    "make", [np.asarray, jnp.asarray, torch.from_numpy], ids=["numpy", "jax", "torch"]
)
@pytest.mark.parametrize("channels", ["last", "first"])
def test_rows_of_arrays_in_memory(make, channels: str):
    array = RGB if channels == "last" else np.ascontiguousarray(RGB.transpose(0, 1, 4, 2, 3))
    for one, clip in zip(as_videos(make(array), "real"), RGB, strict=True):
        np.testing.assert_array_equal(read_frames(one, every), clip)


@pytest.mark.parametrize("wrap", [lambda d: d, lambda d: {"video": d, "label": 3}])
def test_a_decoder_decodes_the_frames_that_are_asked_for(wrap):
    decoder = Decoder(RGB[0])
    (one,) = as_videos([wrap(decoder)], "real")
    read_frames(one, lambda n: np.array([1, 4]))
    assert decoder.asked == [0, [1, 4]]  # the first frame, for its size
    last = Decoder(RGB[0])
    last.frames = torch.from_numpy(RGB[0])  # as with dimension_order="NHWC"
    (other,) = as_videos([wrap(last)], "real")
    np.testing.assert_array_equal(read_frames(other, every), RGB[0])
    assert not len(read_frames(one, lambda n: np.arange(0)))


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"label": 3}, "got an item with 0 arrays of frames, expected one"),
        ({"video": RGB[0], "mask": RGB[0, ..., 0]}, "got an item with 2 arrays of frames"),
        (RGB[:1], r"got shape \(1, 6, 10, 12, 3\), expected one video \[T, H, W, C\]"),
        (RGB[0, 0, 0], r"got shape \(12, 3\), expected one video"),
        ("v.mp4", r"got shape \(\), expected one video"),
        ([[1, 2], [3]], r"real\[0\]: got a list, expected an array"),
        (RGB[0].astype(int), r"real\[0\]: got dtype int64"),
        (np.full((4, 8, 8, 3), 255.0), r"real\[0\]: got values from 255 to 255"),
        (np.zeros((4, 8, 8, 5), np.uint8), "with 1 or 3 channels"),
    ],
)
def test_other_items_are_refused(item, message: str):
    one = as_videos([item, RGB[0]], "real")[0]
    with pytest.raises(ValueError, match=message):
        read_frames(one, every)


# Broken files


def broken(tmp_path: Path, name: str, content: bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.avi", "a.webm", "a.mkv", "a.gif"])
@pytest.mark.parametrize("content", [b"", b"not a video " * 99], ids=["empty", "text"])
def test_what_is_no_video_is_told(tmp_path: Path, name: str, content: bytes):
    with pytest.raises(ValueError, match=r"cannot be decoded: |truncated"):
        read(broken(tmp_path, name, content))


@pytest.mark.parametrize("name", ["a.mp4", "a.png", "a.npy"])
def test_a_missing_file_is_told(tmp_path: Path, name: str):
    with pytest.raises((OSError, ValueError), match="No such file"):
        read(tmp_path / name)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.66, 0.85])
@pytest.mark.parametrize(
    "name",
    [
        *("h264.mp4", "h264.mov", "h264.mkv", "ffv1.mkv", "mpeg4.avi", "mjpeg.avi"),
        *("vp8.webm", "vp9.webm", "pixels.gif"),
    ],
)
def test_truncated_files_are_told(folder: Path, tmp_path: Path, name: str, share: float):
    content = encoded(folder, name)[0].read_bytes()
    path = broken(tmp_path, name, content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"truncated|cannot be decoded|holds no video"):
        read_frames(video(path), lambda n: np.arange(1))


@pytest.mark.parametrize("share", [0.02, 0.3, 0.66, 0.9])
@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_truncated_files_with_the_index_in_front_are_told(tmp_path: Path, name: str, share: float):
    path = write_video(tmp_path / name, moving(30), container={"movflags": "+faststart"})
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"truncated: has [0-9]+ of 30 frames|holds no video"):
        read_frames(video(path), lambda n: np.arange(1))


def test_live_matroska_does_not_say_its_length(tmp_path: Path):
    path = write_video(tmp_path / "a.mkv", moving(20), container={"live": "1"})
    assert_any_run_is_exact(path, decode(path), runs=2)


def test_sound_alone_is_told(tmp_path: Path):
    with av.open(str(tmp_path / "a.mkv"), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 800), np.int16), format="s16", layout="mono"
        )
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    with pytest.raises(ValueError, match="holds no video"):
        read(tmp_path / "a.mkv")


def test_damage_is_told_where_it_is_read(folder: Path, tmp_path: Path):
    content = bytearray(encoded(folder, "h264.mp4")[0].read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = bytes(300)
    path = broken(tmp_path, "a.mp4", bytes(content))
    with pytest.raises(ValueError, match=r"damaged|cannot be decoded"):
        read(path)
    frames = encoded(folder, "h264.mp4")[1]
    got = read_frames(video(path), lambda n: np.arange(4))
    np.testing.assert_array_equal(got, frames[:4])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_truncated_images_are_told(tmp_path: Path, suffix: str):
    buffer = io.BytesIO()
    Image.fromarray(moving(1)[0]).save(buffer, {".jpg": "jpeg"}.get(suffix, suffix[1:]))
    content = buffer.getvalue()
    for share in (0, 0.1, 0.5, 0.9):
        path = broken(tmp_path, f"0{suffix}", content[: int(len(content) * share)])
        with pytest.raises(OSError, match=r"(?i)truncated|cannot identify|could not create"):
            read(path)


@functools.cache
def whole(name: str) -> bytes:
    """A small file of each kind."""
    buffer = io.BytesIO()
    array = RGB[0]
    match name:
        case "0.png" | "0.jpg" | "0.webp":
            kind = {"0.jpg": "jpeg"}.get(name, name[2:])
            Image.fromarray(moving(1, 24, 24)[0]).save(buffer, kind)
        case "a.npy":
            np.save(buffer, array)
        case "a.npz":
            np.savez_compressed(buffer, array)
        case "a.zip":
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("v/0.png", whole("0.png"))
                archive.writestr("v/1.png", whole("0.png"))
        case "a.tar":
            import tarfile

            with tarfile.open(fileobj=buffer, mode="w") as archive:
                for i in range(2):
                    info = tarfile.TarInfo(f"v/{i}.png")
                    info.size = len(whole("0.png"))
                    archive.addfile(info, io.BytesIO(whole("0.png")))
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["0.png", "0.jpg", "0.webp", "a.npy", "a.npz", "a.zip", "a.tar"])
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_damage_is_an_error_or_none_but_breaks_nothing(tmp_path: Path, name: str, data):
    content = bytearray(whole(name))
    if data.draw(st.booleans(), "truncate"):
        del content[data.draw(st.integers(0, len(content) - 1), "length") :]
    else:
        for _ in range(data.draw(st.integers(1, 20), "changes")):
            at = data.draw(st.integers(0, len(content) - 1))
            content[at] = data.draw(st.integers(0, 255))
    folder = tmp_path / "damaged"
    folder.mkdir(exist_ok=True)
    broken(folder, name, bytes(content))
    found = []
    with contextlib.suppress(ValueError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of suffixes that the damage made
        found = find_videos(folder)
    protocol = find_protocol("srvp:digits:frame")
    for loaded in load_clips(found, [protocol], "real"):
        (clip,) = loaded.clips
        assert (loaded.error is None) == (clip is not None)


def test_broken_files_are_results_of_the_loader(folder: Path, tmp_path: Path):
    shutil.copy(encoded(folder, "h264.mp4")[0], tmp_path / "v2.mp4")
    broken(tmp_path, "v1.mp4", b"")
    with contextlib.suppress(OSError):
        (tmp_path / "v3.mp4").symlink_to(tmp_path / "nothing.mp4")
    found = find_videos(tmp_path)
    results = list(load_clips(found, [find_protocol("fvd2048_16f")], "fake"))
    assert [Path(one.video.name).name for one in results] == ["v1.mp4", "v2.mp4", "v3.mp4"]
    assert results[0].error.startswith("cannot be decoded: ")
    assert results[1].error is None
    assert "No such file" in results[2].error
    np.testing.assert_array_equal(results[1].clips[0], encoded(folder, "h264.mp4")[1][:16])


# Animations


@pytest.mark.parametrize("suffix", ["webp", "png", "apng"])
@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_an_animation_is_a_video(tmp_path: Path, form: str, suffix: str):
    frames = moving(8)
    images = [Image.fromarray(frame) for frame in frames]
    root = tmp_path / "a"
    (root / "b").mkdir(parents=True)
    animated = {"save_all": True, "append_images": images[1:]}
    lossless = {"lossless": True} if suffix == "webp" else {}
    kind = "webp" if suffix == "webp" else "png"
    images[0].save(root / f"1.{suffix}", kind, **animated, **lossless)
    for t in range(2, 4):
        images[t].save(root / "b" / f"{t}.{suffix}", kind, **lossless)
    if form != "folder":
        root = Path(shutil.make_archive(str(root), form, root))
    found = find_videos(root)
    assert [len(one.files) for one in found] == [1, 2]
    animation, still = found
    np.testing.assert_array_equal(read_frames(still, every), frames[2:4])
    np.testing.assert_array_equal(read_frames(animation, every), frames)
    got = read_frames(animation, lambda n: np.arange(1, n, 3))
    np.testing.assert_array_equal(got, frames[1::3])


@pytest.mark.parametrize("suffix", [".png", ".apng"])
def test_an_animated_png_is_composed(tmp_path: Path, suffix: str):
    """Of frames that cover a part, blended and disposed of; another image may come first."""
    frames = moving(8)
    images = [Image.fromarray(frame).convert("RGBA") for frame in frames]
    path = tmp_path / f"a{suffix}"
    changes = {"blend": [0, 1] * 4, "disposal": [0, 1, 2, 0] * 2}
    more = {"save_all": True, "append_images": images[1:]}
    images[0].save(path, "png", **more, **changes)
    assert_any_run_is_exact(path, frames, runs=3)
    images[0].save(path, "png", **more, default_image=True)
    assert_any_run_is_exact(path, frames[1:], runs=3)
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(ValueError, match="truncated"):
        read(path)


def test_an_animation_among_frames_is_an_error(tmp_path: Path):
    images = [Image.fromarray(frame) for frame in moving(3)]
    images[0].save(tmp_path / "0.png")
    images[1].save(tmp_path / "1.png", save_all=True, append_images=images[2:])
    (found,) = find_videos(tmp_path)
    with pytest.raises(ValueError, match=r"1\.png: is an animation among single frames"):
        read_frames(found, every)


# Hostile files

SDP = b"""v=0
o=- 0 0 IN IP4 127.0.0.1
s=x
c=IN IP4 127.0.0.1
t=0 0
m=video 5004 RTP/AVP 96
a=rtpmap:96 H264/90000
"""
CONCAT = b"ffconcat version 1.0\nfile v.mkv\n"


@pytest.mark.parametrize("text", [SDP, CONCAT], ids=["sdp", "concat"])
@pytest.mark.parametrize(
    "suffix",
    [".mp4", ".mkv", ".avi", ".gif", ".mpg", ".ts", ".wmv", ".flv", ".ogv", ".y4m", ".mxf", ".dv"],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_texts_that_name_other_files_are_not_followed(
    folder: Path, tmp_path: Path, text: bytes, suffix: str, zipped: bool, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "v.mkv", moving(5))
    name = f"a{suffix}"
    broken(tmp_path, name, text)
    one = video(tmp_path / name)
    if zipped:
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(tmp_path / name, name)
        (one,) = find_videos(tmp_path / "a.zip")
    with pytest.raises(ValueError, match=rf"cannot be decoded as \{suffix}"):
        read_frames(one, every)


def test_a_container_of_another_suffix_is_told(folder: Path, tmp_path: Path):
    path = shutil.copy(encoded(folder, "h264.mkv")[0], tmp_path / "a.mp4")
    with pytest.raises(ValueError, match=r"cannot be decoded as \.mp4"):
        read(path)


@pytest.mark.parametrize("kind", ["eps", "gif", "tiff", "ppm"])
def test_pillow_opens_the_three_kinds_only(tmp_path: Path, kind: str):
    """Pillow would run Ghostscript to open an EPS."""
    Image.fromarray(moving(1)[0]).save(tmp_path / "0.png", kind)
    with pytest.raises(OSError, match="cannot identify"):
        read(tmp_path / "0.png")


def test_names_are_files_whatever_they_look_like(folder: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(encoded(folder, "h264.mp4")[0], "http:a.mp4")
    assert len(read(Path("http:a.mp4"))) == 50


def memory_of(call: str, *paths: Path) -> tuple[str, int]:
    """What a call in a fresh process prints, and the MiB that it took beyond its imports."""
    code = f"""
import resource, sys
import numpy as np, av, PIL.Image
from srvp_fd_jax.videos.reading import read_frames
from srvp_fd_jax.videos.sources import File, Video, find_videos
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
try:
    {call}
except ValueError as error:
    print(error)
print((peak() - before) // 1024)
"""
    command = [sys.executable, "-c", code, *map(str, paths)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stdout
    *lines, mebibytes = output.splitlines()
    return "\n".join(lines), int(mebibytes)


def giant_gif(side: int) -> bytes:
    """Ten frames of one pixel each, in 250 bytes."""
    frame = b"\x21\xf9\4\0\x0a\0\0\0," + struct.pack("<HHHH", 0, 0, 1, 1) + b"\0\2\2\x44\1\0"
    screen = struct.pack("<HH", side, side) + b"\x80\0\0" + bytes(3) + b"\xff" * 3
    return b"GIF89a" + screen + frame * 10 + b";"


def test_bombs_are_told_before_they_take_memory(tmp_path: Path):
    broken(tmp_path, "1.gif", giant_gif(16000))
    with zipfile.ZipFile(tmp_path / "2.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.mp4", bytes(99))
        archive.getinfo("a.mp4").file_size = 1100 << 20  # as the table of contents will say
        header = (
            b"\x93NUMPY\1\0\x76\0{'descr':'|u1','fortran_order':False,'shape':(9,9999999999,9,3)}"
        )
        archive.writestr("b.npy", header.ljust(127) + b"\n" + bytes(99))
        with archive.open("c.npz", "w") as member, zipfile.ZipFile(member, "w") as npz:
            npz.writestr("c.npy", header.ljust(127) + b"\n" + bytes(99))
    call = """
    for video in find_videos(sys.argv[1]):
        try:
            read_frames(video, np.arange)
        except ValueError as error:
            print(error)
"""
    told, mebibytes = memory_of(call, tmp_path)
    assert told.splitlines() == [
        "cannot be decoded as .gif: another kind of file, or frames of more than 256 MiB",
        "its content would take 1,100 MiB, allowed are 1,024 MiB",
        *(
            f"{name}: not a readable array file: its array would take 2,317,429 MiB, allowed are "
            "1,024 MiB"
            for name in ("b.npy", "c.npz")
        ),
    ]
    assert mebibytes < 100


def test_long_clips_are_told_before_they_take_memory(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(reading, "CLIP_BYTES", 48 * 64 * 3 * 10)
    np.save(tmp_path / "a.npy", moving(12))
    (tmp_path / "b").mkdir()
    for t, frame in enumerate(moving(12)):
        Image.fromarray(frame).save(tmp_path / "b" / f"{t}.png")
    write_video(tmp_path / "c.mp4", moving(12))
    write_video(tmp_path / "d.webm", moving(12), "libvpx")
    for one in find_videos(tmp_path):
        assert len(read_frames(one, lambda n: np.arange(10))) == 10
        with pytest.raises(ValueError, match=r"11 frames of 48×64 would take 0 MiB"):
            read_frames(one, lambda n: np.arange(11))


def reason(path: Path) -> str:
    """Why the only video of a folder or archive is unreadable."""
    (loaded,) = load_clips(find_videos(path), [find_protocol("srvp:digits:frame")], "real")
    assert loaded.clips == (None,)
    return loaded.error


def npy(descr: str, shape: str, data: bytes = b"") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}"
    length = len(header).to_bytes(2, "little")
    return b"\x93NUMPY\1\0" + length + header.encode() + data


def png(side: int, last: bytes = b"IEND") -> bytes:
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(99))), (last, b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("0.png", png(20000), "decompression bomb"),
        ("0.png", png(8, last=b"\0\0\0\0"), "broken PNG file"),
        ("a.npy", npy("<f4", "(9, 9999999999999999999, 9, 3)"), "not a readable array file"),
        ("a.npy", npy("<f16", "(2, 8, 8, 1)", bytes(2 * 64 * 16)), "got dtype float128"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_whatever_a_library_raises_is_the_reason_of_that_video(
    tmp_path: Path, name: str, content: bytes, message: str, zipped: bool
):
    path = tmp_path / "videos"
    path.mkdir()
    if zipped:
        path = path / "a.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)
    else:
        broken(path, name, content)
    assert re.search(message, reason(path))


def test_a_codec_without_a_decoder_is_told(folder: Path, tmp_path: Path):
    content = encoded(folder, "h264.mp4")[0].read_bytes()
    broken(tmp_path, "a.mp4", content.replace(b"avc1", b"zzzz"))
    assert "no decoder" in reason(tmp_path)


def test_a_damaged_lzma_zip_is_told(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("0.png", whole("0.png"))
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[60:90] = b"\xff" * 30
    broken(tmp_path, "a.zip", bytes(content))
    assert "not a readable archive" in reason(tmp_path)


@pytest.mark.parametrize("error", [AttributeError("none"), MemoryError(), RecursionError("deep")])
def test_errors_of_any_type_are_reasons(tmp_path: Path, monkeypatch, error: Exception):
    def fail(*_):
        raise error

    broken(tmp_path, "a.npy", b"")
    monkeypatch.setattr("srvp_fd_jax.videos.loading.read_frames", fail)
    assert reason(tmp_path) == (str(error) or repr(error))


@pytest.mark.parametrize("dtype", [">f4", ">f2", "<f8", ">f8"])
def test_arrays_of_other_byte_orders_are_converted(tmp_path: Path, dtype: str):
    array = np.random.default_rng(0).random((3, 4, 8, 8, 1)).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    for one, clip in zip(find_videos(tmp_path / "a.npy"), array, strict=True):
        got = read_frames(one, every)
        assert got.dtype.isnative
        np.testing.assert_array_equal(got, clip)


def test_steps_of_any_size(tmp_path: Path):
    for frames in (None, 1):
        protocol = find_protocol("tensorflow", frames=frames, step=10**30)
        np.testing.assert_array_equal(clip_frames(12, 0, protocol, "real"), [0])


def test_a_fifo_is_not_opened(tmp_path: Path):
    os.mkfifo(tmp_path / "a.mp4")
    assert reason(tmp_path) == "is not a regular file"
    (tmp_path / "a.mp4").rename(tmp_path / "a.npy")
    assert "is not a regular file" in reason(tmp_path)
    for suffix in ("zip", "tar"):
        os.mkfifo(tmp_path / f"a.{suffix}")
        with pytest.raises(ValueError, match=f"a.{suffix}: is not a regular file"):
            find_videos(tmp_path / f"a.{suffix}")


def test_titles_in_other_encodings_do_not_matter(tmp_path: Path):
    path = write_video(tmp_path / "a.mkv", moving(5), "ffv1", pixels="bgr0")
    with av.open(str(path)) as source, av.open(str(tmp_path / "b.mkv"), "w") as target:
        target.metadata["title"] = "XXXX"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    path.write_bytes((tmp_path / "b.mkv").read_bytes().replace(b"XXXX", b"\xe9\xe9\xe9\xe9"))
    np.testing.assert_array_equal(read(path), moving(5))
