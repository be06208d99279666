"""Computes distances between two sets of videos in files or in memory, see `compute`."""

import dataclasses
import functools
import html
import os
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np

from srvp_fd_jax import overlap
from srvp_fd_jax.calculator import Calculator
from srvp_fd_jax.distances import DISTANCES, cd_fvd, check_type, load_statistics
from srvp_fd_jax.distances.sample import SAMPLE_SIZE, FeatureSample, load_sample, name_keys
from srvp_fd_jax.distances.states import (
    State,
    check_comparable,
    check_counts,
    mark,
    range_cautions,
)
from srvp_fd_jax.files import printable
from srvp_fd_jax.inputs import warn
from srvp_fd_jax.networks.base import Output
from srvp_fd_jax.networks.registry import NETWORKS
from srvp_fd_jax.passes import Evaluated, evaluate, evaluate_cached, load_calculators
from srvp_fd_jax.protocols import Protocol, Side, find_protocol
from srvp_fd_jax.reliability.draws import Measure, state_of
from srvp_fd_jax.reliability.floor import Floor, floor_of_samples
from srvp_fd_jax.reliability.units import Units, find_units
from srvp_fd_jax.ruler.ladder import Standing, find_ruler, standing, whole_groups
from srvp_fd_jax.videos.properties import differences
from srvp_fd_jax.videos.sources import Video, as_videos, clip_names, local_names

DEFAULT = "fvd2048_16f"
"""Name of the default protocol."""

STATISTICS_SUFFIX = ".safetensors"

_STRAYS_TOLD = 20
_FOLDERS_TOLD = 5

OnProgress = Callable[[Side, int, int], None]
"""Type of `on_progress`, see `compute`."""

Groups = Callable[[str], Hashable] | Sequence[Any]
"""Type of `groups`, see `compute`."""

Key = tuple[int, int]
"""Key of a clip in a sample, see `distances.sample.name_keys`."""

