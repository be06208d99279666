"""Clips to train on: which videos are held out, and an endless order of clips that can be repeated.

Clip number i of a run is the same whatever came before it: a permutation that is seeded by the pass
over the videos says which video it is taken from, and a generator that is seeded by i says at which
frame it starts. So a run that goes on after a kill, and a run of many processes, see the same clips
as any other.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Int, Shaped, UInt8

from srvp_fd_jax.files.inputs import range_caution, to_bytes, warn
from srvp_fd_jax.protocols import Protocol, Sampling
from srvp_fd_jax.training.recipes import Recipe
from srvp_fd_jax.videos.loading import Loaded, load_clips, load_numbered
from srvp_fd_jax.videos.reading import read_frames
from srvp_fd_jax.videos.resizing import Resize, check_size, prepare
from srvp_fd_jax.videos.sources import Video, local_names

HELD_OUT = 0.05
"""Share of the videos that are held out."""

_NAMED = 5
_CHANGED = "has become too short"
_Clips = UInt8[np.ndarray, "n t 64 64 c"]


class Split(NamedTuple):
    """The videos of a run.

    Attributes:
        training: Videos to train on.
        held_out: Videos for validation.
        too_short: Names of the videos that are shorter than a clip, which are left out.
        unreadable: Names of the videos that cannot be read or have frames of a wrong size, which
            are left out, with the reasons.
    """

    training: list[Video]
    held_out: list[Video]
    too_short: list[str]
    unreadable: dict[str, str]


def split(
    videos: Sequence[Video],
    recipe: Recipe,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Split:
    """Finds out how long videos are, and holds some of those that are long enough out.

    Which videos are held out depends on their names and the recipe's `split_seed` alone, not on
    their order, so more videos change little of it.

    Args:
        videos: All videos.
        recipe: How the model is trained.
        on_progress: Called with the numbers of videos that are done and of all videos.
    """
    protocol = _protocol(recipe)
    shortest = protocol.shortest("real")
    usable: dict[str, Video] = {}
    too_short, unreadable = [], {}
    names = local_names(videos)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as threads:
        for i, length in enumerate(threads.map(functools.partial(_length, recipe=recipe), videos)):
            if isinstance(length, str):
                unreadable[videos[i].name] = length
            elif length < shortest:
                too_short.append(videos[i].name)
            else:
                usable[names[i]] = videos[i]
            on_progress(i + 1, len(videos))
    _warn_left_out(
        len(videos), f"which are shorter than the {shortest} frames of a clip", too_short
    )
    _warn_left_out(
        len(videos), "which cannot be used", [f"{n} ({e})" for n, e in unreadable.items()]
    )

    def draw(name: str) -> bytes:
        return hashlib.sha256(f"{recipe.split_seed} {name}".encode(errors="replace")).digest()

    held = set(sorted(usable, key=draw)[: max(1, round(HELD_OUT * len(usable)))])
    training = [video for name, video in usable.items() if name not in held]
    return Split(training, [usable[name] for name in usable if name in held], too_short, unreadable)


def check_batch(videos: Split, recipe: Recipe) -> None:
    """Raises a `ValueError` if there are fewer videos to train on than clips in a batch."""
    training, held_out = len(videos.training), len(videos.held_out)
    too_short, unreadable = len(videos.too_short), len(videos.unreadable)
    if training < recipe.batch_size:
        found = training + held_out + too_short + unreadable
        named = "".join(f": {name} ({e})" for name, e in list(videos.unreadable.items())[:1])
        raise ValueError(
            f"videos: got {training} to train on (found {found}, held out {held_out}, too short "
            f"{too_short}, unreadable {unreadable}{named}), expected at least a batch of "
            f"{recipe.batch_size}: more videos, a smaller batch_size, or fewer frames per clip"
        )


def batches(videos: Sequence[Video], recipe: Recipe, *, first: int = 0) -> Generator[_Clips]:
    """Yields this process's part of the batches of a run, without end.

    Every video gives one clip before any video gives the next one. The rows of a batch belong to
    the processes in order.

    Args:
        videos: Videos to train on, the same in all processes.
        recipe: How the model is trained.
        first: Number of the first batch.
    """
    order = _Order(videos, recipe, first, jax.process_index(), jax.process_count())

    def clip(one: Loaded, i: int) -> UInt8[np.ndarray, "t 64 64 c"]:
        for other in range(order.place(i) + 1, order.place(i) + len(videos)):
            if not isinstance(made := _clip_of(one, recipe), str):
                return made
            warn(f"{one.video.name}: {made}; another video takes its place")
            instead = [(i, videos[other % len(videos)])]
            (one,) = load_numbered(instead, [_protocol(recipe)], "real")
        raise ValueError("videos: none of them can be read any more")

    loaded = load_numbered(order, [_protocol(recipe)], "real")
    clips = (clip(one, order.number(row)) for row, one in enumerate(loaded))
    while True:
        yield np.stack(list(itertools.islice(clips, order.of_process)))


@dataclasses.dataclass(frozen=True)
class _Order:
    """The numbers and videos of a process's clips, without end."""

    videos: Sequence[Video]
    recipe: Recipe
    first: int
    process: int
    processes: int

    def __iter__(self) -> Iterator[tuple[int, Video]]:
        for number in map(self.number, itertools.count()):
            yield number, self.videos[self.place(number)]

    @property
    def of_process(self) -> int:
        """Number of this process's rows in a batch."""
        return self.recipe.batch_size // self.processes

    def number(self, row: int) -> int:
        """Number, among all clips of the run, of a row of this process."""
        batch, within = divmod(row, self.of_process)
        return (
            (self.first + batch) * self.recipe.batch_size + self.process * self.of_process + within
        )

    def place(self, number: int) -> int:
        """Index of the video that gives a clip."""
        turn, within = divmod(number, len(self.videos))
        return int(_permutation(len(self.videos), self.recipe.seed, turn)[within])


