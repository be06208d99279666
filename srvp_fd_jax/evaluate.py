"""The jobs: distances of two sets of videos, their statistics, a report and a severity scale."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import jax
import numpy as np

from srvp_fd_jax import overlap
from srvp_fd_jax.distances import DISTANCES, cd_fvd, load_statistics
from srvp_fd_jax.distances.base import check_counts, range_cautions
from srvp_fd_jax.distances.provenance import check_comparable, mark
from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.features.calculator import Calculator
from srvp_fd_jax.features.shards import load_calculators, statistics_of_videos
from srvp_fd_jax.files.inputs import warn
from srvp_fd_jax.networks.base import Output
from srvp_fd_jax.networks.kernels.convolution import Precision
from srvp_fd_jax.networks.registry import NETWORKS
from srvp_fd_jax.protocols import Protocol, Side, find_protocol
from srvp_fd_jax.reports import page, plots
from srvp_fd_jax.reports.findings import Findings, find
from srvp_fd_jax.result import Result, find_warnings
from srvp_fd_jax.significance import severity as ladder
from srvp_fd_jax.significance.draws import Measure
from srvp_fd_jax.significance.labels import (
    Groups,
    KeyLabels,
    check_names,
    group_labels,
    labels_of_videos,
    units_of,
)
from srvp_fd_jax.significance.null_distribution import floor_of_samples, sample_of
from srvp_fd_jax.videos.properties import differences
from srvp_fd_jax.videos.sources import Video, as_videos, folders_left_out

DEFAULT = "fvd2048_16f"
"""Name of the default protocol."""

STATISTICS_SUFFIX = ".safetensors"

_STRAYS_SHOWN = 20
_FOLDERS_SHOWN = 5
SCALE_CLIPS = 128
"""Default of the largest number of clips of a severity scale."""


Protocols = Protocol | str | Sequence[Protocol | str] | None
"""A protocol, its name, or several of them; None for the default, see `compute`."""

OnProgress = Callable[[Side, int, int], None]
"""Type of `on_progress`, see `compute`."""

OnSet = Callable[[Side, str, Mapping[Protocol, FeatureStatistics]], None]
"""Type of `on_set`, see `compute`."""


@overload
def compute(
    real: Any,
    fake: Any,
    protocol: Protocol | str | None = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    precision: Precision = "float32",
    strict: bool = False,
    cache: Path | None = None,
    significance: bool = False,
    match: str | Sequence[str] | None = None,
    paired: bool = False,
    groups: Groups | None = None,
    on_progress: OnProgress | None = None,
    on_set: OnSet | None = None,
) -> Result: ...


@overload
def compute(
    real: Any,
    fake: Any,
    protocol: Sequence[Protocol | str],
    *,
    weights: str | os.PathLike[str] | None = None,
    precision: Precision = "float32",
    strict: bool = False,
    cache: Path | None = None,
    significance: bool = False,
    match: str | Sequence[str] | None = None,
    paired: bool = False,
    groups: Groups | None = None,
    on_progress: OnProgress | None = None,
    on_set: OnSet | None = None,
) -> list[Result]: ...


def compute(
    real: Any,
    fake: Any,
    protocol: Protocols = None,
    *,
    weights: str | os.PathLike[str] | None = None,
    precision: Precision = "float32",
    strict: bool = False,
    cache: Path | None = None,
    significance: bool = False,
    match: str | Sequence[str] | None = None,
    paired: bool = False,
    groups: Groups | None = None,
    on_progress: OnProgress | None = None,
    on_set: OnSet | None = None,
) -> Result | list[Result]:
    """Computes the distance of two sets of videos under one protocol, or several at once.

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
        precision: Precision of the convolutions, see `load_network`.
        strict: Whether a video that cannot be read raises an error. By default such videos are
            counted and skipped.
        cache: Folder of statistics of videos in files, and of severity scales, for later calls with
            the same videos, protocol and weights. An interrupted call goes on where it stopped, and
            the processes of `jax.distributed` divide the work. None for no cache.
        significance: Whether to compute the null distribution of the distance with these clips, and
            a p-value, see `significance.null_distribution`. Of more than 2048 clips in a set, a
            random sample is used. Videos of one name below their folders, whatever the suffix, are
            a pair, such as a video and its prediction.
        match: Glob that chooses the files whose names, or paths below a folder or archive, match
            it; or a pair of globs, for real and for generated videos.
        paired: Whether the videos of both sets with the same index are pairs, as in arrays of
            videos and of their predictions. Their number must be the same.
        groups: Label of the group of each video, if videos depend on each other, such as clips of
            one recording: a function of the name of a video below its folder, or two sequences of
            labels, for the real and the generated videos. A label in both sets is one group.
        on_progress: Called from time to time with the set, "real" or "fake", the number of its
            videos that are done, and the number of all its videos.
        on_set: Called when the videos of a set are done, with the set, its path and its statistics
            under each protocol.

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
    if (paired or groups is not None) and not significance:
        name = "paired" if paired else "groups"
        raise ValueError(f"{name}: only the test of significance uses it, see significance=True")
    sets = _find_sets(real, fake, protocol, weights, precision, match, paired, groups)
    for side, one in sets.given.items():
        if significance:
            sample_of(one, side)
    if significance and not paired and groups is None:
        check_names(sets.videos)
    made = [_statistics_of_set(sets, side, cache, strict, on_progress, on_set) for side in _SIDES]
    results = []
    for found, (of_real, of_fake), repeated in _pairs(sets, made):
        distance = found.distance if found else "frechet"
        result = _compared(of_real, of_fake, sets.names, found, distance, repeated)
        result = dataclasses.replace(result, warnings=(*sets.repeated.values(), *result.warnings))
        if significance:
            samples = sample_of(of_real, "real"), sample_of(of_fake, "fake")
            units = units_of(*samples, sets.labels, sets.grouped)
            test = floor_of_samples(of_real, of_fake, Measure(distance, of_real.ddof), units)
            result = dataclasses.replace(result, significance=test)
        if cache and found and len(sets.videos) == 2:
            result = dataclasses.replace(result, severity=_equivalent(sets, found, of_fake, cache))
        results.append(result)
    several = not isinstance(protocol, str | Protocol | None)
    return results if several else results[0]


