"""Statistics of stored videos, shard by shard.

A set of videos is divided into shards of consecutive videos, by a rule that depends on the list of
videos only. The statistics of a shard are one file in a work folder, under a name that is the hash
of everything they depend on. The statistics of the set are the merge of its shards in their order.
So an interrupted job goes on where it stopped, further jobs find the statistics of the same videos,
and any number of processes share the work: each of them computes shards that are not there yet, and
two that compute the same one write the same bytes.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped, UInt32

from srvp_fd_jax.devices import AnyArray
from srvp_fd_jax.distances import DISTANCES
from srvp_fd_jax.distances.provenance import VideoCounts, mark, unseen
from srvp_fd_jax.distances.sample import SAMPLE_SIZE, name_keys
from srvp_fd_jax.distances.statistics import FeatureStatistics, of_nothing
from srvp_fd_jax.features.calculator import Calculator
from srvp_fd_jax.features.encoders import moments, moments_along
from srvp_fd_jax.features.extract import Batch, Extract, States, stream, used_frames
from srvp_fd_jax.files.inputs import warn
from srvp_fd_jax.networks.base import Moments
from srvp_fd_jax.networks.kernels.convolution import Precision
from srvp_fd_jax.protocols import Protocol, Side
from srvp_fd_jax.videos.loading import Loaded, load_clips
from srvp_fd_jax.videos.resizing import prepare
from srvp_fd_jax.videos.sources import Video, clip_names, fingerprint

SCHEMA = 2
"""Number in the names of shards; raise it when the same videos give others than before.

