"""Reads videos in rounds of a few per process, and chooses which of their clips count.

A protocol that asks for a number of clips gets those of the first videos that are long enough.
With `jax.distributed`, each process loads its own videos of a round. The processes exchange the
lengths of their clips, so that the choice does not depend on the number of processes.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Int, Shaped

from srvp_fd_jax.protocols import Protocol, Side
from srvp_fd_jax.videos.loading import Loaded, load_clips
from srvp_fd_jax.videos.sources import Video

# The clips of a round are held in memory: 16 clips of 128 frames of 256×256 take 400 MB.
VIDEOS_A_ROUND = 16

Clips = list[tuple[str, Shaped[np.ndarray, "t h w c"]]]
"""Clips with the names of their videos, in the order of the videos."""


@dataclasses.dataclass(frozen=True)
class Taken:
    """The clips that one protocol has taken so far.

    Attributes:
        used: Number of clips that count, over all processes.
        frames: Number of frames per clip; None before the first clip if clips are whole videos.
        too_short: Names of videos of this process that were too short.
    """

    used: int = 0
    frames: int | None = None
    too_short: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a pass over the videos has come.

    Attributes:
        taken: One `Taken` per protocol.
        position: Number of videos that are done, over all processes.
        unreadable: Names of videos of this process that could not be read, with the reasons.
    """

    taken: tuple[Taken, ...]
    position: int = 0
    unreadable: tuple[tuple[str, str], ...] = ()

    @classmethod
    def start(cls, protocols: Iterable[Protocol]) -> "Progress":
        """The progress before the first video."""
        return cls(tuple(Taken(frames=protocol.frames) for protocol in protocols))


def rounds(
    videos: Sequence[Video],
    protocols: Sequence[Protocol],
    side: Side,
    *,
    progress: Progress,
    strict: bool = False,
) -> Iterator[tuple[Progress, list[Clips]]]:
    """Reads videos until they end or no protocol needs more clips.

    Every process passes all `videos` and continues from `progress`. If `strict`, an unreadable
    video raises an error. For the other arguments see `load_clips`.

    Yields:
        The progress after each round, and for each protocol the clips of this process that count.

    Raises:
        ValueError: If `strict` and a video cannot be read, or if whole videos differ in length.
    """
    process, processes = jax.process_index(), jax.process_count()
    loaded = load_clips(
        videos,
        protocols,
        side,
        start=progress.position,
        shard=(process, processes),
    )
    while progress.position < len(videos) and any(
        protocol.clips is None or taken.used < protocol.clips
        for protocol, taken in zip(protocols, progress.taken, strict=True)
    ):
        own = list(itertools.islice(loaded, VIDEOS_A_ROUND))
        unreadable = tuple((one.video.name, one.error) for one in own if one.error is not None)
        if strict and unreadable:
            raise ValueError(": ".join(unreadable[0]))
        lengths = _gather(
            [[0 if clip is None else len(clip) for clip in one.clips] for one in own],
            len(protocols),
        )
        taken, clips = zip(
            *(
                _take(protocol, before, own, i, lengths[..., i])
                for i, (protocol, before) in enumerate(zip(protocols, progress.taken, strict=True))
            ),
            strict=True,
        )
        progress = Progress(
            taken=taken,
            position=min(progress.position + VIDEOS_A_ROUND * processes, len(videos)),
            unreadable=progress.unreadable + unreadable,
        )
        yield progress, list(clips)


def _take(
    protocol: Protocol,
    before: Taken,
    loaded: Sequence[Loaded],
    i: int,
    lengths: Int[np.ndarray, "turns processes"],
) -> tuple[Taken, Clips]:
    """Takes the first clips of a round, as many as protocol number i still needs.

    `lengths` of all processes' clips, 0 for no clip, follow the order of the videos row by row.
    """
    limit = np.inf if protocol.clips is None else protocol.clips - before.used
    exist = lengths > 0
    counting = exist & (np.cumsum(exist).reshape(exist.shape) <= limit)
    frames = before.frames or next(iter(lengths[counting].tolist()), None)
    if (lengths[counting] != frames).any():
        others = sorted(set(lengths[counting].tolist()) - {frames})
        raise ValueError(
            f"videos: got videos of {frames} and of {others[0]} frames: {protocol.name!r} takes "
            "whole videos, which must have one length; choose a number of frames (--frames)"
        )
    taken = Taken(
        used=before.used + int(counting.sum()),
        frames=frames,
        too_short=before.too_short
        + tuple(one.video.name for one in loaded if one.clips[i] is None and one.error is None),
    )
    own = counting[: len(loaded), jax.process_index()]
    chosen = [
        (one.video.name, one.clips[i]) for one, counts in zip(loaded, own, strict=True) if counts
    ]
    return taken, [(name, clip) for name, clip in chosen if clip is not None]


def _gather(
    lengths: list[list[int]], protocols: int
) -> Int[np.ndarray, "turns processes protocols"]:
    padded = np.zeros((VIDEOS_A_ROUND, protocols), int)
    if lengths:
        padded[: len(lengths)] = lengths
    if jax.process_count() == 1:
        return padded[:, None]
    return np.moveaxis(np.asarray(multihost_utils.process_allgather(padded)), 0, 1)
