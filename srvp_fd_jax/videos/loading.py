"""Loads the clips of many videos ahead of their use, in order, whatever the number of workers.

The loader is Grain (extra "video"). A video is opened once for all protocols that ask for a clip
of it.
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

from srvp_fd_jax.videos.protocols import Protocol, Side
from srvp_fd_jax.videos.reading import check_clip, read_frames
from srvp_fd_jax.videos.resizing import check_size
from srvp_fd_jax.videos.sources import ARRAY_SUFFIXES, Video

# Clips are large: no more are kept ready than hide the time of a slow one.
_READY = 8


class Loaded(NamedTuple):
    """What came of one video.

    Attributes:
        video: Which one.
        clips: A clip [T, H, W, C] a protocol; None where the video is too short for it.
        error: Why it could not be read, or has frames that a protocol does not take; else None.
    """

    video: Video
    clips: tuple[Shaped[np.ndarray, "t h w c"] | None, ...]
    error: str | None = None


def clip_frames(length: int, number: int, protocol: Protocol, side: Side) -> Int[np.ndarray, " t"]:
    """Chooses the frames of a clip.

    Args:
        length: Frames of the video.
        number: Number of the video among all, with the protocol's seed the seed of a random start.
        protocol: How to sample.
        side: Whose sampling.

    Returns:
        Numbers of frames; none if the video is too short.
    """
    if length < protocol.shortest(side):
        return np.arange(0)
    sampling = protocol.sampling(side)
    frames = protocol.frames or -(-length // sampling.step)
    span = (frames - 1) * sampling.step + 1
    start = 0
    if sampling.start == "random":
        start = int(np.random.default_rng([protocol.seed, number]).integers(length - span + 1))
    return np.array(range(start, start + span, sampling.step))  # of steps of any size


class _Load:
    """Loads clips of a video; picklable, for worker processes."""

    def __init__(self, protocols: Sequence[Protocol], side: Side):
        self.protocols, self.side = protocols, side

    def __call__(self, numbered: tuple[int, Video]) -> Loaded:
        number, video = numbered
        wanted: list[Int[np.ndarray, " t"]] = []

        def choose(length: int) -> Int[np.ndarray, " t"]:
            wanted[:] = [clip_frames(length, number, p, self.side) for p in self.protocols]
            for protocol, frames in zip(self.protocols, wanted, strict=True):
                # As the network sees them: small frames grow, and bytes become floats.
                check_clip(len(frames), protocol.size, protocol.size, 3 * 4)
            return np.unique(np.concatenate(wanted))

        try:
            frames = read_frames(video, choose)
            _, height, width, _ = frames.shape
            for protocol in self.protocols if len(frames) else ():
                check_size(height, width, protocol.resize, protocol.size)
        except Exception as error:
            # Whatever it is: of damaged files libraries raise errors of any type, and one file
            # stops no run of thousands. What else goes wrong is not caught like this.
            return Loaded(video, (None,) * len(self.protocols), str(error) or repr(error))
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
    """Loads a clip a protocol of each video.

    Args:
        videos: Where they are.
        protocols: How clips are sampled.
        side: Whose sampling, "real" or "fake".
        workers: Processes that read; 0 for threads of this one.
        start: Number of the first video to load.
        shard: Number of this process and of all: of the videos from the first on it loads those
            that are its own in turn.

    Yields:
        One result a video, in order.

    Raises:
        ModuleNotFoundError: If the extra "video" is not installed; arrays do without.
        ChildProcessError: If a process that reads dies.
    """
    load = _Load(tuple(protocols), side)
    numbered = list(enumerate(videos))[start:][shard[0] :: shard[1]]
    if all(video.files[0].suffix in ARRAY_SUFFIXES for video in videos):
        yield from map(load, numbered)
        return
    grain = _import_grain()
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
    except RuntimeError as error:  # videos raise none: see _Load
        raise ChildProcessError(f"a process that reads videos has died: {error}") from error
    finally:
        if hasattr(iterator, "close"):  # not in every release that is allowed
            iterator.close()
        del iterator
        _wait_for_shared_memory()


def _copied(loaded: Loaded) -> Loaded:
    """Out of the memory shared with a worker, of which a container has little."""
    return loaded._replace(
        clips=tuple(None if clip is None else np.array(clip) for clip in loaded.clips)
    )


def _wait_for_shared_memory() -> None:
    """Grain gives it back in a thread, which the end of the process would cut short."""
    until = time.monotonic() + 2
    # By the type itself: asked by `isinstance`, objects of other libraries may run their own code.
    while time.monotonic() < until and any(type(one) is SharedMemory for one in gc.get_objects()):
        time.sleep(0.01)


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes that start here never see Ctrl-C; this one sees it afterwards.

    A terminal sends it to all, and each would print its traceback.
    """
    resource_tracker.ensure_running()  # starting it would end the blocking
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(worker: int, workers: int) -> None:
    """In a worker process: one that was killed could not end its workers, which read for ever."""

    def wait() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _parse_flags() -> None:
    """Grain starts processes only in programs that have parsed absl's flags."""
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()


def _import_grain() -> Any:
    """Grain, and the readers by the way, before worker threads miss them."""
    try:
        import av  # noqa: F401 (used in reading.py)
        import grain
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{error}: reading videos takes the extra "video", pip install "srvp-fd-jax[video]"'
        ) from error
    return grain
