"""Loads the clips of many videos in threads, in the order of the videos.

PyAV and Pillow decode without holding the interpreter's lock. A video is opened once for all
protocols.
"""

import itertools
import os
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from srvp_fd_jax.files.inputs import missing_extra
from srvp_fd_jax.networks.registry import NETWORKS
from srvp_fd_jax.protocols import Protocol, Side
from srvp_fd_jax.videos.reading import check_clip, read_frames
from srvp_fd_jax.videos.resizing import check_size
from srvp_fd_jax.videos.sources import Video

# Number of videos that are loaded ahead: clips are large, and a few hide the time of a slow one.
_AHEAD = 8


class Loaded(NamedTuple):
    """The clips of one video.

    Attributes:
        video: The video.
        clips: One clip [T, H, W, C] per protocol; None where the video is too short or unreadable.
        error: Why the video cannot be read or has frames of a wrong size; None if it was read.
    """

    video: Video
    clips: tuple[Shaped[np.ndarray, "t h w c"] | None, ...]
    error: str | None = None


def clip_frames(length: int, number: int, protocol: Protocol, side: Side) -> Int[np.ndarray, " t"]:
    """Chooses the rising indices of the frames that make the clip of a video.

    `length` is the number of frames in the video; no frame is chosen if the video is too short. A
    random start is seeded by the protocol's seed and `number`, the index of the video.
    """
    if length < protocol.shortest(side):
        return np.arange(0)
    sampling = protocol.sampling(side)
    left = length - protocol.skip
    frames = protocol.frames or -(-left // sampling.step)
    span = (frames - 1) * sampling.step + 1
    start = protocol.skip
    if sampling.start == "random":
        start += int(np.random.default_rng([protocol.seed, number]).integers(left - span + 1))
    # `np.arange` would give objects for steps beyond int64.
    return np.array(range(start, start + span, sampling.step))


def load_clips(
    videos: Sequence[Video],
    protocols: Sequence[Protocol],
    side: Side,
    *,
    numbers: Iterable[int] | None = None,
) -> Generator[Loaded]:
    """Loads one clip per protocol from each video.

    Args:
        videos: Videos to load.
        protocols: Protocols that choose the frames of the clips.
        side: Side that the videos belong to, "real" or "fake".
        numbers: Indices of the videos to load; by default all.

    Yields:
        One `Loaded` per video, in order.

    Raises:
        ModuleNotFoundError: If the extra "video" is not installed and not all videos are arrays.
    """
    numbered = [(n, videos[n]) for n in (range(len(videos)) if numbers is None else numbers)]
    if all(video.is_array for _, video in numbered):
        yield from (_load(number, video, protocols, side) for number, video in numbered)
    else:
        yield from load_numbered(numbered, protocols, side)


def load_numbered(
    numbered: Iterable[tuple[int, Video]], protocols: Sequence[Protocol], side: Side
) -> Generator[Loaded]:
    """Loads the clips of videos that come with the numbers which seed their random starts.

    There may be videos without end. For the rest see `load_clips`.
    """
    _check_readers()
    numbered = iter(numbered)
    ahead: deque[Future[Loaded]] = deque()
    threads = ThreadPoolExecutor(os.cpu_count())
    try:
        while True:
            for number, video in itertools.islice(numbered, _AHEAD - len(ahead)):
                ahead.append(threads.submit(_load, number, video, protocols, side))
            if not ahead:
                return
            yield ahead.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


def _load(number: int, video: Video, protocols: Sequence[Protocol], side: Side) -> Loaded:
    wanted: list[Int[np.ndarray, " t"]] = []
    sizes = [NETWORKS[protocol.network].architecture.size for protocol in protocols]

    def choose(length: int) -> Int[np.ndarray, " t"]:
        wanted[:] = [clip_frames(length, number, protocol, side) for protocol in protocols]
        for size, frames in zip(sizes, wanted, strict=True):
            # Clips must also fit in memory as float32 at the network's size.
            check_clip(len(frames), size, size, 3 * 4)
        return np.unique(np.concatenate(wanted))

    try:
        frames = read_frames(video, choose)
        _, height, width, _ = frames.shape
        for protocol, size in zip(protocols, sizes, strict=True):
            if len(frames):
                check_size(height, width, protocol.resize, size)
    except Exception as error:
        # For damaged files libraries raise errors of any type; one must not stop thousands.
        text = str(error).removeprefix(f"{video.name}: ") or repr(error)
        return Loaded(video, (None,) * len(protocols), text)
    read = np.unique(np.concatenate(wanted))
    return Loaded(
        video, tuple(frames[np.searchsorted(read, w)] if len(w) else None for w in wanted)
    )


def _check_readers() -> None:
    """Imports the readers, so that their absence raises an error before work starts."""
    try:
        import av  # noqa: F401 (both are used in reading.py)
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(missing_extra(error, "reading videos", "video")) from error
