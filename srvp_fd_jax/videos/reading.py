"""Reads frames of one video, exactly those asked for.

Video files are decoded by FFmpeg (PyAV), images by Pillow; both come with the extra "video".
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from io import BufferedReader, BytesIO
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from srvp_fd_jax.inputs import as_clips
from srvp_fd_jax.videos.sources import (
    ARRAY_SUFFIXES,
    MEMBER_BYTES,
    VIDEO_SUFFIXES,
    File,
    Video,
    check_budget,
    is_animated,
    load_array,
    memory,
)

Frame = Shaped[np.ndarray, "h w c"]
Frames = Shaped[np.ndarray, "t h w c"]

_IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
"""All that Pillow may open: others run programs (EPS) or hold other files' names."""

_DEMUXERS = {
    **dict.fromkeys((".mp4", ".m4v", ".mov"), "mov"),
    **dict.fromkeys((".webm", ".mkv"), "matroska"),
    ".avi": "avi",
    ".gif": "gif",
}
"""What FFmpeg may read a file as: other demuxers open what a file names, over a network too."""


FRAME_BYTES = 1 << 28
"""Most bytes of a decoded frame, 89 megapixels: a small file may claim to be larger."""

CLIP_BYTES = 1 << 31
"""Most bytes of all frames of a video that are read at once, 340 frames of 1080p."""

