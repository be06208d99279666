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
from jaxtyping import Array, Bool, Float, Shaped

import srvp_fd_jax
from srvp_fd_jax.calculator import Calculator, moments
from srvp_fd_jax.devices import AnyArray
from srvp_fd_jax.distances.states import mark
from srvp_fd_jax.encoding import (
    BLOCK_BYTES,
    Extract,
    States,
    encode_block,
    update,
    used_frames,
)
from srvp_fd_jax.files import CHECKSUM, read_safetensors, write_safetensors
from srvp_fd_jax.inputs import range_caution, warn
from srvp_fd_jax.networks.base import Moments
from srvp_fd_jax.protocols import Protocol, Side
from srvp_fd_jax.resizing import prepare
from srvp_fd_jax.videos.rounds import VIDEOS_A_ROUND, Clips, Progress, Taken, rounds
from srvp_fd_jax.videos.sources import Video, fingerprint


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Statistics of the videos of one side under one protocol.

    Attributes:
        protocol: Protocol by which the videos were sampled and encoded.
        statistics: State of the distance, marked with protocol, network, weights and side.
        found: Number of videos.
        used: Number of videos that gave a clip, over all processes.
        too_short: Names of this process's videos that were too short.
        unreadable: Names of this process's videos that could not be read, each with the reason.
        cached: Whether the statistics were loaded from a cache.
        name: Path of the videos; empty if they are not at one path.
    """

    protocol: Protocol
    statistics: Any
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
    calculator: Calculator, clips: Clips
) -> Iterator[tuple[Clips, tuple[Moments, ...], Bool[np.ndarray, " size"]]]:
    """Encodes clips in blocks of one size, each of which takes one call.

    Yields:
        Clips of a block, their moments, and which samples of the moments are not padding.
    """
    architecture = calculator.network.architecture
    outputs = [architecture.outputs[protocol.output] for protocol in calculator.protocols]
    used = [used_frames(clip[None], outputs)[0] for clip in clips]
    frames = len(used[0])
    clip_bytes = 4 * frames * architecture.size**2 * architecture.channels
    at_once = _power_of_two(architecture.frames_at_once() / frames)
    size = max(at_once, _power_of_two(BLOCK_BYTES / clip_bytes))
    extract = Extract(moments, calculator.network, calculator.protocols)
    first = 0
    for (shape, dtype), group in itertools.groupby(used, lambda clip: (clip.shape, clip.dtype)):
        of_shape = list(group)
        for start in range(0, len(of_shape), size):
            of_block = of_shape[start : start + size]
            block = np.zeros((size, *shape), dtype)
            block[: len(of_block)] = of_block
            count = jax.device_put(np.int32(len(of_block)))
            made = encode_block(extract, prepared(calculator, block), count, at_once)
            yield clips[first : first + len(of_block)], made, np.arange(size) < len(of_block)
            first += len(of_block)


def _power_of_two(n: float) -> int:
    """The power of two nearest to `n` from 1 to `VIDEOS_A_ROUND`."""
    return 1 << round(math.log2(min(max(n, 1), VIDEOS_A_ROUND)))


_prepare = jax.jit(prepare, static_argnames=("rule", "size", "channels"))


def evaluate(
    videos: Sequence[Video],
    calculators: Sequence[Calculator],
    side: Side,
    *,
    workers: int = 0,
    strict: bool = False,
    save_to: Path | None = None,
    on_progress: Callable[[int], None] = lambda position: None,
) -> list[Evaluated]:
    """Makes the statistics of videos.

    Args:
        videos: All videos, the same on every process.
        calculators: Calculators with the protocols, from `load_calculators`.
        side: Whether videos are sampled as "real" or as "fake" ones.
        workers: Number of processes that read videos; 0 to read in threads of this process.
        strict: Whether a video that cannot be read raises an error.
        save_to: Path of a file in which progress is saved from time to time, and from which an
            interrupted pass with the same videos, calculators and release resumes. Only for a
            single process.
        on_progress: Called after each round with the number of videos that are done.

    Returns:
        One `Evaluated` per protocol, in the order of the calculators.

    Raises:
        ValueError: If fewer videos give a clip than a protocol needs (at least one), if a protocol
            takes whole videos and their lengths differ, or if a video cannot be read and `strict`
            is set.
    """
    save = (save_to, _job(fingerprint(videos), calculators, side)) if save_to else None
    state = _run(videos, calculators, side, workers, strict, save, on_progress)
    return _results(videos, calculators, side, state)


class Collected(NamedTuple):
    """Statistics of the videos of one side, with their features.

    Attributes:
        result: Result of `evaluate`.
        features: Moments of all clips [clips, samples, d]: "features", and "variances" of a
            Gaussian mixture.
        shown: The first clips as they are prepared for the network.
    """

    result: Evaluated
    features: dict[str, Float[np.ndarray, "clips samples d"]]
    shown: list[Float[np.ndarray, "_ size size c"]]


def collect(
    videos: Sequence[Video],
    calculators: Sequence[Calculator],
    side: Side,
    *,
    shown: int,
    workers: int = 0,
    strict: bool = False,
    on_progress: Callable[[int], None] = lambda position: None,
) -> list[Collected]:
    """Makes the statistics of videos and keeps their features and the first `shown` clips.

    Only for a single process. See `evaluate` for the other arguments, the order and the errors.
    """
    first: list[Clips] = [[] for _ in calculators]
    kept: list[list[tuple[Moments, ...]]] = [[] for _ in calculators]

    def keep(i: int, clips: Clips, moments: tuple[Moments, ...]) -> None:
        first[i] += clips[: shown - len(first[i])]
        kept[i].append(jax.tree.map(lambda f: f[: len(clips)], moments))

    state = _run(videos, calculators, side, workers, strict, None, on_progress, keep)
    results = iter(_results(videos, calculators, side, state))
    collected = []
    for calculator, clips, rounds_kept in zip(calculators, first, kept, strict=True):
        first_clips = [np.asarray(prepared(calculator, clip[None])[0]) for clip in clips]
        together = jax.tree.map(lambda *f: np.concatenate(f), *rounds_kept)
        collected += [Collected(next(results), features, first_clips) for features in together]
    return collected


def evaluate_cached(
    videos: Sequence[Video],
    calculators: Sequence[Calculator],
    side: Side,
    *,
    folder: Path,
    workers: int = 0,
    strict: bool = False,
    on_progress: Callable[[int], None] = lambda position: None,
) -> list[Evaluated]:
    """Makes the statistics of videos, or loads those that are kept in `folder`.

    Statistics are kept under a hash of the videos (see `videos.sources.fingerprint`), the side, the
    protocol, the weights and the release. An interrupted pass resumes from progress that is saved
    in the same folder. Only for a single process. See `evaluate` for the other arguments, the order
    and the errors.
    """
    alone = {p: calculator.under([p]) for calculator in calculators for p in calculator.protocols}
    of_videos = fingerprint(videos)
    paths = {
        protocol: folder / f"{_job(of_videos, [calculator], side)}.safetensors"
        for protocol, calculator in alone.items()
    }
    kept: dict[Protocol, _State] = {}
    for protocol, path in paths.items():
        if state := _load(path, path.stem, [alone[protocol]]):
            kept[protocol] = state
            if strict:
                _check_readable(state)
    cached = set(kept)
    missing = [c.under([p for p in c.protocols if p not in cached]) for c in calculators]
    missing = [calculator for calculator in missing if calculator.protocols]
    if missing:
        job = _job(of_videos, missing, side)
        partial = folder / f"{job}.partial"
        state = _run(videos, missing, side, workers, strict, (partial, job), on_progress)
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


class _State(NamedTuple):
    """Progress of a pass, and one tuple of states per calculator."""

    progress: Progress
    statistics: tuple[States, ...]

    @classmethod
    def start(cls, calculators: Sequence[Calculator]) -> "_State":
        return cls(
            Progress.start([calculator.protocols[0] for calculator in calculators]),
            tuple(calculator.nothing() for calculator in calculators),
        )


def _run(
    videos: Sequence[Video],
    calculators: Sequence[Calculator],
    side: Side,
    workers: int,
    strict: bool,
    save: tuple[Path, str] | None,
    on_progress: Callable[[int], None],
    on_moments: Callable[[int, Clips, tuple[Moments, ...]], None] = lambda *_: None,
) -> _State:
    """Reads and encodes videos.

    `save` is the path for the progress and the hash of the job. `on_moments` is called with the
    index of a calculator, some of its clips and their moments, after which padding may follow.
    """
    state = (_load(*save, calculators) if save else None) or _State.start(calculators)
    if strict:
        _check_readable(state)
    at, cost, range_told = time.monotonic(), 0.0, False
    for progress, clips in rounds(
        videos,
        [calculator.protocols[0] for calculator in calculators],
        side,
        progress=state.progress,
        workers=workers,
        strict=strict,
    ):
        for calculator, taken in zip(calculators, progress.taken, strict=True):
            if taken.frames is not None:
                name = f"protocol {calculator.protocols[0].name!r}"
                calculator.check_length(taken.frames, name)
        for clip in itertools.chain(*clips):
            if clip.dtype != np.uint8 and not range_told:  # once in a pass, not for every video
                if caution := range_caution(float(clip.min()), float(clip.max())):
                    warn(f"{side}: {caution}")
                range_told = caution is not None
        statistics = list(state.statistics)
        for i, (calculator, own) in enumerate(zip(calculators, clips, strict=True)):
            for of_block, made, counting in _encode(calculator, own) if own else ():
                statistics[i] = update(statistics[i], made, counting)
                on_moments(i, of_block, made)
        jax.block_until_ready(state.statistics)  # at most one round is in flight
        state = _State(progress, tuple(statistics))
        on_progress(progress.position)
        # Saving waits for the device, so it may take at most a twentieth of the time.
        if save and time.monotonic() - at > 20 * cost:
            begun = time.monotonic()
            save = save if _keep(*save, state) else None
            at = time.monotonic()
            cost = at - begun
    return state


def _results(
    videos: Sequence[Video], calculators: Sequence[Calculator], side: Side, state: _State
) -> list[Evaluated]:
    results = []
    unreadable = state.progress.unreadable
    for calculator, taken, own in zip(
        calculators, state.progress.taken, state.statistics, strict=True
    ):
        _check_enough(calculator.protocols[0], taken, side, len(videos), unreadable)
        for protocol, statistics in zip(calculator.protocols, own, strict=True):
            if jax.process_count() > 1:
                statistics = multihost_utils.process_allgather(statistics).reduce()
            marked = mark(statistics, frames=taken.frames, side=side)
            results.append(
                Evaluated(
                    protocol=protocol,
                    statistics=marked,
                    found=len(videos),
                    used=taken.used,
                    too_short=taken.too_short,
                    unreadable=unreadable,
                )
            )
    return results


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


def _job(of_videos: str, calculators: Sequence[Calculator], side: Side) -> str:
    """Hash of everything that statistics depend on."""
    made_by = {
        "release": srvp_fd_jax.__version__,
        "states": [list(vars(empty)) for c in calculators for empty in c.nothing()],
        "videos": of_videos,
        "side": side,
        "protocols": [dataclasses.asdict(p) for c in calculators for p in c.protocols],
        "sources": [empty.source for c in calculators for empty in c.nothing()],
    }
    return hashlib.sha256(json.dumps(made_by).encode()).hexdigest()


def _split(state: _State, calculators: Sequence[Calculator]) -> dict[Protocol, _State]:
    return {
        protocol: _State(dataclasses.replace(state.progress, taken=(taken,)), ((statistics,),))
        for calculator, taken, own in zip(
            calculators, state.progress.taken, state.statistics, strict=True
        )
        for protocol, statistics in zip(calculator.protocols, own, strict=True)
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
    leaves = jax.tree.leaves(state.statistics)
    arrays = {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
    metadata = {"job": job, "progress": json.dumps(dataclasses.asdict(state.progress))}
    write_safetensors(path, arrays, metadata)


def _load(path: Path, job: str, calculators: Sequence[Calculator]) -> _State | None:
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
    structure = jax.tree.structure(tuple(calculator.nothing() for calculator in calculators))
    return _State(progress, jax.tree.unflatten(structure, leaves))