Such a change may lie in what is found in a folder, in reading, sampling, resizing, in a network, or
in what is saved. The release would not do: it stays while the code changes.
"""

SHARD = 64
"""Number of videos in a shard."""

_CHUNK = 16  # videos, whose clips are in memory: 16 clips of 128 frames of 256×256 take 400 MB

Clip = Shaped[np.ndarray, "_ _ _ _"]  # the sizes differ from clip to clip


class Job(NamedTuple):
    """What is made of a set of videos.

    Attributes:
        videos: All videos, the same on every process.
        side: Whether videos are sampled as "real" or as "fake" ones.
        keys: Keys of the videos' clips in a sample.
        along: Whether the sample has features at all time steps, see `Architecture.windows`.
        strict: Whether a video that cannot be read raises an error.
        folder: Work folder; None to keep shards in memory.
        on_progress: Called from time to time with the number of videos that are done.
    """

    videos: Sequence[Video]
    side: Side
    keys: UInt32[np.ndarray, "n 2"]
    along: bool
    strict: bool
    folder: Path | None
    on_progress: Callable[[int], None]


def statistics_of_videos(
    videos: Sequence[Video],
    calculators: Sequence[Calculator],
    side: Side,
    *,
    folder: Path | None = None,
    along: bool = False,
    paired: bool = False,
    strict: bool = False,
    on_progress: Callable[[int], None] = lambda position: None,
) -> dict[Protocol, FeatureStatistics]:
    """Makes the statistics of videos, with a random sample of their clips.

    Args:
        videos: All videos, the same on every process.
        calculators: Calculators with the protocols, from `load_calculators`.
        side: Whether videos are sampled as "real" or as "fake" ones.
        folder: Work folder, which all processes share. None computes all shards in this process.
        along: Whether the sample has features at all time steps, see `Architecture.windows`,
            instead of those that the statistics are made of.
        paired: Whether clips are named by the indices of their videos, see `sources.clip_names`.
        strict: Whether a video that cannot be read raises an error.
        on_progress: Called from time to time with the number of videos that are done.

    Returns:
        Statistics of each protocol.

    Raises:
        ValueError: If fewer videos give a clip than a protocol needs (at least one), if a protocol
            takes whole videos and their lengths differ, or if a video cannot be read and `strict`
            is set.
    """
    keys = name_keys(clip_names(videos, side, paired))
    job = Job(videos, side, keys, along, strict, folder, on_progress)
    protocols = [protocol for calculator in calculators for protocol in calculator.protocols]
    shards = [
        range(start, min(start + SHARD, len(videos))) for start in range(0, len(videos), SHARD)
    ]
    if folder:
        _share(job, shards, calculators)
    made: dict[Protocol, FeatureStatistics] = {}
    for shard in shards:
        left = {
            protocol: min(len(shard), (protocol.clips or len(videos)) - before)
            for protocol in protocols
            for before in [made[protocol].videos.used if protocol in made else 0]
        }
        limits = {protocol: limit for protocol, limit in left.items() if limit > 0}
        if not limits:
            break
        for protocol, of_shard in _statistics(job, shard, limits, calculators).items():
            made[protocol] = _together(made.get(protocol), of_shard, protocol)
    return {protocol: _finished(made[protocol], protocol, side, len(videos)) for protocol in made}


def _share(job: Job, shards: Sequence[range], calculators: Sequence[Calculator]) -> None:
    """Computes shards that are needed in any case: first those of this process, then all others."""
    process, processes = jax.process_index(), jax.process_count()
    if processes == 1:
        return
    own = shards[process::processes]
    others = [shard for i, shard in enumerate(shards) if i % processes != process]
    for shard in [*own, *reversed(others)]:
        limits = {
            protocol: len(shard)
            for calculator in calculators
            for protocol in calculator.protocols
            if protocol.clips is None or shard.stop <= protocol.clips
        }
        _statistics(job, shard, limits, calculators)


def _together(
    before: FeatureStatistics | None, shard: FeatureStatistics, protocol: Protocol
) -> FeatureStatistics:
    """The merge of statistics, of which those without clips have no sample and no length."""
    if before is None:
        return shard
    if not (before.videos.used and shard.videos.used):
        kept = before if before.videos.used else shard
        return dataclasses.replace(kept, videos=before.videos + shard.videos)
    lengths = [int(dict(one.source)["frames"]) for one in (before, shard)]
    if lengths[0] != lengths[1]:
        raise _other_length(protocol, *lengths)
    return before.merge(shard)


def _finished(
    statistics: FeatureStatistics, protocol: Protocol, side: Side, found: int
) -> FeatureStatistics:
    videos = statistics.videos
    if videos.used < (protocol.clips or 1):
        reasons = [
            f"{len(names)} {what} (such as {names[0]})"
            for what, names in (
                (f"shorter than {protocol.shortest(side)} frames", videos.too_short),
                ("unreadable", [": ".join(pair) for pair in videos.unreadable]),
            )
            if names
        ]
        raise ValueError(
            f"protocol {protocol.name!r} needs {protocol.clips or 'one or more'} clips, but only "
            f"{videos.used} of {found} videos gave one" + "".join(f"; {one}" for one in reasons)
        )
    return dataclasses.replace(statistics, videos=dataclasses.replace(videos, found=found))


def _statistics(
    job: Job, shard: range, limits: Mapping[Protocol, int], calculators: Sequence[Calculator]
) -> dict[Protocol, FeatureStatistics]:
    """Statistics of a shard: at most so many of its clips per protocol, loaded or computed."""
    of_protocols = {
        protocol: calculator.under([protocol])
        for calculator in calculators
        for protocol in calculator.protocols
        if protocol in limits
    }
    paths: dict[Protocol, Path] = {}
    if job.folder:
        videos = fingerprint(job.videos[shard.start : shard.stop])
        for protocol, alone in of_protocols.items():
            made = [shard.start, job.keys[shard].tolist(), limits[protocol], job.along]
            name = job_hash(videos, alone, job.side, made)
            paths[protocol] = job.folder / f"{name}.safetensors"
    found = {
        protocol: statistics
        for protocol, path in paths.items()
        if (statistics := _load(path, of_protocols[protocol])) is not None
    }
    missing = {p: limit for p, limit in limits.items() if p not in found}
    if missing:
        new = _computed(job, shard, missing, calculators)
        for protocol, statistics in new.items():
            if job.folder:
                _save(paths[protocol], statistics)
        found |= new
    else:
        job.on_progress(shard.stop)
    if job.strict:
        for statistics in found.values():
            for name, error in statistics.videos.unreadable:
                raise ValueError(f"{name}: {error}")
    return found


def job_hash(videos: str, calculator: Calculator, side: Side, made: Any) -> str:
    """Hash of everything that a result depends on.

    Args:
        videos: Fingerprint of the videos, see `videos.sources.fingerprint`.
        calculator: Calculator of one protocol.
        side: Whether videos are sampled as "real" or as "fake" ones.
        made: What is made of the videos, as values for JSON.
    """
    (protocol,) = calculator.protocols
    (nothing,) = calculator.nothing()
    depends_on = {
        "schema": SCHEMA,
        "made": made,
        "videos": videos,
        "side": side,
        # Statistics do not depend on the distance that compares them, but for the sample's size.
        "protocol": dataclasses.asdict(protocol)
        | {"name": protocol.marks()["protocol"], "distance": ""},
        "sample": _sample_size(protocol),
        "source": nothing.source,
    }
    return hashlib.sha256(json.dumps(depends_on).encode()).hexdigest()


def _sample_size(protocol: Protocol) -> int:
    return max(SAMPLE_SIZE, DISTANCES[protocol.distance].size)


def _save(path: Path, statistics: FeatureStatistics) -> None:
    try:
        statistics.save(path)
    except OSError as error:
        warn(f"continuing without saving statistics: {error}")


def _load(path: Path, calculator: Calculator) -> FeatureStatistics | None:
    """Loads the statistics of a shard; None if there are none, with a warning if damaged."""
    try:
        found = FeatureStatistics.load(path)
        if not set(calculator.nothing()[0].source) <= set(found.source):
            raise ValueError("holds statistics of something else")
    except OSError:
        return None
    except ValueError as error:
        warn(f"{error}; computing its content again")
        return None
    with contextlib.suppress(OSError):
        os.utime(path)  # the cache drops the files that were used least recently
    return dataclasses.replace(found, videos=dataclasses.replace(found.videos, cached=True))


def _computed(
    job: Job, shard: range, limits: Mapping[Protocol, int], calculators: Sequence[Calculator]
) -> dict[Protocol, FeatureStatistics]:
    # All protocols of a calculator take the same clips, and one program computes them, whose bits
    # must not depend on which of them are missing.
    missing = [
        (calculator, limit)
        for calculator in calculators
        if (limit := max(limits.get(protocol, 0) for protocol in calculator.protocols))
    ]
    made = [_Made(calculator, limit, VideoCounts()) for calculator, limit in missing]
    loaded = load_clips(
        job.videos,
        [calculator.protocols[0] for calculator, _ in missing],
        job.side,
        numbers=shard,
    )
    numbers = iter(shard)
    with contextlib.closing(loaded):
        while chunk := list(itertools.islice(loaded, _CHUNK)):
            numbered = [(next(numbers), one) for one in chunk]
            made = [one.after(numbered, i, job) for i, one in enumerate(made)]
            job.on_progress(numbered[-1][0] + 1)
            if all(one.videos.used == one.limit for one in made):
                break
    return {
        protocol: statistics
        for one in made
        for protocol, statistics in zip(one.calculator.protocols, one.statistics(job), strict=True)
        if protocol in limits
    }


@dataclasses.dataclass(frozen=True)
class _Made:
    """What is made of a shard for one calculator so far.

    Attributes:
        calculator: The calculator.
        limit: Largest number of clips.
        videos: What became of the videos.
        states: Statistics of the clips; None before the first clip.
        frames: Number of frames per clip; None before the first clip.
        seen: Smallest and largest value of the clips.
    """

    calculator: Calculator
    limit: int
    videos: VideoCounts
    states: States | None = None
    frames: int | None = None
    seen: tuple[float, float] = (np.inf, -np.inf)

    def after(self, chunk: Sequence[tuple[int, Loaded]], i: int, job: Job) -> "_Made":
        """Adds the clips of some videos, number `i` of each, with the numbers of the videos."""
        if self.videos.used == self.limit:
            return self
        usable = [(n, clip) for n, one in chunk if (clip := one.clips[i]) is not None]
        usable = usable[: self.limit - self.videos.used]
        reached = len(usable) + self.videos.used == self.limit
        last = usable[-1][0] if reached and usable else chunk[-1][0]
        taken = [one for n, one in chunk if n <= last]  # as if no video after the last was read
        counts = VideoCounts(
            found=len(taken),
            used=len(usable),
            too_short=tuple(
                one.video.name for one in taken if one.clips[i] is None and one.error is None
            ),
            unreadable=tuple((one.video.name, one.error) for one in taken if one.error is not None),
        )
        found = dataclasses.replace(self, videos=self.videos + counts)
        if not usable:
            return found
        protocol = self.calculator.protocols[0]
        frames = self.frames or len(usable[0][1])
        for _, clip in usable:
            if len(clip) != frames:
                raise _other_length(protocol, frames, len(clip))
        self.calculator.check_length(frames, f"protocol {protocol.name!r}")
        numbers, clips = zip(*usable, strict=True)
        states = self.states or self._nothing(frames, job)
        before = states
        states = _folded(self.calculator, states, clips, job.keys[list(numbers)], job.along)
        jax.block_until_ready(before)  # at most one chunk is in flight
        return dataclasses.replace(
            found, states=states, frames=frames, seen=_range(clips, self.seen)
        )

    def _nothing(self, frames: int | None, job: Job) -> States:
        return tuple(
            mark(
                of_nothing(
                    output.dim,
                    output.gaussian is not None,
                    _sample_size(protocol) if frames else 0,
                    output.places(frames) if frames and (job.along or output.per_frame) else 1,
                ),
                **dict(empty.source),
                side=job.side,
            )
            for protocol, output, empty in zip(
                self.calculator.protocols,
                self.calculator.outputs,
                self.calculator.nothing(frames),
                strict=True,
            )
        )

    def statistics(self, job: Job) -> States:
        """The statistics of the shard."""
        seen = jnp.asarray(self.seen, jnp.float32) if self.states else unseen()
        states = self.states or self._nothing(None, job)
        return tuple(dataclasses.replace(s, value_range=seen, videos=self.videos) for s in states)


def _other_length(protocol: Protocol, frames: int, other: int) -> ValueError:
    return ValueError(
        f"videos: got videos of {frames} and of {other} frames: {protocol.name!r} takes whole "
        "videos, which must have one length; choose a number of frames (--frames)"
    )


def _range(clips: Sequence[Clip], before: tuple[float, float]) -> tuple[float, float]:
    """The smallest and the largest value of clips, in the unit of floats in [0, 1]."""
    divisors = [np.float32(255 if clip.dtype == np.uint8 else 1) for clip in clips]
    low = [np.float32(clip.min()) / d for clip, d in zip(clips, divisors, strict=True)]
    high = [np.float32(clip.max()) / d for clip, d in zip(clips, divisors, strict=True)]
    return float(np.min([before[0], *low])), float(np.max([before[1], *high]))


def _folded(
    calculator: Calculator,
    states: States,
    clips: Sequence[Clip],
    keys: UInt32[np.ndarray, "n 2"],
    along: bool,
) -> States:
    """Adds clips of one length to statistics."""
    used = [clip if along else used_frames(clip[None], calculator.outputs)[0] for clip in clips]
    size = max(1, calculator.network.architecture.frames_at_once() // len(used[0]))
    encode = moments_along if along else moments
    batches = (
        Batch(prepared(calculator, clip[None]), None, key[None])
        for clip, key in zip(used, keys, strict=True)
    )
    extract = Extract(encode, calculator.network, calculator.protocols)
    return stream(states, extract, batches, size, most=-(-_CHUNK // size))


def prepared(
    calculator: Calculator, clips: Shaped[AnyArray, "n t h w c"]
) -> Float[Array, "n t size size channels"]:
    """Prepares clips for the network of a calculator, see `resizing.prepare`."""
    architecture = calculator.network.architecture
    rule = calculator.protocols[0].resize
    return _prepare(clips, rule, architecture.size, architecture.channels)


_prepare = jax.jit(prepare, static_argnames=("rule", "size", "channels"))


def moments_of_clips(calculator: Calculator, clips: Sequence[Clip]) -> Moments:
    """Moments of clips of one length, in their order, for the one protocol of a calculator."""
    (output,) = calculator.outputs
    vectors = output.places(len(clips[0])) if output.per_frame else 1
    places = np.arange(len(clips), dtype=np.uint32)
    keys = np.stack([np.zeros_like(places), places], axis=1)
    states = (of_nothing(output.dim, output.gaussian is not None, len(clips), vectors),)
    (made,) = _folded(calculator, states, clips, keys, along=False)
    assert made.sample is not None
    return made.sample.moments()


def load_calculators(
    protocols: Iterable[Protocol],
    weights: str | os.PathLike[str] | None = None,
    precision: Precision = "float32",
) -> list[Calculator]:
    """Loads one calculator for all protocols that prepare the same clips for the same network.

    Args:
        protocols: Protocols in any order.
        weights: File of the weights, if all protocols have the same network; by default the weights
            are looked up, see `load_network`.
        precision: Precision of the convolutions, see `load_network`.

    Raises:
        FileNotFoundError: If no weights are found.
        ValueError: If clips of a protocol are too short for its network, or `weights` are given for
            several networks.
    """
    groups: dict[Protocol, list[Protocol]] = {}
    for protocol in dict.fromkeys(protocols):
        same = dataclasses.replace(protocol, name="", output="", distance="", ddof=0)
        groups.setdefault(same, []).append(protocol)
    networks = sorted({protocol.network for protocol in groups})
    if weights is not None and len(networks) > 1:
        raise ValueError(f"weights: got one file for the networks {', '.join(networks)}")
    load = functools.partial(Calculator, weights=weights, precision=precision)
    calculators = [load(group[0]).under(group) for group in groups.values()]
    for calculator in calculators:
        first = calculator.protocols[0]
        if first.frames is not None:
            calculator.check_length(first.frames, f"protocol {first.name!r}")
    return calculators