# Sizes may change within a video, before one can look.
_LIMITS = {"max_pixels": str(FRAME_BYTES // 3)}


class Source(NamedTuple):
    """Where a video is read from, a path or a member of an archive, and the demuxer for it."""

    content: str | bytes
    demuxer: str

    def open(self) -> BufferedReader | BytesIO:
        """The bytes."""
        return open(self.content, "rb") if isinstance(self.content, str) else BytesIO(self.content)


Choose = Callable[[int], Int[np.ndarray, " t"]]
"""Chooses, knowing how many frames there are, which to read: numbers that rise."""


def read_frames(video: Video, choose: Choose) -> Frames:
    """Reads frames of a video.

    Args:
        video: Where it is.
        choose: Which frames to read, by number from 0.

    Returns:
        uint8 frames, or floats in [0, 1] of an array of floats; RGB, or grey from arrays and
        images that are.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged or not a video, frames are missing or not of one size.
        ModuleNotFoundError: If the extra "video" is not installed.
    """
    if video.row is not None or video.files[0].suffix in ARRAY_SUFFIXES:
        return _read_array(video, choose)
    if video.files[0].suffix in VIDEO_SUFFIXES:
        return _read_video_file(video.files[0], choose)
    if is_animated(video.files[0]):
        return _read_animation(video.files[0], choose)
    return _read_images(video.files, choose)


def check_clip(frames: int, height: int, width: int, pixel_bytes: int = 3) -> None:
    """Raises a `ValueError` if decoded frames take too much memory, before they do.

    Args:
        frames: How many are read at once.
        height: Height of a frame.
        width: Width of a frame.
        pixel_bytes: Bytes of a pixel, all channels together.
    """
    frame = height * width * pixel_bytes
    check_budget(frame, FRAME_BYTES, f"a frame of {height}×{width}")
    check_budget(frames * frame, CLIP_BYTES, f"{frames} frames of {height}×{width}")


def _read_array(video: Video, choose: Choose) -> Frames:
    limit = memory() if video.row is not None else MEMBER_BYTES
    array = load_array(video.files[0], limit)
    is_clip = array.ndim > 4 or video.row is None
    if video.row is not None:
        # Rows of [N, H, W, C] are frames, rows of [N, T, H, W] are grey clips.
        is_clip = is_clip or not {1, 3} & {array.shape[1], array.shape[-1]}
        array = array[video.row]
    clip = array if is_clip else array[None]
    if clip.ndim == 3:
        clip = clip[..., None]
    if clip.ndim != 4:
        raise ValueError(f"got shape {clip.shape}, expected one video [T, H, W, C] or [T, H, W]")
    numbers = choose(len(clip))
    _, height, width, channels = clip.shape
    check_clip(len(numbers), height, width, channels * clip.itemsize)
    frames = clip[numbers]
    if frames.dtype.kind == "f" and frames.itemsize > 8:
        raise ValueError(f"got dtype {frames.dtype}, JAX takes floats of at most 8 bytes")
    if not frames.dtype.isnative:
        frames = frames.astype(frames.dtype.newbyteorder("="))
    return np.asarray(as_clips(frames[None], video.name)[0]) if len(frames) else frames


def _read_images(files: tuple[File, ...], choose: Choose) -> Frames:
    from PIL import Image

    _check_numbering(files)
    frames = []
    numbers = choose(len(files))
    for i in numbers:
        with Image.open(files[i].open(), formats=_IMAGE_FORMATS) as image:
            check_clip(len(numbers), image.height, image.width)
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"{files[i].name}: got mode {image.mode}, expected 8 bits")
            frames.append(_pixels(image))
    return _stack(frames)


def _read_animation(file: File, choose: Choose) -> Frames:
    from PIL import Image

    frames = []
    image: Any  # with n_frames, which the base class has not
    with Image.open(file.open(), formats=_IMAGE_FORMATS) as image:
        numbers = choose(image.n_frames)
        check_clip(len(numbers), image.height, image.width)
        for i in numbers:
            image.seek(i)
            frames.append(_pixels(image))
    return _stack(frames)


def _pixels(image: Any) -> Frame:
    """Grey where the image is, else RGB."""
    image.info.pop("transparency", None)  # Pillow would warn that it is lost
    grey = image.mode in ("1", "L", "LA")
    frame = np.asarray(image.convert("L" if grey else "RGB"))
    return frame[..., None] if grey else frame


def _check_numbering(files: tuple[File, ...]) -> None:
    """Frames that carry numbers carry all, in steps of one length.

    Of several numbers in a name, one must count so: "frame_0002_t0.08_256x256".
    """
    names = [re.findall(r"[0-9]+", PurePosixPath(file.name).stem) for file in files]
    numbers = [[int(number) for number in column] for column in zip(*names, strict=False)]
    flaws = [_flaw(column) for column in numbers if len(set(column)) > 1]
    if flaws and all(flaws):
        raise ValueError(flaws[-1])


def _flaw(numbers: list[int]) -> str | None:
    steps = np.diff(numbers)
    step = steps.min()
    if step < 1:
        return f"two frames with number {numbers[int(steps.argmin()) + 1]}"
    if (steps != step).any() and not (steps % step).any():  # times are no numbers of frames
        return f"frame {numbers[int((steps != step).argmax())] + step} is missing"
    return None


def _read_video_file(file: File, choose: Choose) -> Frames:
    """Frames from the key frame before the first one on, found by their times.

    Where packets do not tell the times of frames, or a container's index misleads, the file is
    decoded from the start.
    """
    import av

    opened = file.open()
    content = opened if isinstance(opened, str) else opened.getvalue()
    source = Source(content, _DEMUXERS[file.suffix])
    _check_length(source)
    try:
        times = _times(source)
        if times is not None:
            wanted = [times[i] for i in choose(len(times))]
            frames = dict(_decoded(source, len(wanted), wanted)) if wanted else {}
            if len(frames) == len(wanted):
                return _stack([frames[time] for time in wanted])
        count = sum(1 for _ in _decoded(source))
        if not count:
            raise ValueError("holds no frames")
        numbers = choose(count)
        decoded = enumerate(_decoded(source, len(numbers)))
        return _stack([frame for i, (_, frame) in decoded if i in numbers])
    except av.error.ArgumentError as error:
        # FFmpeg does not say which: its demuxer is not allowed, or a frame has too many pixels.
        limit = FRAME_BYTES >> 20
        text = f"another kind of file, or frames of more than {limit} MiB"
        raise ValueError(f"cannot be decoded as {file.suffix}: {text}") from error
    except av.FFmpegError as error:
        raise ValueError(f"cannot be decoded: {error.strerror}") from error


def _check_length(source: Source) -> None:
    """Raises a `ValueError` if the file breaks off, where FFmpeg takes what there is.

    A truncated mp4 file does not open, or has fewer frames than it says.
    """
    with source.open() as stream:
        head = stream.read(256)
        length = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, length - 64))
        tail = stream.read()
    if head.startswith(b"GIF8") and not tail.rstrip(b"\0").endswith(b";"):
        raise ValueError("truncated: has no end")
    if head.startswith(b"RIFF"):
        # Less would only lack in the index; not all writers count alike.
        expected = int.from_bytes(head[4:8], "little") % 0xFFFFFFFF - 1024
    elif head.startswith(b"\x1aE\xdf\xa3"):  # EBML, of Matroska and WebM
        start, size = _ebml_size(head, 4)
        start, size = _ebml_size(head, start + size + 4)
        expected = start + size
    else:
        return
    if length < expected:
        raise ValueError(f"truncated: has {length} bytes, says that they are {expected} at least")


