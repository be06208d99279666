"""Makes statistics of stored videos, under one or several protocols in one pass.

After each round of videos, their features are folded into the statistics, and the progress can be
saved. An interrupted pass that resumes from saved progress does the same operations in the same
order as an unbroken one.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Array, Bool, Float, Shaped, UInt32

from srvp_fd_jax.calculator import Calculator, moments, moments_along
from srvp_fd_jax.devices import AnyArray
from srvp_fd_jax.distances.sample import FeatureSample, name_keys
from srvp_fd_jax.distances.states import mark
from srvp_fd_jax.encoding import (
    BLOCK_BYTES,
    Extract,
    States,
    encode_block,
    range_of_arrays,
    update,
    used_frames,
)
from srvp_fd_jax.files import CHECKSUM, read_safetensors, write_safetensors
from srvp_fd_jax.inputs import range_caution, warn
from srvp_fd_jax.networks.base import Moments
from srvp_fd_jax.protocols import Protocol, Side
from srvp_fd_jax.resizing import prepare
from srvp_fd_jax.videos.rounds import VIDEOS_A_ROUND, Clips, Progress, Taken, rounds
from srvp_fd_jax.videos.sources import Video, clip_names, fingerprint

SCHEMA = 1
"""Number in the keys of cached statistics; raise it when the same videos give others than before.

Such a change may lie in what is found in a folder, in reading, sampling, resizing, in a network, or
in what is saved. The release would not do: it stays while the code changes.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Statistics of the videos of one side under one protocol.

    Attributes:
        protocol: Protocol by which the videos were sampled and encoded.
        statistics: State of the distance, marked with protocol, network, weights and side.
        sample: Random sample of the clips with their features; None if none was asked for.
        found: Number of videos.
        used: Number of videos that gave a clip, over all processes.
        too_short: Names of this process's videos that were too short.
        unreadable: Names of this process's videos that could not be read, each with the reason.
        cached: Whether the statistics were loaded from a cache.
        name: Path of the videos; empty if they are not at one path.
    """

    protocol: Protocol
    statistics: Any
    sample: FeatureSample | None
    found: int
    used: int
    too_short: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    cached: bool = False
    name: str = ""

    def described(self) -> str:
        """Describes the side in one line."""
        lost = {"too short": self.too_short, "unreadable": self.unreadable}
        told = "".join(f", {len(names)} {what}" for what, names in lost.items() if names)
        where = f"{self.name}: " if self.name else ""
        samples = int(self.statistics.count)
        return f"{where}{self.used} of {self.found} videos{told}, {samples} samples"

    def summary(self) -> dict[str, Any]:
        """Describes the side by values for JSON."""
        return {
            "path": self.name,
            "protocol": dataclasses.asdict(self.protocol),
            "samples": int(self.statistics.count),
            "found": self.found,
            "used": self.used,
            "too_short": self.too_short,
            "unreadable": dict(self.unreadable),
            "cached": self.cached,
        }


def load_calculators(
    protocols: Iterable[Protocol], weights: str | os.PathLike[str] | None = None
) -> list[Calculator]:
    """Loads one calculator for all protocols that prepare the same clips for the same network.

    Args:
        protocols: Protocols in any order.
        weights: File of the weights, if all protocols have the same network; by default the weights
            are looked up, see `load_network`.

    Raises:
        FileNotFoundError: If no weights are found.
        ValueError: If clips of a protocol are too short for its network, or `weights` are given for
            several networks.
    """
    groups: dict[Protocol, list[Protocol]] = {}
    for protocol in protocols:
        same = dataclasses.replace(protocol, name="", output="", distance="", ddof=0)
        groups.setdefault(same, []).append(protocol)
    networks = sorted({protocol.network for protocol in groups})
    if weights is not None and len(networks) > 1:
        raise ValueError(f"weights: got one file for the networks {', '.join(networks)}")
    calculators = [Calculator(g[0], weights=weights).under(g) for g in groups.values()]
    for calculator in calculators:
        first = calculator.protocols[0]
        if first.frames is not None:
            calculator.check_length(first.frames, f"protocol {first.name!r}")
    return calculators


def prepared(
    calculator: Calculator, clips: Shaped[AnyArray, "n t h w c"]
) -> Float[Array, "n t size size channels"]:
    """Prepares clips for the network of a calculator, see `resizing.prepare`."""
    architecture = calculator.network.architecture
    rule = calculator.protocols[0].resize
    return _prepare(clips, rule, architecture.size, architecture.channels)


def _encode(
    calculator: Calculator, clips: Sequence[Shaped[np.ndarray, "t h w c"]], along: bool
) -> Iterator[tuple[slice, tuple[Moments, ...], Bool[np.ndarray, " size"]]]:
    """Encodes clips in blocks of one size, each of which takes one call.

    Yields:
        Place of a block among the clips, its moments, and which of them are not padding.
    """
    architecture = calculator.network.architecture
    outputs = calculator.outputs
    used = [np.asarray(clip if along else used_frames(clip[None], outputs)[0]) for clip in clips]
    frames = len(used[0])
    clip_bytes = 4 * frames * architecture.size**2 * architecture.channels
    at_once = _power_of_two(architecture.frames_at_once() / frames)
    size = max(at_once, _power_of_two(BLOCK_BYTES / clip_bytes))
    encode = moments_along if along else moments
    extract = Extract(encode, calculator.network, calculator.protocols)
    first = 0
    for (shape, dtype), group in itertools.groupby(used, lambda clip: (clip.shape, clip.dtype)):
        of_shape = list(group)
        for start in range(0, len(of_shape), size):
            of_block = of_shape[start : start + size]
            block = np.zeros((size, *shape), dtype)
            block[: len(of_block)] = of_block
            count = jax.device_put(np.int32(len(of_block)))
            made = encode_block(extract, prepared(calculator, block), count, at_once)
            place = slice(first, first + len(of_block))
            yield place, made, np.arange(size) < len(of_block)
            first = place.stop


def encode_clips(
    calculator: Calculator, clips: Sequence[Shaped[np.ndarray, "t h w c"]]
) -> tuple[Moments, ...]:
    """Encodes clips as a pass over videos does; returns the moments of each protocol's output."""
    blocks = [
        jax.tree.map(lambda f: np.asarray(f)[counting], encoded)  # noqa: B023 (used at once)
        for _, encoded, counting in _encode(calculator, clips, along=False)
    ]
    return jax.tree.map(lambda *f: jnp.asarray(np.concatenate(f)), *blocks)


