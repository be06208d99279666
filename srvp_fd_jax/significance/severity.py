"""The ruler of a set of real videos: distances of graded corruptions of them.

Random videos are divided into two disjoint sets of k clips. The first set is the reference. The
second one is compared with it as it is and under every corruption, so each distance is one of k
clips to k clips that are not the same. Generated clips are read off by their own distance to the
reference: "as far as a blur of σ = 2.1 pixels".
"""

import dataclasses
import functools
import itertools
import json
import os
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from srvp_fd_jax.distances import saved
from srvp_fd_jax.distances.provenance import check_comparable, mark
from srvp_fd_jax.distances.sample import FeatureSample, name_keys
from srvp_fd_jax.distances.statistics import (
    FeatureStatistics,
    load_with_metadata,
    of_nothing,
)
from srvp_fd_jax.features.calculator import Calculator
from srvp_fd_jax.features.shards import job_hash, moments_of_clips
from srvp_fd_jax.files.inputs import as_count, not_allowed, range_caution, warn
from srvp_fd_jax.networks.registry import NETWORKS
from srvp_fd_jax.protocols import Protocol
from srvp_fd_jax.significance.corruptions import CORRUPTIONS, Clip, NotApplicableError
from srvp_fd_jax.significance.draws import ClipFeatures, Measure, between, drawn, state_of
from srvp_fd_jax.significance.labels import KeyLabels, keys_of, labels_in
from srvp_fd_jax.significance.null_distribution import Floor, find_floor, sample_of
from srvp_fd_jax.significance.units import find_units
from srvp_fd_jax.videos.loading import load_clips
from srvp_fd_jax.videos.sources import Video, clip_names, fingerprint

LEAST_CLIPS = 4
"""Smallest number of clips in each of the two sets, which the floor needs."""

_ENTRY, _FORMAT_VERSION = "severity", 3