def compare(
    real: FeatureStatistics | str | os.PathLike[str],
    fake: FeatureStatistics | str | os.PathLike[str],
    *,
    distance: str | None = None,
    significance: bool = False,
) -> Result:
    """Computes the distance between the statistics of two sets.

    Args:
        real: Statistics of the real videos, or the path of their file.
        fake: Statistics of the generated videos.
        distance: Name of the distance, one of `DISTANCES`; by default "frechet".
        significance: Whether to compute the null distribution and a p-value, see `compute`.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If the statistics are not comparable, hold too few samples or no sample of
            clips, or are not finite.

    Example:
        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> features = np.random.default_rng(0).normal(size=(50, 4))
        >>> make = srvp_fd_jax.FeatureStatistics.from_features
        >>> round(float(srvp_fd_jax.compare(make(features), make(features + 3))), 3)
        36.0
    """
    of_real, of_fake = _given(real), _given(fake)
    if of_real is None or of_fake is None:
        name = "real" if of_real is None else "fake"
        raise ValueError(f"{name}: got videos, expected statistics or the path of their file")
    names, measure = (_path(real), _path(fake)), Measure(distance or "frechet", of_real.ddof)
    repeated = _same_file(names) or overlap.of_statistics([(of_real, of_fake)], [None])[0]
    result = _compared(of_real, of_fake, names, None, measure.distance, repeated)
    if not significance:
        return result
    units = units_of(sample_of(of_real, "real"), sample_of(of_fake, "fake"), {}, grouped=False)
    test = floor_of_samples(of_real, of_fake, measure, units)
    return dataclasses.replace(result, significance=test)