def _power_of_two(n: float) -> int:
    """The power of two nearest to `n` from 1 to `VIDEOS_A_ROUND`."""
    return 1 << round(math.log2(min(max(n, 1), VIDEOS_A_ROUND)))


_prepare = jax.jit(prepare, static_argnames=("rule", "size", "channels"))


def evaluate(
    videos: Sequence[Video],
    calculators: Sequence[Calculator],
    side: Side,
    *,
    strict: bool = False,
    save_to: Path | None = None,
    sample: int | None = None,
    along: bool = False,
    paired: bool = False,
    on_progress: Callable[[int], None] = lambda position: None,
) -> list[Evaluated]:
    """Makes the statistics of videos, and a random sample of their clips.

    Args:
        videos: All videos, the same on every process.
        calculators: Calculators with the protocols, from `load_calculators`.
        side: Whether videos are sampled as "real" or as "fake" ones.
        strict: Whether a video that cannot be read raises an error.
        save_to: Path of a file in which progress is saved from time to time, and from which an
            interrupted pass with the same videos, calculators and schema resumes. Only for a
            single process.
        sample: Number of clips that are kept with their features; None to keep none.
        along: Whether the sample has features at all places along the clips, see
            `Architecture.windows`, instead of those that the statistics are made of.
        paired: Whether clips are named by the indices of their videos, see `sources.clip_names`.
        on_progress: Called after each round with the number of videos that are done.

    Returns:
        One `Evaluated` per protocol, in the order of the calculators.

    Raises:
        ValueError: If fewer videos give a clip than a protocol needs (at least one), if a protocol
            takes whole videos and their lengths differ, or if a video cannot be read and `strict`
            is set.
    """
    sampling = _Sampling(sample, along, paired)
    job = job_hash(fingerprint(videos), calculators, side, sampling) if save_to else ""
    save = (save_to, job) if save_to else None
    state = _run(videos, calculators, side, strict, sampling, save, on_progress)
    return _results(videos, calculators, side, state)