class Rung(NamedTuple):
    """The distances of one kind of corruption.

    Attributes:
        corruption: Name of the corruption in `CORRUPTIONS`.
        strengths: Rising strengths.
        distances: Distances of clips with these strengths to the reference.
    """

    corruption: str
    strengths: tuple[float, ...]
    distances: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Distances of corrupted real clips to other real clips, under one protocol.

    Attributes:
        reference: Statistics of the first set, whose sample has all of its k clips.
        measure: The distance and the divisor of covariances.
        floor: Distances of random divisions of both sets; its `distance` is that of the second set
            as it is.
        rungs: The corruptions with their distances.
        left_out: Names of corruptions that the clips do not allow, each with the reason.
    """

    reference: FeatureStatistics
    measure: Measure
    floor: Floor
    rungs: tuple[Rung, ...]
    left_out: tuple[tuple[str, str], ...]

    @property
    def clips(self) -> int:
        """Number k of clips in each set."""
        return int(self.sample.size)

    @property
    def sample(self) -> FeatureSample:
        """The clips of the reference."""
        return sample_of(self.reference, "reference")

    @property
    def clean(self) -> float:
        """Distance of the second set, as it is, to the reference."""
        return self.floor.distance


class Standing(NamedTuple):
    """Where a set of clips stands among the strengths of one corruption.

    Attributes:
        corruption: Name of the corruption in `CORRUPTIONS`.
        place: "below" if other real clips may have the same distance, "at" a strength, "beyond"
            the strongest one, or "unseen" if the distance does not tell even the strongest one from
            real clips, so that nothing can be read off.
        strength: The strength that has the same distance if the place is "at", else None.
        described: The place in words such as "as far as a blur of σ = 2.1 pixels".
    """

    corruption: str
    place: Literal["below", "at", "beyond", "unseen"]
    strength: float | None
    described: str


def build(
    videos: Sequence[Video],
    calculator: Calculator,
    clips: int,
    *,
    groups: Sequence[Hashable] | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Ladder:
    """Makes the ladder of real videos.

    It takes 2·`clips` random videos, those with the smallest `name_keys` of their names among the
    videos that give a clip; so the order of the videos makes no difference, but a folder by another
    path has other names. The second half of the clips is in memory up to three times. Clips that a
    corruption leaves as they are, are not encoded again.

    Args:
        videos: Real videos.
        calculator: Calculator of one protocol, from `load_calculators`.
        clips: Number k of clips in each of the two sets. Generated clips must later be as many,
            because a distance depends on the number of clips.
        groups: Label of each video. Videos of one label are chosen together, and no label is in
            both sets. By default every video has its own.
        on_progress: Called with the number of sets of clips that are encoded, and the number of all
            sets.

    Raises:
        ValueError: If fewer than 2·`clips` videos give a clip, `clips` is below 4, the calculator
            has several protocols, or whole videos are taken and their lengths differ.
        ModuleNotFoundError: If the extra "video" is not installed and not all videos are arrays.
    """
    k = as_count(clips, "clips", least=LEAST_CLIPS)
    if len(calculator.protocols) != 1:
        names = ", ".join(protocol.name for protocol in calculator.protocols)
        raise ValueError(f"calculator: got the protocols {names}, expected one protocol")
    protocol = calculator.protocols[0]
    measure = Measure(protocol.distance, protocol.ddof)
    total = 2 + sum(len(corruption.strengths) for corruption in CORRUPTIONS.values())
    on_progress(0, total)
    labels = range(len(videos)) if groups is None else groups
    loaded = _usable(videos, protocol, k, labels)
    keys, of_reference, plain, _ = zip(*itertools.islice(loaded, k), strict=True)
    frames = len(plain[0])
    calculator.check_length(frames, f"protocol {protocol.name!r}")
    reference = _reference(calculator, np.stack(keys), moments_of_clips(calculator, plain), frames)
    on_progress(1, total)
    _, of_clean, plain, fast = zip(*loaded, strict=True)
    clean = moments_of_clips(calculator, plain)
    on_progress(2, total)
    compared = sample_of(reference, "reference").moments()
    done, rungs, left_out = 2, [], {}
    for name, corruption in CORRUPTIONS.items():
        distances = []
        try:
            for strength in corruption.strengths:
                # The same randomness for all strengths, so that distances differ by strength only.
                corrupted = corruption(plain, strength, np.random.default_rng(0), fast)
                moments = _encoded(calculator, corrupted, plain, clean)
                distances.append(_distance(compared, moments, measure))
                on_progress(done + len(distances), total)
            rungs.append(Rung(name, corruption.strengths, tuple(distances)))
        except NotApplicableError as error:
            left_out[name] = str(error)
        done += len(corruption.strengths)
        on_progress(done, total)
    by_key = np.lexsort(np.stack(keys).T[::-1]).tolist()  # the order of the reference
    units = find_units([of_reference[i] for i in by_key], of_clean, grouped=groups is not None)
    floor = find_floor(compared, clean, measure, units)
    return Ladder(
        reference=reference,
        measure=measure,
        # The test may leave clips out, which the corruptions do not.
        floor=floor._replace(distance=_distance(compared, clean, measure)),
        rungs=tuple(rungs),
        left_out=tuple(left_out.items()),
    )


def distance_from(
    ladder: Ladder, fake: FeatureStatistics, clips: Int[np.ndarray, " m"] | None = None
) -> float:
    """Computes the distance of the first k clips in a sample to the reference of a ladder.

    These are random clips of those that the sample was made of. Fewer clips are refused, as the
    bias of a distance grows as the number of clips falls: they would look worse than they are.

    Args:
        ladder: Ladder of k clips.
        fake: Statistics of generated clips, whose sample has their own features, not those of all
            time steps.
        clips: Indices of the clips of the sample that may be compared, in their order. By default
            all. Clips that depend on the reference, such as predictions of its clips, are nearer to
            it than other real clips are.

    Raises:
        ValueError: If the sample was made with another network, output, precision, protocol or
            other weights, has another number of vectors per clip, or holds fewer than k clips.
    """
    check_comparable(ladder.reference, fake)
    sample = sample_of(fake, "sample")
    if ladder.sample.vectors != sample.vectors:
        raise ValueError(
            f"sample: got {sample.vectors} vectors per clip, the scale has {ladder.sample.vectors}"
        )
    moments = sample.moments()
    clips = np.arange(len(moments["features"])) if clips is None else clips
    held, k = len(clips), ladder.clips
    if held < k:
        raise ValueError(
            f"sample: got {held} clips, but the scale compares {k}, and a distance depends on the "
            f"number of clips: make a scale of at most {held} clips"
        )
    return _distance(ladder.sample.moments(), drawn(moments, clips[:k]), ladder.measure)


def equivalent(
    fake: FeatureStatistics,
    videos: Sequence[Video],
    calculator: Calculator,
    cache: Path,
    labels: KeyLabels,
) -> tuple[Standing, ...]:
    """Finds the severity of each corruption of real videos that has the same distance.

    Args:
        fake: Statistics of the generated videos, with a sample of their own features.
        videos: Real videos.
        calculator: Calculator of the protocol.
        cache: Folder of severity scales.
        labels: Labels of the videos by their keys. Generated clips with the label of a clip in the
            reference of the scale come last, with a warning if they are needed. Those of one label
            are taken together, as the clips of the scale are.

    Returns:
        One `Standing` per corruption; none if the cache has no scale of these real videos, or, with
        a warning, if there are too few generated clips for it.
    """
    ladder = find_ruler(videos, calculator, cache)
    if ladder is None:
        return ()
    keys, of_real = keys_of(videos, "real"), labels["real"]
    if keys[0] not in of_real:  # pairs are named by indices
        of_real = dict(zip(keys, of_real.values(), strict=True))
    known = set(labels_in(ladder.sample, of_real))
    of_fake = labels_in(sample_of(fake, "fake"), labels["fake"])
    order = sorted(whole_groups(of_fake).tolist(), key=lambda i: of_fake[i] in known)
    apart = sum(label not in known for label in of_fake)
    if apart < ladder.clips <= len(order):
        warn(
            f"severity: {ladder.clips - apart} generated clips of {ladder.clips} have the names or "
            "groups of its real clips, to which they are too near if they are predictions of them"
        )
    try:
        return at_distance(ladder, distance_from(ladder, fake, np.array(order, int)))
    except ValueError as error:
        warn(f"the severity scale of the real videos was not used: {error}")
        return ()


def at_distance(ladder: Ladder, distance: float) -> tuple[Standing, ...]:
    """Finds the strengths that have a distance to the reference, one `Standing` per corruption.

    They are found by linear interpolation between the strengths of each corruption, from strength 0
    at the distance of real clips up, where a strength counts as far as any weaker one. Between two
    strengths most distances bend upwards, so that strengths are read somewhat low: for sets of 40
    clips of moving digits that are blurred by 3 pixels, between the marks 2 and 4, as 2.2 to 2.7.
    """
    return tuple(_on_rung(ladder, rung, distance) for rung in ladder.rungs)


def whole_groups(labels: Sequence[Hashable]) -> Int[np.ndarray, " n"]:
    """Order in which equal labels come together, at the place of the first of them."""
    places: dict[Hashable, int] = {}
    return np.argsort([places.setdefault(label, len(places)) for label in labels], kind="stable")


def kept_at(videos: Sequence[Video], calculator: Calculator, folder: Path) -> Path | None:
    """Path of the ruler of real videos in a cache, for a calculator of one protocol.

    It is None for videos in memory and for networks that may change under their name, whose rulers
    could not be recognised later.
    """
    published = NETWORKS[calculator.protocols[0].network].published
    if not (published and all(video.files for video in videos)):
        return None
    made = "ruler", _FORMAT_VERSION, calculator.protocols[0].distance
    return folder / f"{job_hash(fingerprint(videos), calculator, 'real', made)}.safetensors"


def find_ruler(videos: Sequence[Video], calculator: Calculator, folder: Path) -> Ladder | None:
    """Loads the ruler of real videos from a cache; None if there is none that can be read."""
    path = kept_at(videos, calculator, folder)
    if path is None or not path.exists():
        return None
    try:
        return load(path)
    except (OSError, ValueError) as error:
        warn(f"{path}: {error}; make the ruler again")
        return None


def summary(ladder: Ladder) -> dict[str, Any]:
    """The distances of a ladder as values for JSON."""
    return {
        "clips": ladder.clips,
        "clean": ladder.clean,
        "floor": ladder.floor._asdict(),
        "rungs": [
            {
                "corruption": rung.corruption,
                "steps": [
                    {
                        "strength": strength,
                        "described": CORRUPTIONS[rung.corruption].phrase(strength),
                        "distance": distance,
                    }
                    for strength, distance in zip(rung.strengths, rung.distances, strict=True)
                ],
            }
            for rung in ladder.rungs
        ],
        "left_out": dict(ladder.left_out),
    }


def save(ladder: Ladder, path: str | os.PathLike[str]) -> None:
    """Writes a ladder to a safetensors file.

    Raises:
        OSError: If the file cannot be written.
    """
    described = {
        "version": _FORMAT_VERSION,
        "measure": [ladder.measure.distance, ladder.measure.ddof],
        "floor": ladder.floor._asdict(),
        "rungs": ladder.rungs,
        "left_out": ladder.left_out,
    }
    saved.save(ladder.reference, Path(path), {_ENTRY: json.dumps(described)})


def load(path: str | os.PathLike[str]) -> Ladder:
    """Reads a ladder that `save` wrote.

    Raises:
        OSError: If the file is missing or cannot be read.
        ValueError: If the file is damaged, has another format or format version, or has a
            corruption that `CORRUPTIONS` lacks.
    """
    reference, metadata = load_with_metadata(path)
    try:
        described = json.loads(metadata[_ENTRY])
        if described["version"] != _FORMAT_VERSION:
            raise ValueError("another format version: make the severity scale again")
        ladder = Ladder(
            reference=reference,
            measure=Measure(*described["measure"]),
            floor=Floor(**described["floor"]),
            rungs=tuple(Rung(n, tuple(s), tuple(d)) for n, s, d in described["rungs"]),
            left_out=tuple((name, reason) for name, reason in described["left_out"]),
        )
        for rung in ladder.rungs:
            if rung.corruption not in CORRUPTIONS:
                raise not_allowed("corruption", rung.corruption, CORRUPTIONS)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: not a severity scale: {error!r}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return ladder


def _usable(
    videos: Sequence[Video],
    protocol: Protocol,
    k: int,
    labels: Sequence[Hashable],
) -> Iterator[tuple[UInt32[np.ndarray, "2"], Hashable, Clip, Clip | None]]:
    """Yields keys, labels and clips of 2·k random videos, and clips at doubled speed or None.

    Videos of one label come together. None of the first k has the label of a later one. A random
    start of a clip depends on the place of its video in the random order.
    """
    keys = name_keys(clip_names(videos, "real"))
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    order = order[whole_groups([labels[i] for i in order])].tolist()
    protocols = [protocol]
    if protocol.frames is not None:  # a whole video is too short for its clip at doubled speed
        faster = dataclasses.replace(protocol.real, step=2 * protocol.real.step)
        protocols.append(dataclasses.replace(protocol, real=faster))
    found, lost, frames, range_told = 0, [], protocol.frames, False
    first: set[Hashable] = set()
    ordered = [videos[i] for i in order]
    loaded = load_clips(ordered, protocols, "real")
    for i, one in zip(order, loaded, strict=False):
        clip, *fast = one.clips
        if clip is None:
            lost.append(f"{one.video.name}: {one.error or 'too short'}")
            continue
        if found < k:
            first.add(labels[i])
        elif labels[i] in first:
            continue
        frames = frames or len(clip)
        if len(clip) != frames:
            raise ValueError(
                f"videos: got videos of {frames} and of {len(clip)} frames: {protocol.name!r} "
                "takes whole videos, which must have one length; choose a number of frames "
                "(--frames)"
            )
        if clip.dtype != np.uint8 and not range_told:
            if caution := range_caution(float(clip.min()), float(clip.max())):
                warn(f"videos: {caution}")
            range_told = caution is not None
        yield keys[i], labels[i], clip, fast[0] if fast else None
        found += 1
        if found == 2 * k:
            return
    reason = f"; {len(lost)} do not, such as {lost[0]}" if lost else ""
    raise ValueError(
        f"clips: got {k}, which takes {2 * k} videos, but only {found} of {len(videos)} "
        f"give a clip{reason}"
    )


def _reference(
    calculator: Calculator, keys: UInt32[np.ndarray, "k 2"], moments: ClipFeatures, frames: int
) -> FeatureStatistics:
    k, vectors, dim = moments["features"].shape
    nothing = of_nothing(dim, "variances" in moments, k, vectors)
    source = dict(calculator.nothing(frames)[0].source) | {"side": "real"}
    return mark(nothing.fold(moments, None, keys), **source)


def _encoded(
    calculator: Calculator, clips: Sequence[Clip], known: Sequence[Clip], moments: ClipFeatures
) -> ClipFeatures:
    """Moments of clips, of which those that are among the `known` ones are not encoded again."""
    places = {id(clip): place for place, clip in enumerate(known)}
    new = [clip for clip in clips if id(clip) not in places]
    if new:
        of_new = moments_of_clips(calculator, new)
        moments = {name: jnp.concatenate([f, of_new[name]]) for name, f in moments.items()}
    after = itertools.count(len(known))
    rows = [places[id(clip)] if id(clip) in places else next(after) for clip in clips]
    return drawn(moments, np.array(rows))


def _distance(real: ClipFeatures, fake: ClipFeatures, measure: Measure) -> float:
    distance = float(_between(real, fake, measure))
    if not np.isfinite(distance):
        raise ValueError(f"distance: got {distance}, which is not finite")
    return distance


@functools.partial(jax.jit, static_argnames="measure")
def _between(real: ClipFeatures, fake: ClipFeatures, measure: Measure) -> Float[Array, ""]:
    return between(state_of(real, measure), state_of(fake, measure), measure)


def _on_rung(ladder: Ladder, rung: Rung, distance: float) -> Standing:
    phrase = CORRUPTIONS[rung.corruption].phrase
    strongest = phrase(rung.strengths[-1])
    sign, floor = ladder.measure.sign, ladder.floor
    distance *= sign
    levels = np.maximum.accumulate(sign * np.array([ladder.clean, *rung.distances]))
    edge = floor.high if sign > 0 else -floor.low
    if levels[-1] <= edge:
        text = f"{ladder.clips} clips do not tell {strongest} from real ones"
        return Standing(rung.corruption, "unseen", None, text)
    if distance > levels[-1]:
        return Standing(rung.corruption, "beyond", None, f"beyond {strongest}")
    # Real clips, too, have distances up to the range of the floor.
    told_apart = max(levels[0], edge)
    strength = float(np.interp(max(distance, told_apart), levels, [0, *rung.strengths]))
    if distance <= told_apart:
        return Standing(rung.corruption, "below", None, f"nearer than {phrase(strength)}")
    return Standing(rung.corruption, "at", strength, f"as far as {phrase(strength)}")