OnSide = Callable[[Side, Sequence[Evaluated]], None]
"""Type of `on_side`, see `compute`."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """One side of a comparison that is given by existing statistics.

    Attributes:
        statistics: State of the distance.
        name: Path of the statistics; empty if they are in memory.
        sample: Sample of the clips that is kept with the statistics, or None.
    """

    statistics: State
    name: str = ""
    sample: FeatureSample | None = None

    def described(self) -> str:
        """Describes the side in one line."""
        side = dict(self.statistics.source).get("side", "unknown")
        where = f"{self.name}: " if self.name else ""
        return f"{where}{int(self.statistics.count)} samples, side {side}"

    def summary(self) -> dict[str, Any]:
        """Describes the side by values for JSON."""
        side = dict(self.statistics.source).get("side")
        return {"path": self.name, "samples": int(self.statistics.count), "side": side}


_Side = TypeVar("_Side", bound=Evaluated | Kept)


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """A distance between two sets of videos, and what it was computed from.

    `float(result)` is the distance. Printed, in a terminal or a notebook, a result describes it.

    Attributes:
        distance: The distance.
        protocol: Protocol by which the videos were sampled, encoded and compared; None if it is not
            known, as for statistics that name no protocol.
        real: Statistics of the real videos.
        fake: Statistics of the generated videos.
        cautions: Reasons not to rely on the distance, one sentence each.
        floor: What chance gives with these clips, if asked for.
        standing: Where the generated videos stand on the ruler of the real ones, if the cache keeps
            one, see `ruler.ladder`; else empty.
        measure: Name of the distance in `DISTANCES`.

    Example:
        With statistics instead of videos:

        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> features = np.random.default_rng(0).normal(size=(50, 4))
        >>> make = srvp_fd_jax.FeatureStatistics.from_features
        >>> result = srvp_fd_jax.compute(make(features), make(features + 3))
        >>> round(float(result), 3), result.cautions
        (36.0, ())
    """

    distance: float
    protocol: Protocol | None
    real: Evaluated | Kept
    fake: Evaluated | Kept
    cautions: tuple[str, ...] = ()
    floor: Floor | None = None
    standing: tuple[Standing, ...] = ()
    measure: str = "frechet"

    def __float__(self) -> float:
        """The distance."""
        return self.distance

    def __repr__(self) -> str:
        """The distance, its protocol, both sides, the network and the cautions, line by line."""
        (name, number), *rows = self._rows()
        width = max(len(label) for label, _ in rows)
        lines = [f"{name}: {number}", *(f"  {label:{width}}  {text}" for label, text in rows)]
        return "\n".join(printable(line) for line in lines)

    def _repr_html_(self) -> str:
        """The lines of `repr(result)` as a table for notebooks."""
        (name, number), *rows = self._rows()
        head = f"<tr><th>{html.escape(name)}</th><th>{number}</th></tr>"
        cells = (
            f"<tr><td>{html.escape(label)}</td><td>{html.escape(text)}</td></tr>"
            for label, text in rows
        )
        return f"<table>{head}{''.join(cells)}</table>"

    def _rows(self) -> Iterator[tuple[str, str]]:
        source = dict(self.fake.statistics.source) | dict(self.real.statistics.source)
        name = self.protocol.name if self.protocol else source.get("output", "distance")
        yield name, f"{self.distance:.6g}"
        if self.floor:
            yield "floor", self.floor.described()
        yield "real", self.real.described()
        yield "generated", self.fake.described()
        yield (
            "network",
            ", ".join(
                [
                    f"{source.get('network', 'unknown')}, output {source.get('output', 'unknown')}",
                    f"weights {source.get('weights_sha256', 'unknown')[:8]}",
                ]
            ),
        )
        for one in self.standing:
            yield "ruler", one.described
        for caution in self.cautions:
            yield "caution", caution

    def summary(self) -> dict[str, Any]:
        """The result as values for JSON."""
        source = dict(self.fake.statistics.source) | dict(self.real.statistics.source)
        source.pop("side", None)
        return {
            "distance": self.distance,
            "measure": self.measure,
            "protocol": self.protocol.name if self.protocol else source.get("protocol"),
            "source": source,
            "real": self.real.summary(),
            "fake": self.fake.summary(),
            **({"floor": self.floor._asdict()} if self.floor else {}),
            **({"ruler": [one._asdict() for one in self.standing]} if self.standing else {}),
        }


@overload
def compute(
    real: Any,
    fake: Any,
    protocol: Protocol | str | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    strict: bool = False,
    cache: Path | None = None,
    floor: bool = False,
    match: str | Sequence[str] | None = None,
    paired: bool = False,
    groups: Groups | None = None,
    on_progress: OnProgress | None = None,
    on_side: OnSide | None = None,
) -> Result: ...


@overload
def compute(
    real: Any,
    fake: Any,
    protocol: Sequence[Protocol | str],
    *,
    weights: str | os.PathLike[str] | None = None,
    strict: bool = False,
    cache: Path | None = None,
    floor: bool = False,
    match: str | Sequence[str] | None = None,
    paired: bool = False,
    groups: Groups | None = None,
    on_progress: OnProgress | None = None,
    on_side: OnSide | None = None,
) -> list[Result]: ...


def compute(
    real: Any,
    fake: Any,
    protocol: Protocol | str | Sequence[Protocol | str] | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    strict: bool = False,
    cache: Path | None = None,
    floor: bool = False,
    match: str | Sequence[str] | None = None,
    paired: bool = False,
    groups: Groups | None = None,
    on_progress: OnProgress | None = None,
    on_side: OnSide | None = None,
) -> Result | list[Result]:
    """Computes the distance of two sets of videos under one protocol, or several in one pass.

    Args:
        real: Real videos: the path of a folder, .zip, .tar or .tar.gz of videos, of a .npy or .npz
            file of clips, of a .txt file that lists paths, or of statistics (.safetensors, or
            cd-fvd's .pkl); a list of paths of single videos; an array of clips [N, T, H, W, C] or
            [N, T, C, H, W]; statistics; or any object with `__len__` and `__getitem__` whose items
            are videos [T, H, W, C] or [T, C, H, W], such as a data source of Grain or TensorFlow
            Datasets or a column of a Hugging Face dataset.
        fake: Generated videos, in any of the same forms.
        protocol: How videos are sampled, encoded and compared: a `Protocol`, a name that
            `find_protocol` takes, or a list of these. By default the protocol of given statistics,
            else "fvd2048_16f".
        weights: File of the network's weights; by default looked up, see `load_network`.
        strict: Whether a video that cannot be read raises an error. By default such videos are
            counted and skipped.
        cache: Folder that keeps statistics of real videos, if these are files, for later calls with
            the same videos, protocol and weights, and their rulers. None for no cache.
        floor: Whether to compute the null distribution of the distance with these clips, and a
            p-value, see `reliability.floor`. Of more than 2048 clips on a side, it takes a random
            sample. Videos of one name below their folders, whatever the suffix, are a pair, such as
            a video and its prediction.
        match: Glob that chooses the files whose names, or paths below a folder or archive, match
            it; or a pair of globs, for real and for generated videos.
        paired: Whether the videos of both sides with the same index are pairs, as in arrays of
            videos and of their predictions. Their number must be the same.
        groups: Label of the group of each video, if videos depend on each other, such as clips of
            one recording: a function of the name of a video below its folder, or two sequences of
            labels, for the real and the generated videos. A label in both sides is one group.
        on_progress: Called from time to time with the side, the number of its videos that are done,
            and the number of all its videos.
        on_side: Called when the videos of a side are done, with the side and its statistics, one
            `Evaluated` per protocol.

    Returns:
        The result, or a list of results in the order of the protocols if these are a list.

    Raises:
        FileNotFoundError: If a path does not exist, or no weights are found.
        ValueError: If there are too few videos, if statistics were made with another protocol,
            network or weights, or if another argument is not valid.

    Example:
        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> from srvp_fd_jax.demo.moving_digits import moving_digits
        >>> rng = np.random.default_rng(0)
        >>> real, fake = (moving_digits(rng, n=30, length=6) for _ in range(2))
        >>> print(srvp_fd_jax.compute(real, fake[:, ::-1], "srvp:digits:dynamics"))
        ... # doctest: +ELLIPSIS
        srvp:digits:dynamics: 2.4...
          real       30 of 30 videos, 30 samples
          generated  30 of 30 videos, 30 samples
          network    digits, output dynamics, weights ...
    """
    if (paired or groups is not None) and not floor:
        name = "paired" if paired else "groups"
        raise ValueError(f"{name}: only the test of significance uses it, see floor=True")
    given: dict[Side, Any] = {"real": real, "fake": fake}
    kept = {side: one for side, of in given.items() if (one := _kept(of)) is not None}
    for side, one in kept.items():
        if floor:
            _sample(one, side)
    several = not isinstance(protocol, str | Protocol | None)
    protocols = _protocols(protocol, [one.statistics for one in kept.values()])
    if len(kept) == 2 and weights is not None:
        raise ValueError(f"weights: got {weights}, but both sides are statistics")
    globs = match_of_sides(match)
    videos = {
        side: find_videos(of, side, protocols, globs[side])
        for side, of in given.items()
        if side not in kept
    }
    if len(videos) == 2:
        compare_storage(videos, protocols)
    labels = unit_labels(videos, paired, groups)
    if floor and not paired and groups is None:
        check_names(videos)
    calculators = load_calculators(dict.fromkeys(protocols), weights) if videos else []
    for side, one in kept.items():  # checked before any video is read
        if protocols:
            one = comparable(one, side, protocols[0].distance)
            state = one.statistics
            marked = mark(state, **protocols[0].marks())  # adds the marks of the protocol
            check_comparable(state, calculators[0].nothing()[0] if calculators else marked)
            kept[side] = dataclasses.replace(one, statistics=marked)

    def evaluated(side: Side) -> Sequence[Evaluated | Kept]:
        if side in kept:
            return [kept[side]]
        name = str(given[side]) if isinstance(given[side], str | os.PathLike) else ""
        make: Callable[..., list[Evaluated]] = evaluate
        in_files = all(video.files for video in videos[side])
        published = all(NETWORKS[one.network].published for one in protocols)
        if side == "real" and cache and in_files and published:
            make = functools.partial(evaluate_cached, folder=cache)
        total = clips_to_read(videos[side], protocols)
        told = functools.partial(on_progress, side) if on_progress else lambda *_: None
        told(0, total)
        made = make(
            videos[side],
            calculators,
            side,
            strict=strict,
            sample=SAMPLE_SIZE,
            paired=paired,
            on_progress=lambda position: told(min(position, total), total),
        )
        by_protocol = {one.protocol: dataclasses.replace(one, name=name) for one in made}
        of_side = [by_protocol[protocol] for protocol in protocols]
        if on_side:
            on_side(side, of_side)
        return of_side

    of_files = overlap.of_files(videos)
    for text in of_files.values():
        warn(text)
    of_real, of_fake = evaluated("real"), evaluated("fake")
    under: Sequence[Protocol | None] = protocols or [None]
    told = {side: by_keys(of, videos[side], side, paired) for side, of in labels.items()}
    both = list(zip(of_real, of_fake, strict=True))
    repeated = repeats(both, calculators, of_files)
    results = [
        compare(
            *one, protocol, floor=floor, repeated=texts, labels=told, grouped=groups is not None
        )
        for one, protocol, texts in zip(both, under, repeated, strict=True)
    ]
    results = [
        dataclasses.replace(one, cautions=(*of_files.values(), *one.cautions)) for one in results
    ]
    if cache and "real" in videos:
        named = by_keys(labels["real"], videos["real"], "real")
        results = [
            dataclasses.replace(
                one,
                standing=find_standing(
                    one.fake, videos["real"], calculators, cache, told | {"real": named}
                ),
            )
            if isinstance(one.fake, Evaluated)
            else one
            for one in results
        ]
    return results if several else results[0]


def compare(
    real: Evaluated | Kept,
    fake: Evaluated | Kept,
    protocol: Protocol | None = None,
    distance: str | None = None,
    floor: bool = False,
    repeated: Sequence[str] | None = None,
    labels: Mapping[Side, Mapping[Key, Hashable]] | None = None,
    grouped: bool = False,
) -> Result:
    """Computes the distance between the statistics of two sides, and its floor if asked for.

    The distance is by default that of the protocol, or "frechet" if no protocol is known. The
    cautions of the result are given as warnings, too. Among them are those of `repeated`, by
    default what `repeats` finds. The units of the floor follow from the `labels` of clips by their
    keys in a sample, for the sides that have any, else from the keys; `grouped` is whether they are
    those of groups.

    Raises:
        ValueError: If the statistics are not comparable, hold too few samples or are not finite.
    """
    name = distance or (protocol.distance if protocol else "frechet")
    sides = [real.name or "real", fake.name or "fake"]
    if sides[0] == sides[1]:
        sides = ["real", "fake"]
    of_values = [
        text
        for side, one in zip(sides, (real, fake), strict=True)
        # A pass over videos warns of floats outside [0, 1] itself.
        for text in range_cautions(
            side, one.statistics, checked=isinstance(one, Evaluated) and not one.cached
        )
    ]
    real, fake = comparable(real, "real", name), comparable(fake, "fake", name)
    both = dict(zip(sides, (real.statistics, fake.statistics), strict=True))
    compared = DISTANCES[name]
    check_comparable(real.statistics, fake.statistics)
    check_counts(compared, {side: s.count for side, s in both.items()})
    if repeated is None:
        (repeated,) = repeats([(real, fake)])
    found = [*cautions(name, real.statistics, fake.statistics), *of_values, *repeated]
    for side, one in (("real", real), ("generated", fake)):
        if isinstance(one, Evaluated) and one.unreadable:
            video, reason = one.unreadable[0]
            found.append(
                f"{len(one.unreadable)} of {one.found} {side} videos could not be read and were "
                f"left out, such as {video}: {reason}"
            )
    for text in found:
        warn(text)
    number = float(compared.between(both))
    if not np.isfinite(number):
        raise ValueError(f"distance: got {number} for {real.name or 'real'}, which is not finite")
    measure = Measure(name, int(dict(real.statistics.source).get("ddof", 1)))
    told = None
    if floor:
        samples = _sample(real, "real"), _sample(fake, "fake")
        units = units_of(*samples, labels or {}, grouped)
        told = floor_of_samples(*samples, measure, units)
    return Result(number, protocol, real, fake, tuple(found), told, measure=name)


def comparable(one: _Side, side: Side, distance: str) -> _Side:
    """A side with the state that a distance compares, see `compare` for the errors.

    A distance between points compares those of the sample of clips, if there is one, as its floor
    does: the numbers would differ otherwise, since they come from other random points. Only if the
    statistics hold more points than the sample, it compares theirs.
    """
    wanted, own = type(DISTANCES[distance].empty(1, False)), one.statistics
    if wanted is FeatureSample and one.sample is not None:
        state: Any = state_of(one.sample.moments(), Measure(distance, ddof=1))
        if not isinstance(own, FeatureSample) or own.held.sum() <= state.held.sum():
            one = dataclasses.replace(one, statistics=mark(state, **dict(one.sample.source)))
    check_type(distance, one.name or side, one.statistics)
    return one


def unit_labels(
    videos: Mapping[Side, Sequence[Video]], paired: bool = False, groups: Groups | None = None
) -> dict[Side, list[Hashable]]:
    """Labels of videos: those with equal ones depend on each other, also those of both sides.

    For the arguments see `compute`.

    Raises:
        ValueError: If `paired` or `groups` do not fit the videos.
    """
    if (paired or groups is not None) and len(videos) < 2:
        name = "paired" if paired else "groups"
        raise ValueError(f"{name}: got statistics, which hold no names, expected videos")
    if paired and groups is not None:
        raise ValueError("paired: got groups too, of which the same label in both sides is a pair")
    if paired and len({len(of_side) for of_side in videos.values()}) > 1:
        found = " and ".join(f"{len(of_side)} {side}" for side, of_side in videos.items())
        raise ValueError(f"paired: got {found} videos, expected as many of both")
    return {
        side: _keys(of, side, paired) if groups is None else group_labels(of, side, groups)
        for side, of in videos.items()
    }


def check_names(videos: Mapping[Side, Sequence[Video]]) -> None:
    """Warns if no videos are pairs by name, though their numbers are those of pairs.

    Examples are `a/7.mp4` and `7.mp4`, and `7_gt.mp4` and `7_pred.mp4`.
    """
    if len(videos) < 2 or any(video.row is not None for of in videos.values() for video in of):
        return  # statistics and arrays have no names
    names = [clip_names(of, side) for side, of in videos.items()]
    if set(names[0]) & set(names[1]):
        return
    real, fake = (
        {" ".join(re.findall("[0-9]+", os.path.basename(n))): n for n in of} for of in names
    )
    common = [number for number in real if number and number in fake]
    if 2 * len(common) > max(map(len, names)):
        warn(
            f"the names suggest {len(common)} pairs, such as {real[common[0]]} and "
            f"{fake[common[0]]}, but the test takes these videos for independent; paired=True "
            "(--paired) pairs videos of the same order, groups= (--group-by) those of one label"
        )


def group_labels(videos: Sequence[Video], side: Side, groups: Groups) -> list[Hashable]:
    """Labels of the groups of the videos of one side, see `compute`.

    Raises:
        ValueError: If there is not one label for each video.
    """
    if callable(groups):
        names = local_names(videos)
        found = {name: groups(name) for name in names}
        for name, label in found.items():
            if label is None:
                raise ValueError(f"groups: got None for {name}, expected a label")
        return [found[name] for name in names]
    if len(groups) != 2:
        raise ValueError(f"groups: got {len(groups)} sequences, expected real and generated labels")
    given = groups[side == "fake"]
    labels = given.tolist() if hasattr(given, "tolist") else list(given)
    for label in labels:
        if label is None or not isinstance(label, Hashable):
            raise ValueError(
                f"groups: got {label!r} of {side}, expected labels that can be compared"
            )
    if len(labels) != len(videos):
        raise ValueError(
            f"groups: got {len(labels)} {side} labels, expected one for each of the {len(videos)} "
            "videos"
        )
    return labels


def by_keys(
    labels: Sequence[Hashable], videos: Sequence[Video], side: Side, paired: bool = False
) -> dict[Key, Hashable]:
    """Labels of videos by the keys that their clips have in a sample."""
    return dict(zip(_keys(videos, side, paired), labels, strict=True))


def _keys(videos: Sequence[Video], side: Side, paired: bool) -> list[Any]:
    return list(map(tuple, name_keys(clip_names(videos, side, paired)).tolist()))


def labels_in(sample: FeatureSample, labels: Mapping[Key, Hashable] | None) -> list[Hashable]:
    """Labels of the clips in a sample, in its order; without any, their keys."""
    keys = map(tuple, np.asarray(sample.keys)[: min(sample.size, int(sample.count))].tolist())
    return [labels[key] if labels else key for key in keys]


def units_of(
    real: FeatureSample,
    fake: FeatureSample,
    labels: Mapping[Side, Mapping[Key, Hashable]],
    grouped: bool,
) -> Units:
    """Units of two samples by their labels, see `compare`."""
    return find_units(
        labels_in(real, labels.get("real")), labels_in(fake, labels.get("fake")), grouped=grouped
    )


def find_standing(
    fake: Evaluated,
    videos: Sequence[Video],
    calculators: Sequence[Calculator],
    cache: Path,
    labels: Mapping[Side, Mapping[Key, Hashable]],
) -> tuple[Standing, ...]:
    """Finds where generated videos stand on the ruler of real ones.

    Args:
        fake: Statistics of the generated videos, with a sample of their own features.
        videos: Real videos.
        calculators: Calculators of the evaluation.
        cache: Folder that keeps rulers.
        labels: Labels of the videos by their keys. Generated clips with the label of a clip in the
            reference of the ruler come last, with a warning if they are needed. Those of one label
            are taken together, as the clips of the ruler are.

    Returns:
        One `Standing` per corruption; none if the cache keeps no ruler of these real videos, or,
        with a warning, if there are too few generated clips for it.
    """
    ladder = find_ruler(videos, calculator_of(fake.protocol, calculators), cache)
    if ladder is None or fake.sample is None:
        return ()
    known = set(labels_in(ladder.reference, labels["real"]))
    of_fake = labels_in(fake.sample, labels["fake"])
    order = sorted(whole_groups(of_fake).tolist(), key=lambda i: of_fake[i] in known)
    apart = sum(label not in known for label in of_fake)
    if apart < ladder.clips <= len(order):
        warn(
            f"ruler: {ladder.clips - apart} generated clips of {ladder.clips} have the names or "
            "groups of its real clips, to which they are too near if they are predictions of them"
        )
    try:
        return standing(ladder, fake.sample, np.array(order, int))
    except ValueError as error:
        warn(f"the ruler of the real videos was not used: {error}")
        return ()


def calculator_of(protocol: Protocol, calculators: Sequence[Calculator]) -> Calculator:
    """The calculator of one protocol alone."""
    return next(one for one in calculators if protocol in one.protocols).under([protocol])


def repeats(
    sides: Sequence[tuple[Evaluated | Kept, Evaluated | Kept]],
    calculators: Sequence[Calculator] = (),
    known: Iterable[str] = (),
) -> list[list[str]]:
    """Finds clips that repeat within a set or are in both sets, by the features in the samples.

    Args:
        sides: Both sides under each protocol.
        calculators: Calculators of the evaluation; none for two sides of statistics.
        known: Kinds of repetition that are reported already, fields of `overlap.Repeats`.

    Returns:
        Warning texts for each protocol. What one of them finds in whole clips is not repeated for
        the others.
    """
    seen = set(known)
    texts: list[list[str]] = [[] for _ in sides]
    outputs = [_output(*both, calculators) for both in sides]
    for i in sorted(range(len(sides)), key=lambda i: _looks_at_part(outputs[i])):
        real, fake = sides[i]
        if isinstance(real, Kept) and isinstance(fake, Kept) and _are_one_file(real, fake):
            texts[i] = [f"real and fake are one and the same file: {real.name}"]
            continue
        name = dict(real.statistics.source).get("output", "features")
        samples: dict[Side, Any] = {"real": real.sample, "fake": fake.sample}
        found = overlap.of_features(name, samples, outputs[i], seen)
        texts[i] = list(found.values())
        if not _looks_at_part(outputs[i]):
            seen |= found.keys()
    return texts


def _output(
    real: Evaluated | Kept, fake: Evaluated | Kept, calculators: Sequence[Calculator]
) -> Output | None:
    """The output whose features both sides have, or None if its network is not loaded."""
    for one in (real, fake):
        if isinstance(one, Evaluated):
            return calculator_of(one.protocol, calculators).outputs[0]
    return None


def _looks_at_part(output: Output | None) -> bool:
    return output is not None and output.looks_at != "all"


def _are_one_file(real: Kept, fake: Kept) -> bool:
    return bool(real.name and fake.name) and os.path.samefile(real.name, fake.name)


def _sample(one: Evaluated | Kept, side: Side) -> FeatureSample:
    if one.sample is None:
        raise ValueError(
            f"{side}: {one.name or 'the statistics'} holds no sample of clips, which a floor needs "
            "and `stats --sample` keeps"
        )
    return one.sample


def cautions(distance: str, real: State, fake: State) -> list[str]:
    """Finds reasons not to rely on a distance, one sentence each.

    They follow from the marks and the numbers of samples of the statistics that are used as those
    of real and of generated videos.
    """
    n, m, of = int(real.count), int(fake.count), DISTANCES[distance]
    texts = {
        "the real side is statistics of videos sampled as generated ones (stats --fake)": (
            ("side", "fake") in real.source
        ),
        "the generated side is statistics of videos sampled as real ones: make it again "
        "with stats --fake": ("side", "real") in fake.source,
        f"{n} real and {m} generated samples: a distance depends on their number": (
            n != m and of.kind != "estimate"
        ),
    }
    few = of.caution(min(n, m), real.dim)
    return [text for text, holds in texts.items() if holds] + ([few] if few else [])


def match_of_sides(match: str | Sequence[str] | None) -> dict[Side, str | None]:
    """The glob of each side, see `compute`."""
    globs = [match] * 2 if match is None or isinstance(match, str) else list(match)
    if len(globs) == 1:
        globs *= 2
    if len(globs) != 2:
        raise ValueError(f"match: got {len(globs)} globs, expected one, or one of each set")
    return {"real": globs[0], "fake": globs[1]}


def compare_storage(videos: Mapping[Side, Sequence[Video]], protocols: Sequence[Protocol]) -> None:
    """Warns if real and generated videos differ in how they were stored."""
    steps: dict[Side, int] = {"real": protocols[0].real.step, "fake": protocols[0].fake.step}
    if text := differences(videos, steps):
        warn(text)


def find_videos(
    source: Any, name: str, protocols: Sequence[Protocol], match: str | None = None
) -> list[Video]:
    """Finds the videos of one side in the order in which protocols take them.

    `source` is one of the forms that `compute` takes, `name` is its name in messages, and `match`
    is a glob that chooses files.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a protocol needs more videos, or the source has another form.
    """
    videos = as_videos(source, name, match)
    for protocol in protocols:
        if len(videos) < (protocol.clips or 1):
            where = source if isinstance(source, str | os.PathLike) else name
            raise ValueError(
                f"{where}: holds {len(videos)} videos, protocol {protocol.name!r} takes "
                f"{protocol.clips} clips; {protocol.name.split('+')[0]}+clips={len(videos)} takes "
                "fewer"
            )
    for clips in {protocol.clips: None for protocol in protocols if protocol.clips}:
        if left_out := _folders_left_out(videos, clips):
            warn(
                f"{name}: only the first {clips} of {len(videos)} videos are taken, which leaves "
                f"out {len(left_out)} folder{'s' * (len(left_out) > 1)}: "
                + ", ".join(left_out[:_FOLDERS_TOLD])
                + (", ..." if len(left_out) > _FOLDERS_TOLD else "")
            )
    strays = [stray for video in videos for stray in video.strays]
    if strays:
        warn(
            f"{name}: ignored {len(strays)} images that are not part of the sequences beside them: "
            + ", ".join(strays[:_STRAYS_TOLD])
            + (", ..." if len(strays) > _STRAYS_TOLD else "")
        )
    return videos


def _folders_left_out(videos: Sequence[Video], clips: int) -> list[str]:
    """Folders with none of the first videos, if folders hold several videos as classes do."""
    folders = [os.path.dirname(name) for name in local_names(videos)]
    unique = dict.fromkeys(folders)
    if 2 * len(unique) > len(folders):  # such as a folder of each video
        return []
    taken = set(folders[:clips])
    return [folder for folder in unique if folder not in taken]


def clips_to_read(videos: Sequence[Video], protocols: Sequence[Protocol]) -> int:
    """The number of videos that a pass reads if none is too short or damaged."""
    return min(len(videos), max(protocol.clips or len(videos) for protocol in protocols))


def is_statistics(source: Any) -> bool:
    """Whether a source of videos is the path of a file of statistics."""
    return isinstance(source, str | os.PathLike) and os.fspath(source).endswith(
        (STATISTICS_SUFFIX, cd_fvd.SUFFIX)
    )


def load_kept(path: str | os.PathLike[str]) -> Kept:
    """Reads a side of a comparison from a file of statistics."""
    name = os.fspath(path)
    sample = load_sample(path) if name.endswith(STATISTICS_SUFFIX) else None
    return Kept(load_statistics(path), name, sample)


def _kept(source: Any) -> Kept | None:
    if is_statistics(source):
        return load_kept(source)
    return Kept(source) if isinstance(source, State) else None


def _protocols(
    protocol: Protocol | str | Sequence[Protocol | str] | None, kept: Sequence[State]
) -> list[Protocol]:
    """Finds the requested protocols without duplicates, by default the protocol of the statistics.

    The list is empty if both sides are statistics that name no protocol.
    """
    if protocol is None:
        of_kept = [name for s in kept if (name := dict(s.source).get("protocol"))]
        if len(kept) == 2 and not of_kept:
            return []
        if kept and not of_kept:
            raise ValueError(
                "protocol: the statistics do not name theirs, so name the protocol of the videos"
            )
        protocol = of_kept[0] if of_kept else DEFAULT
    if not isinstance(protocol, str | Protocol | Sequence):
        raise ValueError(
            f"protocol: got {protocol!r}, expected a name, a Protocol or a list of them"
        )
    given = [protocol] if isinstance(protocol, str | Protocol) else list(protocol)
    if not given:
        raise ValueError("protocol: got an empty list")
    protocols = [find_protocol(one) if isinstance(one, str) else one for one in given]
    if kept and len(protocols) > 1:
        raise ValueError(f"protocol: got {len(protocols)} protocols, but statistics have only one")
    return protocols