def evaluate_cached(
    videos: Sequence[Video],
    calculators: Sequence[Calculator],
    side: Side,
    *,
    folder: Path,
    strict: bool = False,
    sample: int | None = None,
    paired: bool = False,
    on_progress: Callable[[int], None] = lambda position: None,
) -> list[Evaluated]:
    """Makes the statistics of videos, or loads those that are kept in `folder`.

    Statistics are kept under a hash of the videos (see `videos.sources.fingerprint`), the side, the
    protocol, the weights and the schema. An interrupted pass resumes from progress that is saved
    in the same folder. Only for a single process. See `evaluate` for the other arguments, the order
    and the errors.
    """
    alone = {p: calculator.under([p]) for calculator in calculators for p in calculator.protocols}
    of_videos, sampling = fingerprint(videos), _Sampling(sample, False, paired)
    paths = {
        protocol: folder / f"{job_hash(of_videos, [calculator], side, sampling)}.safetensors"
        for protocol, calculator in alone.items()
    }
    kept: dict[Protocol, _State] = {}
    for protocol, path in paths.items():
        if state := _load(path, path.stem, [alone[protocol]], sampling):
            kept[protocol] = state
            if strict:
                _check_readable(state)
    cached = set(kept)
    missing = [c.under([p for p in c.protocols if p not in cached]) for c in calculators]
    missing = [calculator for calculator in missing if calculator.protocols]
    if missing:
        job = job_hash(of_videos, missing, side, sampling)
        partial = folder / f"{job}.partial"
        save = partial, job
        state = _run(videos, missing, side, strict, sampling, save, on_progress)
        for protocol, own in _split(state, missing).items():
            kept[protocol] = own
            _keep(paths[protocol], paths[protocol].stem, own)
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return [
        dataclasses.replace(result, cached=protocol in cached)
        for protocol, calculator in alone.items()
        for result in _results(videos, [calculator], side, kept[protocol])
    ]


class _Sampling(NamedTuple):
    """How clips are sampled: see `evaluate` for `size`, `along` and `paired`."""

    size: int | None
    along: bool
    paired: bool

    def nothing(self, calculator: Calculator, frames: int | None) -> "_Samples":
        """Samples of no clips with this number of frames, which must be known for any sample."""
        if self.size is None or frames is None:
            return (None,) * len(calculator.protocols)
        size = self.size
        return tuple(
            FeatureSample.empty(
                size,
                output.dim,
                vectors=output.places(frames) if self.along or output.per_frame else 1,
                mixture=output.gaussian is not None,
                source=empty.source,
            )
            for output, empty in zip(calculator.outputs, calculator.nothing(), strict=True)
        )


_Samples = tuple[FeatureSample | None, ...]


class _Made(NamedTuple):
    """What is made of the clips of one calculator, one element per protocol.

    There are no samples before the number of frames per clip is known.
    """

    statistics: States
    samples: _Samples


class _State(NamedTuple):
    """Progress of a pass, and what was made so far, per calculator."""

    progress: Progress
    made: tuple[_Made, ...]

    @classmethod
    def at(
        cls, progress: Progress, calculators: Sequence[Calculator], sampling: _Sampling
    ) -> "_State":
        """A state of this progress without any clips."""
        made = (
            _Made(calculator.nothing(), sampling.nothing(calculator, taken.frames))
            for calculator, taken in zip(calculators, progress.taken, strict=True)
        )
        return cls(progress, tuple(made))