def _ebml_size(head: bytes, start: int) -> tuple[int, int]:
    """Where an element begins whose size stands at `start`, and the size; 0 if it is unknown."""
    width = 9 - (head[start : start + 1] or b"\1")[0].bit_length()
    value = int.from_bytes(head[start : start + width], "big") % (1 << 7 * width)
    return start + width, value if value + 1 < 1 << 7 * width else 0


def _times(source: Source) -> list[int] | None:
    """Times of the frames in order of display, from the packets; None if those do not tell."""
    with _open(source) as (container, stream):
        # Packets of VP8 may hold frames that are never shown.
        if stream.codec_context.name == "vp8":
            return None
        packets = [packet for packet in container.demux(stream) if packet.size]
        if "mp4" in container.format.name and len(packets) < stream.frames:
            raise ValueError(f"truncated: has {len(packets)} of {stream.frames} frames")
        times = [p.pts for p in packets if p.pts is not None and not p.is_discard]
        if len(set(times)) < len(packets):
            return None
        # AVI stores no times. Where frames are reordered but times are not, they are guesses.
        if stream.codec_context.has_b_frames and times == sorted(times):
            return None
        times.sort()
    # Frames that refer to ones before the cut that a file begins with are never shown.
    first = next(_decoded(source), None)
    return times if first and times[:1] == [first[0]] else None


def _decoded(
    source: Source, kept: int = 1, times: list[int] | None = None
) -> Iterator[tuple[int, Frame]]:
    """All frames in RGB, or those of certain times, with their times; so many are kept at once."""
    from av.video.reformatter import VideoReformatter

    # One for all frames: making FFmpeg's scaler takes ten times as long as a small frame.
    reformatter = VideoReformatter()
    with _open(source, kept) as (container, stream):
        if times:
            container.seek(times[0], stream=stream)
        for frame in container.decode(stream):
            if frame.is_corrupt:
                raise ValueError(f"frame at {frame.time:.3f} s is damaged")
            if times is None or frame.pts in times:
                rgb = reformatter.reformat(frame, format="rgb24", threads=1)
                yield frame.pts, rgb.to_ndarray()
            if times and frame.pts is not None and frame.pts >= times[-1]:
                return


@contextlib.contextmanager
def _open(source: Source, kept: int = 1) -> Iterator[tuple[Any, Any]]:
    import av

    content = source.content
    with av.open(
        f"file:{content}" if isinstance(content, str) else BytesIO(content),
        options={
            "format_whitelist": source.demuxer,
            "protocol_whitelist": "file",
            **_LIMITS,  # of the decoder that looks for the size
        },
        metadata_errors="replace",  # a title in another encoding does not matter
    ) as container:
        if not container.streams.video:
            raise ValueError("holds no video")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("cannot be decoded: FFmpeg has no decoder of its codec")
        check_clip(kept, stream.codec_context.height, stream.codec_context.width)
        stream.codec_context.options = _LIMITS
        stream.codec_context.thread_count = 1  # videos are read in parallel
        yield container, stream


def _stack(frames: list[Frame]) -> Frames:
    """Frames of one size; none at all if none were asked for."""
    shapes = list(dict.fromkeys(frame.shape for frame in frames))
    if len(shapes) > 1:
        raise ValueError(f"got frames of several sizes, {shapes[0]} and {shapes[1]}")
    return np.stack(frames) if frames else np.zeros((0, 0, 0, 3), np.uint8)
