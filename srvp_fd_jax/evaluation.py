"""From stored videos to statistics, under one protocol or several in one pass.

After each round of videos its features are folded into the statistics, and what has been reached
can be saved: an interrupted pass that goes on from there does the same operations in the same order
as an unbroken one.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jaxtyping import Float

import srvp_fd_jax
from srvp_fd_jax.encoding import Moments, Statistics, update
from srvp_fd_jax.files import CHECKSUM, read_safetensors, write_safetensors
from srvp_fd_jax.metrics import Metric
from srvp_fd_jax.statistics import FeatureStatistics, mark
from srvp_fd_jax.videos.protocols import Protocol, Side
from srvp_fd_jax.videos.rounds import VIDEOS_A_ROUND, Clips, Progress, Taken, rounds
from srvp_fd_jax.videos.sources import Video, fingerprint


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of the videos of one side under one protocol.

    Attributes:
        protocol: How they were sampled and encoded.
        statistics: Of the features, marked with what they are of.
        found: Number of videos.
        used: Number of those that gave a clip, of all processes.
        too_short: Names of those that were too short, of this process.
        unreadable: Names of those that could not be read, of this process, each with the reason.
        cached: Whether it was computed before.
    """

    protocol: Protocol
    statistics: FeatureStatistics
    found: int
    used: int
    too_short: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    cached: bool = False


def evaluate(
    videos: Sequence[Video],
    metrics: Sequence[Metric],
    side: Side,
    *,
    workers: int = 0,
    strict: bool = False,
    save_to: Path | None = None,
    on_progress: Callable[[int], None] = lambda position: None,
) -> list[Result]:
    """Makes the statistics of videos.

    Args:
        videos: Where they are; on every process all of them.
        metrics: What to make of them, see `metrics.load_metrics`.
        side: Whether they are sampled as "real" or as "fake" ones.
        workers: Processes that read videos; 0 for threads of this one.
        strict: Whether a video that cannot be read is an error.
        save_to: File that what has been reached is saved in from time to time, and that the pass
            goes on from if it is of the same videos, metrics and release. Of one process only.
        on_progress: Called after each round with the number of videos that are done.

    Returns:
        A result a protocol, in the order of the metrics.

    Raises:
        ValueError: If clips are fewer than asked for or none, or of several lengths where whole
            videos are asked for; or under `strict`.
    """
    save = (save_to, _job(fingerprint(videos), metrics, side)) if save_to else None
    state = _run(videos, metrics, side, workers, strict, save, on_progress)
    return _results(videos, metrics, side, state)


def cautions_of_sides(real: FeatureStatistics, fake: FeatureStatistics) -> list[str]:
    """What is to be said where statistics are not of the side that they are taken for.

    Args:
        real: Statistics that are taken for those of real videos.
        fake: Statistics that are taken for those of generated ones.

    Returns:
        Sentences; none of statistics that do not know their side.
    """
    texts = {
        "the real side is statistics that were sampled as generated videos (stats --fake)": (
            ("side", "fake") in real.source
        ),
        "the generated side is statistics that were sampled as real videos: those of generated "
        "ones are made by stats --fake": ("side", "real") in fake.source,
    }
    return [text for text, holds in texts.items() if holds]


class Collected(NamedTuple):
    """What came of the videos of one side, and what it is made of.

    Attributes:
        result: As `evaluate` gives it.
        features: By clip [clips, samples, d]; under "variances" those of mixtures.
        shown: The first clips as the network saw them.
    """

    result: Result
    features: dict[str, Float[np.ndarray, "clips samples d"]]
    shown: list[Float[np.ndarray, "_ size size c"]]