def _run(
    videos: Sequence[Video],
    calculators: Sequence[Calculator],
    side: Side,
    strict: bool,
    sampling: _Sampling,
    save: tuple[Path, str] | None,
    on_progress: Callable[[int], None],
) -> _State:
    """Reads and encodes videos; `save` is the path for the progress and the hash of the job."""
    protocols = [calculator.protocols[0] for calculator in calculators]
    state = _load(*save, calculators, sampling) if save else None
    state = state or _State.at(Progress.start(protocols), calculators, sampling)
    if strict:
        _check_readable(state)
    own_keys = zip(videos, name_keys(clip_names(videos, side, sampling.paired)), strict=True)
    keys = {video.name: key for video, key in own_keys}
    at, cost, range_told = time.monotonic(), 0.0, False
    for progress, clips in rounds(videos, protocols, side, progress=state.progress, strict=strict):
        for calculator, taken in zip(calculators, progress.taken, strict=True):
            if taken.frames is not None:
                name = f"protocol {calculator.protocols[0].name!r}"
                calculator.check_length(taken.frames, name)
        for _, clip in itertools.chain(*clips):
            if clip.dtype != np.uint8 and not range_told:  # once in a pass, not for every video
                if caution := range_caution(float(clip.min()), float(clip.max())):
                    warn(f"{side}: {caution}")
                range_told = caution is not None
        before = state.made
        made = (
            _with_clips(calculator, own, of_clips, keys, sampling, taken.frames)
            for calculator, own, of_clips, taken in zip(
                calculators, before, clips, progress.taken, strict=True
            )
        )
        state = _State(progress, tuple(made))
        jax.block_until_ready(before)  # at most one round is in flight
        on_progress(progress.position)
        # Saving waits for the device, so it may take at most a twentieth of the time.
        if save and time.monotonic() - at > 20 * cost:
            begun = time.monotonic()
            save = save if _keep(*save, state) else None
            at = time.monotonic()
            cost = at - begun
    return state


def _with_clips(
    calculator: Calculator,
    made: _Made,
    clips: Clips,
    keys: Mapping[str, UInt32[np.ndarray, "2"]],
    sampling: _Sampling,
    frames: int | None,
) -> _Made:
    """Adds clips of a number of frames, if that is known, to what was made for a calculator."""
    states, samples = made
    if samples[0] is None:
        samples = sampling.nothing(calculator, frames)
    if not clips:
        return _Made(states, samples)
    names, arrays = zip(*clips, strict=True)
    outputs = calculator.outputs
    for place, encoded, counting in _encode(calculator, arrays, sampling.along):
        padded = np.zeros((len(counting), 2), np.uint32)
        padded[counting] = [keys[name] for name in names[place]]
        samples = tuple(
            sample and sample.offer(moments, padded, counting)
            for sample, moments in zip(samples, encoded, strict=True)
        )
        if sampling.along:
            encoded = tuple(o.of_clip(m) for o, m in zip(outputs, encoded, strict=True))
        seen = jax.device_put(range_of_arrays(arrays[place]))
        states = update(states, encoded, counting, seen=seen)
    return _Made(states, samples)


def _results(
    videos: Sequence[Video], calculators: Sequence[Calculator], side: Side, state: _State
) -> list[Evaluated]:
    results = []
    unreadable = state.progress.unreadable
    for calculator, taken, own in zip(calculators, state.progress.taken, state.made, strict=True):
        _check_enough(calculator.protocols[0], taken, side, len(videos), unreadable)
        for protocol, statistics, sample in zip(calculator.protocols, *own, strict=True):
            results.append(
                Evaluated(
                    protocol=protocol,
                    statistics=_whole(statistics, frames=taken.frames, side=side),
                    sample=sample and _whole(sample, frames=taken.frames, side=side),
                    found=len(videos),
                    used=taken.used,
                    too_short=taken.too_short,
                    unreadable=unreadable,
                )
            )
    return results


def _whole(made: Any, **marks: object) -> Any:
    """Statistics or a sample of the clips of all processes, with further marks."""
    if jax.process_count() > 1:
        made = multihost_utils.process_allgather(made).reduce()
    return mark(made, **marks)