def held_out_clips(videos: Sequence[Video], recipe: Recipe) -> _Clips:
    """Loads one clip from each of the first held-out videos, from a frame that the seed draws."""
    protocol = dataclasses.replace(_protocol(recipe), seed=recipe.split_seed)
    loaded = load_clips(videos[: recipe.validation_clips], [protocol], "real")
    clips = [clip for one in loaded if not isinstance(clip := _clip_of(one, recipe), str)]
    if not clips:
        raise ValueError("videos: none of the held-out ones can be read any more")
    return np.stack(clips)


@functools.lru_cache(maxsize=2)
def _permutation(count: int, seed: int, turn: int) -> Int[np.ndarray, " count"]:
    """The order in which one pass takes the videos."""
    return np.random.default_rng([seed, turn]).permutation(count)


def _protocol(recipe: Recipe) -> Protocol:
    protocol = recipe.protocol
    return dataclasses.replace(
        protocol,
        frames=recipe.frames,
        real=Sampling("random", protocol.real.step),
        seed=recipe.seed,
    )


def _length(video: Video, recipe: Recipe) -> int | str:
    """The number of frames in a video, or why it cannot be used."""
    lengths = []

    def choose(length: int) -> Int[np.ndarray, " one"]:
        lengths.append(length)
        return np.arange(min(1, length))

    try:
        first = read_frames(video, choose)
        if len(first):
            rule, size = recipe.protocol.resize, recipe.architecture.size
            check_size(first.shape[1], first.shape[2], rule, size)
            _check_range(first)
    except Exception as error:  # libraries raise errors of any type for damaged files
        return str(error).removeprefix(f"{video.name}: ") or repr(error)
    return lengths[0]


def _check_range(frames: Shaped[np.ndarray, "t h w c"]) -> None:
    """Raises a `ValueError` for floats that bytes would clip."""
    if frames.dtype == np.uint8:
        return
    low, high = float(frames.min()), float(frames.max())
    if range_caution(low, high):
        raise ValueError(
            f"got values from {low:.3g} to {high:.3g}, expected floats in [0, 1]: scale values "
            "from -1 to 1 by (x + 1) / 2, clip others"
        )


def _clip_of(one: Loaded, recipe: Recipe) -> UInt8[np.ndarray, "t 64 64 c"] | str:
    """The clip of a loaded video, or why it gives none."""
    if one.clips[0] is None:
        return one.error or _CHANGED
    try:
        _check_range(one.clips[0])
    except ValueError as error:
        return str(error)
    return _prepared(one.clips[0], recipe)


def _warn_left_out(found: int, why: str, names: Sequence[str]) -> None:
    if names:
        named = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
        warn(f"left out {len(names)} of {found} videos, {why}: {named}")


def _prepared(
    clip: Shaped[np.ndarray, "t h w c"], recipe: Recipe
) -> UInt8[np.ndarray, "t 64 64 c2"]:
    architecture, rule = recipe.architecture, recipe.protocol.resize
    size, channels = architecture.size, architecture.channels
    if clip.dtype == np.uint8 and clip.shape[1:] == (size, size, channels):
        return clip
    with jax.default_device(_cpu()):  # an accelerator would do this after the step it works on
        return np.asarray(_resized(clip[None], rule, size, channels))[0]


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _resized(
    clips: Shaped[Array, "n t h w c"], rule: Resize, size: int, channels: int
) -> UInt8[Array, "n t size size channels"]:
    return to_bytes(prepare(clips, rule, size, channels))


@functools.cache
def _cpu() -> jax.Device | None:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS excludes the CPU
        return None