def collect(
    videos: Sequence[Video],
    metrics: Sequence[Metric],
    side: Side,
    *,
    shown: int,
    workers: int = 0,
    strict: bool = False,
    on_progress: Callable[[int], None] = lambda position: None,
) -> list[Collected]:
    """Makes the statistics of videos, and keeps the features that they are of.

    Args:
        videos: As for `evaluate`; of one process only.
        metrics: As for `evaluate`.
        side: As for `evaluate`.
        shown: How many clips are kept as the network saw them.
        workers: As for `evaluate`.
        strict: As for `evaluate`.
        on_progress: As for `evaluate`.

    Returns:
        As for `evaluate`, in the same order.

    Raises:
        ValueError: As for `evaluate`.
    """
    first: list[Clips] = [[] for _ in metrics]
    kept: list[list[tuple[Moments, ...]]] = [[] for _ in metrics]

    def keep(i: int, clips: Clips, moments: tuple[Moments, ...]) -> None:
        first[i] += clips[: shown - len(first[i])]
        kept[i].append(jax.tree.map(lambda f: f[: len(clips)], moments))

    state = _run(videos, metrics, side, workers, strict, None, on_progress, keep)
    results = iter(_results(videos, metrics, side, state))
    collected = []
    for metric, clips, rounds_kept in zip(metrics, first, kept, strict=True):
        prepared = [np.asarray(metric.prepare(clip[None])[0]) for clip in clips]
        together = jax.tree.map(lambda *f: np.concatenate(f), *rounds_kept)
        collected += [Collected(next(results), features, prepared) for features in together]
    return collected


def evaluate_cached(
    videos: Sequence[Video],
    metrics: Sequence[Metric],
    side: Side,
    *,
    folder: Path,
    workers: int = 0,
    strict: bool = False,
    on_progress: Callable[[int], None] = lambda position: None,
) -> list[Result]:
    """Makes the statistics of videos, or takes those that were made before.

    Args:
        videos: As for `evaluate`; of one process only.
        metrics: As for `evaluate`.
        side: As for `evaluate`.
        folder: Where results are kept under the fingerprint of the videos (see
            `videos.sources.fingerprint`), the protocols, the weights and the release. An
            interrupted pass goes on from what it saved.
        workers: As for `evaluate`.
        strict: As for `evaluate`.
        on_progress: As for `evaluate`.

    Returns:
        As for `evaluate`, each with whether it was computed before.

    Raises:
        ValueError: As for `evaluate`.
    """
    alone = {protocol: metric.of([protocol]) for metric in metrics for protocol in metric.protocols}
    of_videos = fingerprint(videos)
    paths = {
        protocol: folder / f"{_job(of_videos, [metric], side)}.safetensors"
        for protocol, metric in alone.items()
    }
    kept: dict[Protocol, _State] = {}
    for protocol, path in paths.items():
        if state := _load(path, path.stem, [alone[protocol]]):
            kept[protocol] = state
            if strict:
                _check_readable(state)
    cached = set(kept)
    missing = [metric.of(set(metric.protocols) - cached) for metric in metrics]
    missing = [metric for metric in missing if metric.protocols]
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
        for protocol, metric in alone.items()
        for result in _results(videos, [metric], side, kept[protocol])
    ]


class _State(NamedTuple):
    """How far a pass is, and the statistics so far, a tuple a metric."""

    progress: Progress
    statistics: tuple[Statistics, ...]

    @classmethod
    def start(cls, metrics: Sequence[Metric]) -> "_State":
        return cls(
            Progress.start([metric.protocols[0] for metric in metrics]),
            tuple(metric.empty for metric in metrics),
        )


def _run(
    videos: Sequence[Video],
    metrics: Sequence[Metric],
    side: Side,
    workers: int,
    strict: bool,
    save: tuple[Path, str] | None,
    on_progress: Callable[[int], None],
    on_moments: Callable[[int, Clips, tuple[Moments, ...]], None] = lambda *_: None,
) -> _State:
    """Goes through the videos.

    What is reached is saved under a path and the hash of the job; `on_moments` gets the number of
    a metric and what is of it.
    """
    state = (_load(*save, metrics) if save else None) or _State.start(metrics)
    if strict:
        _check_readable(state)
    at, cost = time.monotonic(), 0.0
    for progress, clips in rounds(
        videos,
        [metric.protocols[0] for metric in metrics],
        side,
        progress=state.progress,
        workers=workers,
        strict=strict,
    ):
        for metric, taken in zip(metrics, progress.taken, strict=True):
            metric.check_length(taken.frames)
        statistics = list(state.statistics)
        for i, (metric, own) in enumerate(zip(metrics, clips, strict=True)):
            if own:
                moments = metric.encode(own)
                statistics[i] = update(statistics[i], moments, np.arange(VIDEOS_A_ROUND) < len(own))
                on_moments(i, own, moments)
        jax.block_until_ready(state.statistics)  # one round waits on the device, never more
        state = _State(progress, tuple(statistics))
        on_progress(progress.position)
        # Saving waits for the device: done so seldom that it takes a twentieth of the time.
        if save and time.monotonic() - at > 20 * cost:
            begun = time.monotonic()
            save = save if _keep(*save, state) else None
            at = time.monotonic()
            cost = at - begun
    return state


