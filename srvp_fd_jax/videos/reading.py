"""Reads chosen frames of one video.

FFmpeg (PyAV) decodes video files, and Pillow images; both come with the extra "video".
"""

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from io import BufferedReader, BytesIO
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from srvp_fd_jax.devices import values
from srvp_fd_jax.files.inputs import as_array, as_clips
from srvp_fd_jax.videos.sources import (
    DEMUXERS,
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

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
"""Formats that Pillow may open: others run programs (EPS) or refer to other files."""

_SEEKABLE_DEMUXERS = {"mov", "matroska", "avi"}
_SEEKABLE_CODECS = {"av1", "ffv1", "h264", "hevc", "mjpeg", "mpeg4", "png", "prores", "vp9"}
"""Demuxers with an index of key frames, and codecs whose key frames need nothing before them.

In others a seek may lose the palette, which only the first packet brings (raw video, Microsoft RLE,
QuickTime Animation), or end at a frame that is only called a key frame (Apple Video).
"""


FRAME_BYTES = 1 << 28
"""Most bytes of one decoded frame, 89 megapixels; a small file may claim to hold more."""

CLIP_BYTES = 1 << 31
"""Most bytes of all frames that are read from one video, 340 frames of 1080p."""

# FFmpeg checks the size too, since it may change from frame to frame.
_LIMITS = {"max_pixels": str(FRAME_BYTES // 3)}


class Source(NamedTuple):
    """The path or the bytes of a video file, and the FFmpeg demuxers for it."""

    content: str | bytes
    demuxers: str

    @classmethod
    def of(cls, file: File) -> "Source":
        """The source of a file whose suffix is that of a video, or of an animated PNG."""
        opened = file.open()
        content = opened if isinstance(opened, str) else opened.getvalue()
        return cls(content, DEMUXERS.get(file.suffix, "apng"))

    def open(self) -> BufferedReader | BytesIO:
        """The content as a binary stream."""
        return open(self.content, "rb") if isinstance(self.content, str) else BytesIO(self.content)


Choose = Callable[[int], Int[np.ndarray, " t"]]
"""Takes the number of frames in a video and returns rising indices of the frames to read."""


def read_frames(video: Video, choose: Choose) -> Frames:
    """Reads the frames of a video that `choose` picks.

    Returns:
        Frames in uint8, or floats in [0, 1] if the video is an array of floats. Frames are RGB, or
        grey if the video is a grey array or consists of grey images.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is damaged or not a video, or if frames are missing or differ in size.
        ModuleNotFoundError: If the extra "video" is not installed.
    """
    if video.items is not None:
        return _read_item(video, choose)
    if video.is_array:
        return _read_array(video, choose)
    file = video.files[0]
    if is_for_ffmpeg(file):
        return _read_video_file(file, choose)
    if is_animated(file):
        return _read_animation(file, choose)
    return _read_images(video.files, choose)


def is_for_ffmpeg(file: File) -> bool:
    """Whether FFmpeg reads a file, as it does animated PNGs but no animated WebP."""
    return file.suffix in VIDEO_SUFFIXES or (file.suffix != ".webp" and is_animated(file))


def check_clip(frames: int, height: int, width: int, pixel_bytes: int = 3) -> None:
    """Raises a `ValueError` if decoded frames would take too much memory.

    A pixel takes `pixel_bytes`, all channels together, and `frames` are in memory at once.
    """
    frame = height * width * pixel_bytes
    check_budget(frame, FRAME_BYTES, f"a frame of {height}×{width}")
    check_budget(frames * frame, CLIP_BYTES, f"{frames} frames of {height}×{width}")


def _read_array(video: Video, choose: Choose) -> Frames:
    limit = memory() if video.row is not None else MEMBER_BYTES
    array = load_array(video.files[0], limit)
    is_clip = array.ndim > 4 or video.row is None
    if video.row is not None:
        # A row of [N, H, W, C] is a single frame, a row of [N, T, H, W] is a grey clip.
        is_clip = is_clip or not {1, 3} & {array.shape[1], array.shape[-1]}
        array = array[video.row]
    return _frames_of(array if is_clip else array[None], video.name, choose)


def _read_item(video: Video, choose: Choose) -> Frames:
    """Reads frames of one item of an object that holds videos."""
    item = video.items[video.row]
    if isinstance(item, Mapping):  # such as an example of a data set with labels
        arrays = [value for value in item.values() if _has_frames(value)]
        if len(arrays) != 1:
            raise ValueError(f"got an item with {len(arrays)} arrays of frames, expected one")
        (item,) = arrays
    if _is_decoder(item):
        numbers = choose(len(item))
        if not len(numbers):
            return _stack([])
        _, *size = sorted(item[0].shape)  # channels, which are few, come first or last
        check_clip(len(numbers), *size)
        item = item.get_frames_at(indices=numbers.tolist()).data
        choose = np.arange
    return _frames_of(np.asarray(values(as_array(item, video.name))), video.name, choose)


def _has_frames(value: Any) -> bool:
    if _is_decoder(value):  # NumPy would decode all of it to find its shape
        return True
    with contextlib.suppress(ValueError):  # raised for nested lists of unequal lengths
        return len(np.shape(value)) >= 3
    return False


def _is_decoder(item: Any) -> bool:
    """Whether the item is a video decoder such as that of TorchCodec."""
    return not hasattr(item, "shape") and hasattr(item, "get_frames_at")


def _frames_of(clip: Any, name: str, choose: Choose) -> Frames:
    if clip.ndim == 3:
        clip = clip[..., None]
    if clip.ndim != 4:
        raise ValueError(f"got shape {clip.shape}, expected one video [T, H, W, C] or [T, H, W]")
    numbers = choose(len(clip))
    _, height, width, channels = clip.shape
    check_clip(len(numbers), height, width, channels * clip.itemsize)
    frames = np.asarray(as_array(clip[numbers], name))
    if frames.dtype.kind == "f" and frames.itemsize > 8:
        raise ValueError(f"got dtype {frames.dtype}, JAX takes floats of at most 8 bytes")
    return np.asarray(as_clips(frames[None], name, range_told=True)[0]) if len(frames) else frames


def _read_images(files: tuple[File, ...], choose: Choose) -> Frames:
    from PIL import Image

    _check_numbering(files)
    frames = []
    numbers = choose(len(files))
    for i in numbers:
        with Image.open(files[i].open(), formats=IMAGE_FORMATS) as image:
            check_clip(len(numbers), image.height, image.width)
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"{files[i].name}: got mode {image.mode}, expected 8 bits")
            if image.format == "PNG" and getattr(image, "is_animated", False):
                raise ValueError(f"{files[i].name}: is an animation among single frames")
            frames.append(_pixels(image))
    return _stack(frames)


def _read_animation(file: File, choose: Choose) -> Frames:
    from PIL import Image

    frames = []
    image: Any  # has `n_frames`, which the base class lacks
    with Image.open(file.open(), formats=IMAGE_FORMATS) as image:
        numbers = choose(image.n_frames)
        check_clip(len(numbers), image.height, image.width)
        for i in numbers:
            image.seek(i)
            frames.append(_pixels(image.copy()))
    return _stack(frames)


def _pixels(image: Any) -> Frame:
    """Pixels of a grey image [H, W, 1], or of another image in RGB; turned as its EXIF says."""
    from PIL import ImageOps

    image.load()
    with contextlib.suppress(Exception):  # damaged EXIF hides no pixels
        ImageOps.exif_transpose(image, in_place=True)
    image.info.pop("transparency", None)  # Pillow would warn that it is dropped
    grey = image.mode in ("1", "L", "LA")
    frame = np.asarray(image.convert("L" if grey else "RGB"))
    return frame[..., None] if grey else frame


def _check_numbering(files: tuple[File, ...]) -> None:
    """Raises a `ValueError` if the numbers in the names show a missing or duplicate frame.

    If names have several numbers ("frame_0002_t0.08_256x256"), one without gaps is enough.
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
    if (steps != step).any() and not (steps % step).any():  # else the numbers are times
        return f"frame {numbers[int((steps != step).argmax())] + step} is missing"
    return None


def _read_video_file(file: File, choose: Choose) -> Frames:
    """Finds frames by their times and decodes from the key frame before the first one.

    If a seek may lose something, the frames before are decoded too; if packets lack times or the
    container's index is wrong, all frames are.
    """
    import av

    source = Source.of(file)
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
        # FFmpeg raises the same for a demuxer that is not allowed and for too large a frame.
        limit = FRAME_BYTES >> 20
        text = f"another kind of file, or frames of more than {limit} MiB"
        raise ValueError(f"cannot be decoded as {file.suffix}: {text}") from error
    except av.FFmpegError as error:
        raise ValueError(f"cannot be decoded: {error.strerror}") from error


def _check_length(source: Source) -> None:
    """Raises a `ValueError` if the file is cut short and FFmpeg would decode the rest silently.

    A truncated mp4 file is found elsewhere: it does not open, or has fewer frames than it states.
    """
    with source.open() as stream:
        head = stream.read(256)
        length = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, length - 64))
        tail = stream.read()
    ends = {b"GIF8": tail.rstrip(b"\0").endswith(b";"), b"\x89PNG": b"IEND" in tail}
    if not ends.get(head[:4], True):
        raise ValueError("truncated: the end of the file is missing")
    if head.startswith(b"RIFF"):
        # Writers differ in what they count, and the last 1024 bytes hold only the index.
        expected = int.from_bytes(head[4:8], "little") % 0xFFFFFFFF - 1024
    elif head.startswith(b"\x1aE\xdf\xa3"):  # EBML, of Matroska and WebM
        start, size = _ebml_size(head, 4)
        start, size = _ebml_size(head, start + size + 4)
        expected = start + size
    else:
        return
    if length < expected:
        raise ValueError(f"truncated: has {length} bytes, its header states at least {expected}")


def _ebml_size(head: bytes, start: int) -> tuple[int, int]:
    """The start of the element whose size is stored at `start`, and the size or 0 if unknown."""
    width = 9 - (head[start : start + 1] or b"\1")[0].bit_length()
    value = int.from_bytes(head[start : start + width], "big") % (1 << 7 * width)
    return start + width, value if value + 1 < 1 << 7 * width else 0


def _times(source: Source) -> list[int] | None:
    """Times of the frames in display order, from the packets; None if packets lack them."""
    with open_source(source) as (container, stream):
        # Packets of VP8 may hold frames that are never shown.
        if stream.codec_context.name == "vp8":
            return None
        packets = [packet for packet in container.demux(stream) if packet.size]
        if "mp4" in container.format.name and len(packets) < stream.frames:
            raise ValueError(f"truncated: has {len(packets)} of {stream.frames} frames")
        times = [p.pts for p in packets if p.pts is not None and not p.is_discard]
        if len(set(times)) < len(packets):
            return None
        # AVI stores no times: if frames are reordered but their times are not, these are guesses.
        if stream.codec_context.has_b_frames and times == sorted(times):
            return None
        times.sort()
    # A cut may have left frames at the start whose references are gone: they are not shown.
    first = next(_decoded(source), None)
    return times if first and times[:1] == [first[0]] else None


def _decoded(
    source: Source, kept: int = 1, times: list[int] | None = None
) -> Iterator[tuple[int, Frame]]:
    """Yields (time, RGB frame), for all frames or those at `times`; `kept` are held at once."""
    from av.video.reformatter import VideoReformatter

    # Reused, since making FFmpeg's scaler takes ten times as long as scaling a small frame.
    reformatter = VideoReformatter()
    with open_source(source, kept) as (container, stream):
        sought = times and source.demuxers in _SEEKABLE_DEMUXERS and _is_seekable(stream)
        if times and sought:
            container.seek(times[0], stream=stream)
        for frame in container.decode(stream):
            if sought and not frame.key_frame:  # then all frames are decoded
                return
            sought = False
            if frame.is_corrupt:
                raise ValueError(f"frame at {frame.time:.3f} s is damaged")
            if times is None or frame.pts in times:
                rgb = reformatter.reformat(frame, format="rgb24", threads=1)
                yield frame.pts, upright(rgb.to_ndarray(), frame)
            if times and frame.pts is not None and frame.pts >= times[-1]:
                return


def _is_seekable(stream: Any) -> bool:
    return stream.codec_context.codec.canonical_name in _SEEKABLE_CODECS


def upright(pixels: Frame, frame: Any) -> Shaped[np.ndarray, "height width c"]:
    """Turns and mirrors decoded pixels by the display matrix of a frame, to multiples of 90°."""
    try:
        matrix = next((s for s in frame.side_data if s.type.name == "DISPLAYMATRIX"), None)
    except ValueError:  # PyAV does not know the type of other side data, such as EXIF
        turn = np.deg2rad(-frame.rotation)
        a, b, c, d = np.cos(turn), np.sin(turn), -np.sin(turn), np.cos(turn)
    else:
        if matrix is None:
            return pixels
        a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].tolist()
    # Columns and rows (x, y) are shown at (ax + cy, bx + dy), up to a shift.
    if abs(b) > abs(a):
        pixels, a, d = pixels.swapaxes(0, 1), c, b
    return pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


@contextlib.contextmanager
def open_source(source: Source, kept: int = 1) -> Iterator[tuple[Any, Any]]:
    """Opens a video file for FFmpeg, of which `kept` frames will be in memory at once."""
    import av

    content = source.content
    # Before PyAV 19, a title in another encoding is an error unless its bytes are replaced.
    old = int(av.__version__.partition(".")[0]) < 19
    tolerant: dict[str, Any] = {"metadata_errors": "replace"} if old else {}
    with av.open(
        f"file:{content}" if isinstance(content, str) else BytesIO(content),
        options={
            "format_whitelist": source.demuxers,
            "protocol_whitelist": "file",
            **_LIMITS,  # for the decoder that finds the size
        },
        **tolerant,
    ) as container:
        if not container.streams.video:
            raise ValueError("holds no video")
        stream = container.streams.video[0]
        if stream.codec_context is None:
            raise ValueError("cannot be decoded: FFmpeg has no decoder for its codec")
        check_clip(kept, stream.codec_context.height, stream.codec_context.width)
        stream.codec_context.options = _LIMITS
        stream.codec_context.thread_count = 1  # videos are read in parallel
        yield container, stream


def _stack(frames: list[Shaped[np.ndarray, "_ _ _"]]) -> Frames:
    """Stacks frames of one size; no frames give the shape [0, 0, 0, 3].

    If some are grey and some RGB, as images whose pixels happen to be grey may be stored, all
    become RGB.
    """
    if len({frame.shape[2] for frame in frames}) > 1:
        frames = [np.broadcast_to(frame, (*frame.shape[:2], 3)) for frame in frames]
    shapes = list(dict.fromkeys(frame.shape for frame in frames))
    if len(shapes) > 1:
        raise ValueError(f"got frames of several sizes, {shapes[0]} and {shapes[1]}")
    return np.stack(frames) if frames else np.zeros((0, 0, 0, 3), np.uint8)
