"""What is read by seeking equals what is read from the start, whatever FFmpeg can write here."""

import functools
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.codec import Codec, codecs_available
from clips import decode, moving

from srvp_fd_jax.videos.reading import read_frames
from srvp_fd_jax.videos.sources import DEMUXERS, File, Video

FRAMES = 20
MUXERS = {
    ".mp4": "mp4",
    ".m4v": "ipod",
    ".mov": "mov",
    ".3gp": "3gp",
    ".f4v": "f4v",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".gif": "gif",
    ".mpg": "mpeg",
    ".m2v": "mpeg2video",
    ".m1v": "mpeg1video",
    ".vob": "vob",
    ".ts": "mpegts",
    ".wmv": "asf",
    ".flv": "flv",
    ".ogv": "ogv",
    ".y4m": "yuv4mpegpipe",
    ".mxf": "mxf",
    ".dv": "dv",
}
# FFmpeg does not list what these muxers take besides their own codec.
STREAMED = {"mpeg1video", "mpeg2video", "mpeg4", "libx264", "libx265"}
UNLISTED = dict.fromkeys((".mpg", ".vob", ".ts"), STREAMED) | {
    ".mxf": {"dvvideo", "ffv1", "libx264", "jpeg2000", "prores_ks"},
    ".y4m": {"rawvideo"},
}
SIZES = {"dvvideo": (480, 720), "h261": (144, 176), "h263": (96, 128), "roqvideo": (64, 64)}
GROUPS = {"g": "8", "bf": "2", "threads": "1", "strict": "-2"}
OPTIONS = {
    "libx264": {**GROUPS, "preset": "ultrafast"},
    "libx264rgb": {**GROUPS, "preset": "ultrafast"},
    "libx265": {
        **GROUPS,
        "preset": "ultrafast",
        "x265-params": "log-level=none:pools=none:frame-threads=1",
    },
    "libvpx": {"g": "8", "deadline": "realtime", "cpu-used": "8"},
    "libvpx-vp9": {"g": "8", "deadline": "realtime", "cpu-used": "8"},
    "libsvtav1": {"g": "8", "preset": "12", "svtav1-params": "lp=1"},
    "mpeg4": GROUPS,
    "mpeg1video": GROUPS,
    "mpeg2video": GROUPS,
}
HARDWARE = ("amf", "nvenc", "qsv", "v4l2m2m", "vaapi", "videotoolbox", "mf", "vulkan")


@functools.cache
def encoders() -> dict[str, list[str]]:
    """Pixel formats of each encoder of video: an ordinary one, and one of each special kind."""
    found = {}
    for name in sorted(codecs_available):
        try:
            codec = Codec(name, "w")
        except av.codec.codec.UnknownCodecError:  # it decodes only
            continue
        if codec.type == "video" and not codec.name.endswith(HARDWARE):
            kinds: dict[str, str] = {}
            formats = [one.name for one in codec.video_formats or []]
            for one in formats or ["yuv420p", "rgb24", "gray", "pal8"]:
                kind = next((k for k in ("pal8", "gray", "444", "10") if k in one), "ordinary")
                kinds.setdefault(kind, one)
            found[codec.name] = list(kinds.values())
    return found


@functools.cache
def shown(height: int, width: int, pixels: str) -> list[av.VideoFrame]:
    frames = moving(FRAMES, height, width)
    if pixels != "pal8":
        return [av.VideoFrame.from_ndarray(one, format="rgb24") for one in frames]
    palette = np.stack([np.full(256, 255), *[np.arange(256)] * 3], 1).astype(np.uint8)
    return [
        av.VideoFrame.from_ndarray((one.mean(-1).astype(np.uint8), palette), format="pal8")
        for one in frames
    ]


def write(path: Path, codec: str, pixels: str) -> None:
    height, width = SIZES.get(codec, (48, 64))  # some encoders abort for smaller frames
    with av.open(str(path), "w", format=MUXERS[path.suffix]) as output:
        stream = output.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.options = OPTIONS.get(codec, {"g": "8", "strict": "-2"})
        for i, frame in enumerate(shown(height, width, pixels)):
            frame.pts, frame.time_base = i, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())


def test_every_suffix_has_a_muxer_here():
    same = {".qt": ".mov", ".3g2": ".3gp", ".divx": ".avi", ".mpeg": ".mpg", ".asf": ".wmv"}
    same |= {".m2ts": ".ts", ".mts": ".ts"}
    assert {same.get(suffix, suffix) for suffix in DEMUXERS} == set(MUXERS)
    for suffix, other in same.items():
        assert DEMUXERS[suffix] == DEMUXERS[other]


@pytest.mark.parametrize("suffix", MUXERS)
def test_frames_read_by_a_seek_are_those_of_a_plain_loop(tmp_path: Path, suffix: str):
    read, cannot = [], []
    with av.open(str(tmp_path / f"a{suffix}"), "w", format=MUXERS[suffix]) as output:
        takes = output.supported_codecs | UNLISTED.get(suffix, set())
    for number, (codec, formats) in enumerate(encoders().items()):
        if codec not in takes:
            continue
        # Any format in turn: the containers together have them all. A palette is always tried.
        chosen = dict.fromkeys([formats[(number + len(suffix)) % len(formats)]])
        if "pal8" in formats and suffix in (".avi", ".mov"):
            chosen["pal8"] = None
        for pixels in chosen:
            path = tmp_path / f"{codec}.{pixels}{suffix}"
            try:
                write(path, codec, pixels)
                expected = decode(path)
            except (av.error.FFmpegError, ValueError) as error:
                cannot.append(f"{path.name}: {error}")
                continue
            for start, step in ((9, 3), (FRAMES - 2, 1)):
                numbers = np.arange(start, len(expected), step)
                lengths = []

                def choose(length: int, numbers=numbers, lengths=lengths) -> np.ndarray:
                    lengths.append(length)
                    return numbers

                got = read_frames(Video(path.name, (File(str(path)),)), choose)
                assert lengths[-1] == len(expected), path.name
                np.testing.assert_array_equal(got, expected[numbers], path.name)
            read.append(path.name)
    # `pytest -rP` shows these: each container has some that FFmpeg lists and cannot write.
    print("cannot be written or read here:", *cannot, sep="\n  ")
    assert read