def statistics(
    data: Any,
    protocol: Protocols = None,
    *,
    side: Side = "real",
    weights: str | os.PathLike[str] | None = None,
    precision: Precision = "float32",
    strict: bool = False,
    cache: Path | None = None,
    match: str | None = None,
    on_progress: OnProgress | None = None,
) -> FeatureStatistics | list[FeatureStatistics]:
    """Computes the statistics of a set of videos, with a random sample of at most 2048 clips.

    Args:
        data: Videos in any of the forms that `compute` takes, but statistics.
        protocol: As in `compute`.
        side: Whether the videos are sampled as "real" or as "fake" (generated) ones.
        weights: As in `compute`.
        precision: As in `compute`.
        strict: As in `compute`.
        cache: As in `compute`.
        match: Glob that chooses the files.
        on_progress: As in `compute`.

    Returns:
        The statistics, or a list in the order of the protocols if these are a list.

    Raises:
        FileNotFoundError: If a path does not exist, or no weights are found.
        ValueError: If there are too few videos, or if another argument is not valid.

    Example:
        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> from srvp_fd_jax.demo.moving_digits import moving_digits
        >>> clips = moving_digits(np.random.default_rng(0), n=30, length=6)
        >>> real = srvp_fd_jax.statistics(clips, "srvp:digits:dynamics")
        >>> int(real.count), real.videos.used, real.sample.size
        (30, 30, 2048)
    """
    if _given(data) is not None:
        raise ValueError("data: got statistics, expected videos")
    protocols = _protocols(protocol, [])
    videos = {side: _find_videos(data, side, protocols, match)}
    calculators = load_calculators(protocols, weights, precision)
    names = (_path(data),) * 2
    sets = _Sets(tuple(protocols), calculators, videos, {}, names, {}, False, False, {})
    made = _statistics_of_set(sets, side, cache, strict, on_progress, None)
    for one in made.values():
        for text in range_cautions(side, one):
            warn(text)
    found = [made[one] for one in protocols]
    return found[0] if isinstance(protocol, str | Protocol | None) else found


def report(
    real: Any,
    fake: Any,
    protocol: Protocols,
    output: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    precision: Precision = "float32",
    strict: bool = False,
    cache: Path | None = None,
    match: str | Sequence[str] | None = None,
    paired: bool = False,
    groups: Groups | None = None,
    on_progress: OnProgress | None = None,
    on_set: OnSet | None = None,
) -> list[Findings]:
    """Writes a page with the distance, its reliability and some of the clips.

    Args:
        real: Real videos in any of the forms that `compute` takes, but statistics.
        fake: Generated videos.
        protocol: As in `compute`; None for the default.
        output: HTML file to write, with the suffix .html, or a folder for images.
        weights: As in `compute`.
        precision: As in `compute`.
        strict: As in `compute`.
        cache: As in `compute`.
        match: As in `compute`.
        paired: As in `compute`.
        groups: As in `compute`.
        on_progress: As in `compute`.
        on_set: As in `compute`.

    Returns:
        The findings under each protocol.

    Raises:
        FileNotFoundError: If a path does not exist, or no weights are found.
        OSError: If the page cannot be written.
        ValueError: If a set has fewer than four clips, or if an argument is not valid.

    Example:
        Doctests skip this, as the tests of the command write such pages.

        >>> import srvp_fd_jax
        >>> (found,) = srvp_fd_jax.report(
        ...     "real/", "generated/", ["fvd2048_16f"], "report.html"
        ... )  # doctest: +SKIP
        >>> found.verdict()  # doctest: +SKIP
        'Not distinguishable from real with these 2048 real and 2048 generated clips (p = 0.2).'
    """
    for side, given in (("real", real), ("fake", fake)):
        if _given(given) is not None:
            raise ValueError(f"{side}: got statistics, a report needs the videos")
    page.check_output(os.fspath(output))
    plots.check_extra()
    sets = _find_sets(real, fake, protocol, weights, precision, match, paired, groups)
    if not paired and groups is None:
        check_names(sets.videos)
    made = [
        _statistics_of_set(sets, side, cache, strict, on_progress, on_set, along=True)
        for side in _SIDES
    ]
    findings = []
    for name, both, repeated in _pairs(sets, made):
        assert name is not None
        calculator = calculator_of(name, sets.calculators)
        found = find(
            *both,
            name,
            sets.names,
            sets.videos,
            calculator,
            sets.labels,
            sets.grouped,
            sets.paired,
        )
        texts = [*repeated, *find_warnings(name.distance, *both, _called(sets.names))]
        for text in texts:
            warn(text)
        equivalent = _equivalent(sets, name, found.fake, cache) if cache else ()
        texts = [*sets.repeated.values(), *texts]
        findings.append(found._replace(warnings=tuple(texts), severity=equivalent))
    if jax.process_index() == 0:
        try:
            page.write(os.fspath(output), findings, *sets.names)
        except OSError:  # the distances took the time
            for one in findings:
                warn(f"{one.protocol.name}: the distance is {one.distance:.6g}")
            raise
    return findings


