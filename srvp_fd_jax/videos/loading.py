"""Loads the clips of many videos in parallel, in the order of the videos.

The loader is Grain, which comes with the extra "video". A video is opened once for all protocols.
"""

import contextlib
import gc
import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped

from srvp_fd_jax.inputs import missing_extra
from srvp_fd_jax.networks import NETWORKS
from srvp_fd_jax.protocols import Protocol, Side
from srvp_fd_jax.resizing import check_size
from srvp_fd_jax.videos.reading import check_clip, read_frames
from srvp_fd_jax.videos.sources import Video

# Number of videos that are loaded ahead: clips are large, and a few hide the time of a slow one.
_READY = 8


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


class _Load:
    """Loads the clips of one video; picklable, so that it can be sent to worker processes."""

    def __init__(self, protocols: Sequence[Protocol], side: Side):
        self.protocols, self.side = protocols, side
        # Looked up here, since worker processes may lack networks that the user has registered.
        self.sizes = [NETWORKS[p.network].architecture.size for p in protocols]

    def __call__(self, numbered: tuple[int, Video]) -> Loaded:
        number, video = numbered
        wanted: list[Int[np.ndarray, " t"]] = []

        def choose(length: int) -> Int[np.ndarray, " t"]:
            wanted[:] = [clip_frames(length, number, p, self.side) for p in self.protocols]
            for size, frames in zip(self.sizes, wanted, strict=True):
                # Clips must also fit in memory as float32 at the network's size.
                check_clip(len(frames), size, size, 3 * 4)
            return np.unique(np.concatenate(wanted))

        try:
            frames = read_frames(video, choose)
            _, height, width, _ = frames.shape
            for protocol, size in zip(self.protocols, self.sizes, strict=True):
                if len(frames):
                    check_size(height, width, protocol.resize, size)
        except Exception as error:
            # For damaged files libraries raise errors of any type; one must not stop thousands.
            return Loaded(
                video,
                (None,) * len(self.protocols),
                str(error).removeprefix(f"{video.name}: ") or repr(error),
            )
        read = np.unique(np.concatenate(wanted))
        return Loaded(
            video, tuple(frames[np.searchsorted(read, w)] if len(w) else None for w in wanted)
        )


def load_clips(
    videos: Sequence[Video],
    protocols: Sequence[Protocol],
    side: Side,
    *,
    workers: int = 0,
    start: int = 0,
    shard: tuple[int, int] = (0, 1),
) -> Iterator[Loaded]:
    """Loads one clip per protocol from each video.

    Args:
        videos: Videos to load.
        protocols: Protocols that choose the frames of the clips.
        side: Side that the videos belong to, "real" or "fake".
        workers: Number of processes that read videos; 0 to read in threads of this process.
        start: Index of the first video to load.
        shard: Pair (i, n): from the video `start + i` on, every n-th video is loaded.

    Yields:
        One `Loaded` per video, in order.

    Raises:
        ModuleNotFoundError: If the extra "video" is not installed and not all videos are arrays.
        ChildProcessError: If a worker process dies.
    """
    numbered = list(enumerate(videos))[start:][shard[0] :: shard[1]]
    if all(video.is_array for video in videos):
        yield from map(_Load(tuple(protocols), side), numbered)
    else:
        yield from load_numbered(numbered, protocols, side, workers=workers)


def load_numbered(
    numbered: Any,
    protocols: Sequence[Protocol],
    side: Side,
    *,
    workers: int = 0,
) -> Iterator[Loaded]:
    """Loads the clips of videos that come with the numbers which seed their random starts.

    `numbered` has `__len__` and `__getitem__`, and pairs of a number and a `Video` as items. It
    must be picklable for `workers`. For the rest see `load_clips`.
    """
    grain = _import_grain()
    load = _Load(tuple(protocols), side)
    threads = grain.ReadOptions(num_threads=os.cpu_count() or 1, prefetch_buffer_size=_READY)
    clips = grain.MapDataset.source(numbered).map(load).to_iter_dataset(threads)
    if workers:
        _parse_flags()
        clips = clips.mp_prefetch(grain.MultiprocessingOptions(workers), _end_with_parent)
    if not workers:
        yield from clips
        return
    iterator = iter(clips)
    try:
        with _interrupts_blocked():
            first = list(map(_copied, itertools.islice(iterator, 1)))  # starts the processes
        yield from first
        yield from map(_copied, iterator)
    except RuntimeError as error:  # not of a video, whose errors `_Load` catches
        raise ChildProcessError(f"a worker process that reads videos died: {error}") from error
    finally:
        if hasattr(iterator, "close"):  # some supported releases of Grain lack it
            iterator.close()
        del iterator
        _wait_for_shared_memory()


def _copied(loaded: Loaded) -> Loaded:
    """Copies clips out of the memory shared with a worker, which is scarce in containers."""
    return loaded._replace(
        clips=tuple(None if clip is None else np.array(clip) for clip in loaded.clips)
    )


def _wait_for_shared_memory() -> None:
    """Waits for Grain's thread that frees shared memory, as it would end with the process."""
    until = time.monotonic() + 2
    # Not `isinstance`, for which objects of other libraries may run their own code.
    while time.monotonic() < until and any(type(one) is SharedMemory for one in gc.get_objects()):
        time.sleep(0.01)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Delays Ctrl-C for this process, and hides it from processes that are started meanwhile.

    A terminal sends Ctrl-C to all processes, and each worker would print a traceback.
    """
    resource_tracker.ensure_running()  # its start unblocks the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(worker: int, workers: int) -> None:
    """Ends a worker when its parent ends, since a killed parent cannot stop its workers."""

    def wait() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _parse_flags() -> None:
    """Marks absl's flags as parsed, without which Grain starts no processes."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _import_grain() -> Any:
    """Imports Grain, and the readers so that their absence raises an error before work starts."""
    try:
        import av  # noqa: F401 (used in reading.py)
        import grain
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(missing_extra(error, "reading videos", "video")) from error
    return grain