def _results(
    videos: Sequence[Video], metrics: Sequence[Metric], side: Side, state: _State
) -> list[Result]:
    results = []
    unreadable = state.progress.unreadable
    for metric, taken, of_metric in zip(
        metrics, state.progress.taken, state.statistics, strict=True
    ):
        _check_enough(metric.protocols[0], taken, side, len(videos), unreadable)
        for protocol, statistics in zip(metric.protocols, of_metric, strict=True):
            if jax.process_count() > 1:
                statistics = multihost_utils.process_allgather(statistics).reduce()
            marked = mark(statistics, frames=taken.frames, side=side)
            result = Result(protocol, marked, len(videos), taken.used, taken.too_short, unreadable)
            results.append(result)
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
        f"protocol {protocol.name!r} takes {protocol.clips or 'any number of'} clips, got "
        f"{taken.used} of {found} videos" + "".join(f"; {reason}" for reason in reasons)
    )


def _check_readable(state: _State) -> None:
    for name, error in state.progress.unreadable:
        raise ValueError(f"{name}: {error}")


def _job(of_videos: str, metrics: Sequence[Metric], side: Side) -> str:
    """Hash of all that a result depends on."""
    made_by = {
        "release": srvp_fd_jax.__version__,
        "state": [field.name for field in dataclasses.fields(FeatureStatistics)],
        "videos": of_videos,
        "side": side,
        "protocols": [dataclasses.asdict(p) for metric in metrics for p in metric.protocols],
        "sources": [empty.source for metric in metrics for empty in metric.empty],
    }
    return hashlib.sha256(json.dumps(made_by).encode()).hexdigest()


def _split(state: _State, metrics: Sequence[Metric]) -> dict[Protocol, _State]:
    return {
        protocol: _State(dataclasses.replace(state.progress, taken=(taken,)), ((statistics,),))
        for metric, taken, of_metric in zip(
            metrics, state.progress.taken, state.statistics, strict=True
        )
        for protocol, statistics in zip(metric.protocols, of_metric, strict=True)
    }


def _keep(path: Path, job: str, state: _State) -> bool:
    """Saves what spares work later; whether that went well, else it is told and done without."""
    try:
        _save(path, job, state)
    except OSError as error:
        warnings.warn(f"going on without keeping what is computed: {error}", stacklevel=2)
        return False
    return True


def _save(path: Path, job: str, state: _State) -> None:
    leaves = jax.tree.leaves(state.statistics)
    arrays = {str(i): np.asarray(leaf) for i, leaf in enumerate(leaves)}
    metadata = {"job": job, "progress": json.dumps(dataclasses.asdict(state.progress))}
    write_safetensors(path, arrays, metadata)


def _load(path: Path, job: str, metrics: Sequence[Metric]) -> _State | None:
    """What was saved of this job, if anything was; what is damaged is told and not taken."""

    def check_metadata(metadata: Mapping[str, str]) -> None:
        if CHECKSUM not in metadata:
            raise ValueError("not what this command saves")

    try:
        metadata, arrays = read_safetensors(path, check_metadata)
        with contextlib.suppress(OSError):
            os.utime(path)  # what was used last is kept longest
    except OSError:
        return None
    except ValueError as error:
        warnings.warn(f"{path}: {error}; it is made anew", stacklevel=4)
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
    structure = jax.tree.structure(tuple(metric.empty for metric in metrics))
    return _State(progress, jax.tree.unflatten(structure, leaves))