def _check_enough(
    protocol: Protocol,
    taken: Taken,
    side: Side,
    found: int,
    unreadable: Sequence[tuple[str, str]],
) -> None:
    if taken.used >= (protocol.clips or 1):
        return
    reasons = [
        f"{len(names)} {what} (such as {names[0]})"
        for what, names in (
            (f"shorter than {protocol.shortest(side)} frames", taken.too_short),
            ("unreadable", [": ".join(pair) for pair in unreadable]),
        )
        if names
    ]
    raise ValueError(
        f"protocol {protocol.name!r} needs {protocol.clips or 'one or more'} clips, but only "
        f"{taken.used} of {found} videos gave one" + "".join(f"; {reason}" for reason in reasons)
    )


def _check_readable(state: _State) -> None:
    for name, error in state.progress.unreadable:
        raise ValueError(f"{name}: {error}")


def job_hash(of_videos: str, calculators: Sequence[Calculator], side: Side, made: Any) -> str:
    """Hash of everything that a result depends on.

    Args:
        of_videos: Fingerprint of the videos, see `videos.sources.fingerprint`.
        calculators: Calculators with the protocols.
        side: Whether videos are sampled as "real" or as "fake" ones.
        made: What is made of the videos besides the states of their distances, as values for JSON.
    """
    protocols = [p for c in calculators for p in c.protocols]
    made_by = {
        "made": made,
        "schema": SCHEMA,
        "states": [
            [type(empty).__name__, *([*x.shape] for x in jax.tree.leaves(empty))]
            for c in calculators
            for empty in c.nothing()
        ],
        "videos": of_videos,
        "side": side,
        # Distances with the same type of state share it.
        "protocols": [
            {**dataclasses.asdict(p), "name": p.marks()["protocol"], "distance": ""}
            for p in protocols
        ],
        "sources": [empty.source for c in calculators for empty in c.nothing()],
    }
    return hashlib.sha256(json.dumps(made_by).encode()).hexdigest()


def _split(state: _State, calculators: Sequence[Calculator]) -> dict[Protocol, _State]:
    return {
        protocol: _State(
            dataclasses.replace(state.progress, taken=(taken,)), (_Made((statistics,), (sample,)),)
        )
        for calculator, taken, own in zip(
            calculators, state.progress.taken, state.made, strict=True
        )
        for protocol, statistics, sample in zip(calculator.protocols, *own, strict=True)
    }


def _keep(path: Path, job: str, state: _State) -> bool:
    """Saves a state; returns False after a warning if that fails."""
    try:
        _save(path, job, state)
    except OSError as error:
        warn(f"continuing without saving statistics: {error}")
        return False
    return True


def _save(path: Path, job: str, state: _State) -> None:
    leaves = jax.tree.leaves(state.made)
    arrays = {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
    metadata = {"job": job, "progress": json.dumps(dataclasses.asdict(state.progress))}
    write_safetensors(path, arrays, metadata)


def _load(
    path: Path, job: str, calculators: Sequence[Calculator], sampling: _Sampling
) -> _State | None:
    """Loads the saved state of a job; None if there is none, with a warning if it is damaged."""

    def check_metadata(metadata: Mapping[str, str]) -> None:
        if CHECKSUM not in metadata:
            raise ValueError("not a file of saved progress")

    try:
        metadata, arrays = read_safetensors(path, check_metadata)
        with contextlib.suppress(OSError):
            os.utime(path)  # the cache drops the files that were used least recently
    except OSError:
        return None
    except ValueError as error:
        warn(f"{path}: {error}; computing its content again")
        return None
    if metadata.get("job") != job:
        return None
    saved = json.loads(metadata["progress"])
    progress = Progress(
        taken=tuple(
            Taken(taken["used"], taken["frames"], tuple(taken["too_short"]))
            for taken in saved["taken"]
        ),
        position=saved["position"],
        unreadable=tuple((name, error) for name, error in saved["unreadable"]),
    )
    leaves = [jnp.asarray(arrays[str(i)]) for i in range(len(arrays))]
    structure = jax.tree.structure(_State.at(progress, calculators, sampling).made)
    return _State(progress, jax.tree.unflatten(structure, leaves))