def severity(
    real: Any,
    protocol: Protocols = None,
    *,
    size: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    precision: Precision = "float32",
    cache: Path | None = None,
    match: str | None = None,
    groups: Groups | None = None,
    on_progress: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> ladder.Ladder | list[ladder.Ladder]:
    """Measures the distances of graded corruptions of real videos, by which others are read.

    Args:
        real: Real videos in any of the forms that `compute` takes, but statistics.
        protocol: As in `compute`.
        size: Number of clips that are compared with as many others, and smallest number of
            generated videos that can be read on the scale; by default 45 % of the videos, at most
            128.
        weights: As in `compute`.
        precision: As in `compute`.
        cache: Folder in which `compute` and `report` find the scale, if the videos are in files.
        match: Glob that chooses the files.
        groups: As in `compute`.
        on_progress: Called with the name of a protocol, the number of sets of clips that are
            encoded, and the number of all sets.

    Returns:
        The severity scale, or a list in the order of the protocols if these are a list.

    Raises:
        FileNotFoundError: If a path does not exist, or no weights are found.
        ValueError: If there are too few videos, or if another argument is not valid.

    Example:
        Doctests skip this, as the tests of the command make such scales.

        >>> import srvp_fd_jax
        >>> scale = srvp_fd_jax.severity("real/", "fvd2048_16f")  # doctest: +SKIP
        >>> scale.clips  # doctest: +SKIP
        128
    """
    protocols = _protocols(protocol, [])
    videos = _find_videos(real, "real", protocols, match)
    # Some videos may be too short or damaged.
    clips = size or max(ladder.LEAST_CLIPS, min(int(0.45 * len(videos)), SCALE_CLIPS))
    labels = None if groups is None else group_labels(videos, "real", groups)
    calculators = load_calculators(protocols, weights, precision)
    made = []
    for one in protocols:
        calculator = calculator_of(one, calculators)
        show = functools.partial(on_progress, one.name)
        scale = ladder.build(videos, calculator, clips, groups=labels, on_progress=show)
        path = ladder.kept_at(videos, calculator, cache) if cache else None
        if path and jax.process_index() == 0:
            ladder.save(scale, path)
        made.append(scale)
    return made[0] if isinstance(protocol, str | Protocol | None) else made


_SIDES: tuple[Side, Side] = ("real", "fake")


class _Sets(NamedTuple):
    """Two sets, each of which is given by videos or by statistics.

    Attributes:
        protocols: Protocols without duplicates; None alone if statistics name no protocol.
        calculators: Calculators of the protocols; none without videos.
        videos: Videos of the sets that are given by videos.
        given: Statistics of the other sets.
        names: Paths of the real and of the generated videos; empty if they are not at one path.
        labels: Labels of the videos, see `labels_of_videos`.
        paired: Whether videos are pairs by their indices.
        grouped: Whether the labels are those of groups.
        repeated: Warnings about videos that repeat, see `overlap.of_files`.
    """

    protocols: tuple[Protocol | None, ...]
    calculators: Sequence[Calculator]
    videos: Mapping[Side, Sequence[Video]]
    given: Mapping[Side, FeatureStatistics]
    names: tuple[str, str]
    labels: KeyLabels
    paired: bool
    grouped: bool
    repeated: Mapping[str, str]


def _find_sets(
    real: Any,
    fake: Any,
    protocol: Protocols,
    weights: str | os.PathLike[str] | None,
    precision: Precision,
    match: str | Sequence[str] | None,
    paired: bool,
    groups: Groups | None,
) -> _Sets:
    """Finds both sets and checks them before any video is read."""
    sources: dict[Side, Any] = {"real": real, "fake": fake}
    given = {side: one for side, of in sources.items() if (one := _given(of)) is not None}
    protocols = _protocols(protocol, list(given.values()))
    if len(given) == 2 and weights is not None:
        raise ValueError(f"weights: got {weights}, but both sets are statistics")
    globs = _globs(match)
    videos = {
        side: _find_videos(of, side, protocols, globs[side])
        for side, of in sources.items()
        if side not in given
    }
    if len(videos) == 2:
        steps: dict[Side, int] = {side: protocols[0].sampling(side).step for side in _SIDES}
        if text := differences(videos, steps):
            warn(text)
    labels = labels_of_videos(videos, paired, groups)
    calculators = load_calculators(protocols, weights, precision) if videos else []
    for side, one in given.items():
        if protocols:
            marked = mark(one, **protocols[0].marks())  # adds the marks of the protocol
            check_comparable(one, calculators[0].nothing()[0] if calculators else marked)
            given[side] = marked
    names = _path(real), _path(fake)
    same = _same_file(names) if len(given) == 2 else []
    repeated = {"shared": same[0]} if same else overlap.of_files(videos)
    for text in repeated.values():
        warn(text)
    return _Sets(
        protocols=tuple(protocols) or (None,),
        calculators=calculators,
        videos=videos,
        given=given,
        names=names,
        labels=labels,
        paired=paired,
        grouped=groups is not None,
        repeated=repeated,
    )


def _statistics_of_set(
    sets: _Sets,
    side: Side,
    cache: Path | None,
    strict: bool,
    on_progress: OnProgress | None,
    on_set: OnSet | None,
    along: bool = False,
) -> dict[Any, FeatureStatistics]:
    """Statistics of one set under each protocol."""
    if side in sets.given:
        return dict.fromkeys(sets.protocols, sets.given[side])
    videos = sets.videos[side]
    protocols = [one for one in sets.protocols if one is not None]
    total = min(len(videos), max(one.clips or len(videos) for one in protocols))
    show: Callable[[int], None] = lambda position: None  # noqa: E731
    if on_progress:
        show = lambda position: on_progress(side, min(position, total), total)  # noqa: E731
    show(0)
    published = all(NETWORKS[one.network].published for one in protocols)
    made = statistics_of_videos(
        videos,
        sets.calculators,
        side,
        folder=cache if published and all(video.files for video in videos) else None,
        along=along,
        paired=sets.paired,
        strict=strict,
        on_progress=show,
    )
    show(total)
    if on_set:
        on_set(side, sets.names[side == "fake"], made)
    return made


def _pairs(
    sets: _Sets, made: Sequence[Mapping[Any, FeatureStatistics]]
) -> list[tuple[Protocol | None, tuple[FeatureStatistics, FeatureStatistics], list[str]]]:
    """Both statistics under each protocol, and new warning texts about clips that repeat."""
    both = [(made[0][one], made[1][one]) for one in sets.protocols]
    outputs: list[Output | None] = [
        calculator_of(one, sets.calculators).outputs[0] if one and sets.calculators else None
        for one in sets.protocols
    ]
    texts = overlap.of_statistics(both, outputs, sets.repeated)
    return list(zip(sets.protocols, both, texts, strict=True))


def _compared(
    real: FeatureStatistics,
    fake: FeatureStatistics,
    names: tuple[str, str],
    protocol: Protocol | None,
    distance: str,
    repeated: Sequence[str],
) -> Result:
    """The distance between two statistics, whose warnings are given, too.

    Raises:
        ValueError: If the statistics are not comparable, hold too few samples or are not finite.
    """
    check_comparable(real, fake)
    called = _called(names)
    both = dict(zip(called, (real, fake), strict=True))
    check_counts(DISTANCES[distance], {name: one.count for name, one in both.items()})
    found = find_warnings(distance, real, fake, called)
    for text in [*found, *repeated]:
        warn(text)
    number = float(DISTANCES[distance].between(both))
    if not np.isfinite(number):
        raise ValueError(f"distance: got {number} for {called[0]}, which is not finite")
    texts = tuple(dict.fromkeys([*repeated, *found]))
    return Result(number, protocol, real, fake, names, texts, measure=distance)


def _called(names: tuple[str, str]) -> tuple[str, str]:
    """What messages call two sets."""
    called = names[0] or "real", names[1] or "fake"
    return called if called[0] != called[1] else ("real", "fake")


def _equivalent(
    sets: _Sets, protocol: Protocol, fake: FeatureStatistics, cache: Path
) -> tuple[ladder.Standing, ...]:
    calculator = calculator_of(protocol, sets.calculators)
    return ladder.equivalent(fake, sets.videos["real"], calculator, cache, sets.labels)


def calculator_of(protocol: Protocol, calculators: Sequence[Calculator]) -> Calculator:
    """The calculator of one protocol alone."""
    return next(one for one in calculators if protocol in one.protocols).under([protocol])


def _globs(match: str | Sequence[str] | None) -> dict[Side, str | None]:
    """The glob of each set, see `compute`."""
    globs = [match] * 2 if match is None or isinstance(match, str) else list(match)
    if len(globs) == 1:
        globs *= 2
    if len(globs) != 2:
        raise ValueError(f"match: got {len(globs)} globs, expected one, or one of each set")
    return {"real": globs[0], "fake": globs[1]}


def _find_videos(
    source: Any, name: str, protocols: Sequence[Protocol], match: str | None = None
) -> list[Video]:
    """Finds the videos of one set in the order in which protocols take them.

    `source` is one of the forms that `compute` takes, `name` is its name in messages, and `match`
    is a glob that chooses files.

    Raises:
        FileNotFoundError: If a path does not exist.
        ValueError: If a protocol needs more videos, or the source has another form.
    """
    videos = as_videos(source, name, match)
    for protocol in protocols:
        if len(videos) < (protocol.clips or 1):
            raise ValueError(
                f"{_path(source) or name}: holds {len(videos)} videos, protocol {protocol.name!r} "
                f"takes {protocol.clips} clips; "
                f"{protocol.name.split('+')[0]}+clips={len(videos)} takes fewer"
            )
    for clips in {protocol.clips: None for protocol in protocols if protocol.clips}:
        if left_out := folders_left_out(videos, clips):
            warn(
                f"{name}: only the first {clips} of {len(videos)} videos are taken, which leaves "
                f"out {len(left_out)} folder{'s' * (len(left_out) > 1)}: "
                + _some(left_out, _FOLDERS_SHOWN)
            )
    if strays := [stray for video in videos for stray in video.strays]:
        warn(
            f"{name}: ignored {len(strays)} images that are not part of the sequences beside them: "
            + _some(strays, _STRAYS_SHOWN)
        )
    return videos


def _some(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _path(source: Any) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else ""


def _given(source: Any) -> FeatureStatistics | None:
    """Statistics that a set is given by; None if it is given by videos."""
    if isinstance(source, FeatureStatistics):
        return source
    return load_statistics(source) if is_statistics(source) else None


def is_statistics(source: Any) -> bool:
    """Whether a set is given by the path of a file of statistics."""
    return _path(source).endswith((STATISTICS_SUFFIX, cd_fvd.SUFFIX))


def _same_file(names: tuple[str, str]) -> list[str]:
    if all(names) and os.path.samefile(*names):
        return [f"real and fake are one and the same file: {names[0]}"]
    return []


def _protocols(protocol: Protocols, given: Sequence[FeatureStatistics]) -> list[Protocol]:
    """Finds the requested protocols without duplicates, by default the protocol of the statistics.

    The list is empty if both sets are statistics that name no protocol.
    """
    if protocol is None:
        named = [name for s in given if (name := dict(s.source).get("protocol"))]
        if len(given) == 2 and not named:
            return []
        if given and not named:
            raise ValueError(
                "protocol: the statistics do not name theirs, so name the protocol of the videos"
            )
        protocol = named[0] if named else DEFAULT
    if not isinstance(protocol, str | Protocol | Sequence):
        raise ValueError(
            f"protocol: got {protocol!r}, expected a name, a Protocol or a list of them"
        )
    asked = [protocol] if isinstance(protocol, str | Protocol) else list(protocol)
    if not asked:
        raise ValueError("protocol: got an empty list")
    protocols = [find_protocol(one) if isinstance(one, str) else one for one in asked]
    if given and len(protocols) > 1:
        raise ValueError(f"protocol: got {len(protocols)} protocols, but statistics have only one")
    return protocols
