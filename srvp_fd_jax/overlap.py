"""Finds clips that repeat within a set or are in both sets, which make a distance too small.

Videos are compared as files before they are read, and clips by their features afterwards. Clips
with equal features are the same clip as far as the output sees them.
"""

import contextlib
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Shaped

from srvp_fd_jax.devices import AnyArray, is_tracing, on_host, values
from srvp_fd_jax.distances.sample import FeatureSample
from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.networks.base import Output
from srvp_fd_jax.protocols import Side
from srvp_fd_jax.videos.sources import Video

_ROUNDING = 1e-5
"""Largest difference of equal features, relative to their typical distance from the mean."""

_SHARE = 0.01
"""Share of clips with equal features from which they are reported: a blank clip may repeat."""

_SMALL_FILE = 1 << 20
_CHUNK = 1 << 12

_ADJECTIVES: dict[Side, str] = {"real": "real", "fake": "generated"}


class Repeats(NamedTuple):
    """Indices of the clips that are not the only ones of their kind.

    Attributes:
        real: Real clips that are equal to other real ones.
        fake: Generated clips that are equal to other generated ones.
        shared: Generated clips that are equal to real ones.
    """

    real: list[int]
    fake: list[int]
    shared: list[int]


def repeats(labels: Mapping[Side, Sequence[Hashable]]) -> Repeats:
    """Finds repeats among clips, of which equal ones have equal labels."""
    within = {}
    for side in _ADJECTIVES:
        counts = Counter(labels[side])
        within[side] = [i for i, label in enumerate(labels[side]) if counts[label] > 1]
    real = set(labels["real"])
    return Repeats(**within, shared=[i for i, label in enumerate(labels["fake"]) if label in real])


def of_files(videos: Mapping[Side, Sequence[Video]]) -> dict[str, str]:
    """Compares videos as files: the same file counts, and small files with the same content.

    Returns:
        Warning texts under the names of fields of `Repeats`.
    """
    both: dict[Side, Sequence[Video]] = {side: videos.get(side, ()) for side in _ADJECTIVES}
    labels = iter(_file_labels([video for side in both for video in both[side]]))
    found = repeats({side: [next(labels) for _ in both[side]] for side in both})
    texts = {}
    if found.shared:
        count, name = _of(found.shared, both["fake"]), both["fake"][found.shared[0]].name
        texts["shared"] = f"{count} generated videos are real ones too, such as {name}: {_SHARED}"
    for side, adjective in _ADJECTIVES.items():
        if places := getattr(found, side):
            count, name = _of(places, both[side]), both[side][places[0]].name
            text = f"{count} {adjective} videos are the same as another one of them, such as {name}"
            texts[side] = f"{text}: {_WITHIN}"
    return texts


_SHARED = "the sets overlap, and look more alike than they are"
_WITHIN = "clips are taken to be independent of each other"


def of_features(
    name: str,
    samples: Mapping[Side, FeatureSample | None],
    output: Output | None = None,
    known: Collection[str] = (),
) -> dict[str, str]:
    """Compares the clips in two samples by their features.

    Args:
        name: Name of the output.
        samples: Samples of both sets, with the features of the clips or those at all places along
            them, see `Output.places`.
        output: Output of the network, if it is known.
        known: Fields of `Repeats` that are reported already.

    Returns:
        Warning texts under the names of fields of `Repeats`.
    """
    features = {}
    for side, sample in samples.items():
        if sample is None:
            return {}
        moments = sample.moments()
        moments = output.of_clip(moments) if output else moments
        features[side] = np.asarray(values(moments["features"]))
    shapes = {f.shape[1:] for f in features.values()}
    if len(shapes) > 1:
        return {}
    labels = iter(_feature_labels(np.concatenate(list(features.values()))))
    of_sides: dict[Side, list[int]] = {
        side: [next(labels) for _ in f] for side, f in features.items()
    }
    part = output is not None and output.looks_at != "all"
    texts = {}
    for kind, places in repeats(of_sides)._asdict().items():
        of: Side = "real" if kind == "real" else "fake"
        if kind in known or not places or len(places) < _SHARE * len(of_sides[of]):
            continue
        count = f"{_of(places, of_sides[of])} {_ADJECTIVES[of]} clips"
        other = "a real clip" if kind == "shared" else "another one of them"
        if part and output:
            text = f"{_seen(name, output)}, which {count} have in common with {other}"
        elif output:
            text = f"{count} are equal to {other}"
        else:
            text = f"{count} have the same features ({name}) as {other}"
        texts[kind] = f"{text}: {_reason(kind, output)}"
    return texts


def of_statistics(
    sets: Sequence[tuple[FeatureStatistics, FeatureStatistics]],
    outputs: Sequence[Output | None],
    known: Collection[str] = (),
) -> list[list[str]]:
    """Compares the clips of two sets by their features, under each of several protocols.

    Args:
        sets: Statistics of both sets under each protocol.
        outputs: The outputs whose features they have, None if not known.
        known: Fields of `Repeats` that are reported already.

    Returns:
        Warning texts for each protocol. What one of them finds in whole clips is not repeated for
        the others.
    """
    seen = set(known)
    texts: list[list[str]] = [[] for _ in sets]
    parts = [output is not None and output.looks_at != "all" for output in outputs]
    for i in sorted(range(len(sets)), key=lambda i: parts[i]):
        real, fake = sets[i]
        name = dict(real.source).get("output", "features")
        samples: dict[Side, Any] = {"real": real.sample, "fake": fake.sample}
        found = of_features(name, samples, outputs[i], seen)
        texts[i] = list(found.values())
        if not parts[i]:
            seen |= found.keys()
    return texts


def of_arrays(
    name: str,
    output: Output,
    x: Shaped[AnyArray, "n t h w c"],
    y: Shaped[AnyArray, "m t h w c"],
) -> str | None:
    """Warning text if x and y differ only in frames that an output does not look at, pair by pair.

    The values of arrays that are traced or lie on several devices are not compared.
    """
    if output.looks_at == "all" or x is y or x.dtype != y.dtype or x.shape[1:] != y.shape[1:]:
        return None
    if any(isinstance(a, jax.Array) and not _is_readable(a) for a in (x, y)) or is_tracing():
        return None
    n, length = min(len(x), len(y)), x.shape[1]
    first = 0 if output.looks_at == "first" else length - output.frames
    for clips in (1, n):  # most sets differ in the first pair
        a, b = (_part(array, clips, first, first + output.frames) for array in (x, y))
        if not np.array_equal(a, b):
            return None
    if np.array_equal(_part(x, n, 0, length), _part(y, n, 0, length)):
        return None
    return f"{_seen(name, output)}, which are equal in x and y: {_reason('shared', output)}"


def _of(places: Sequence[int], clips: Sequence[object]) -> str:
    return f"{len(places)} of {len(clips)}"


def _seen(name: str, output: Output) -> str:
    frames = "frame" if output.frames == 1 else f"{output.frames} frames"
    return f"{name} looks at the {output.looks_at} {frames} of a clip"


def _reason(kind: str, output: Output | None) -> str:
    if kind != "shared":
        return _WITHIN
    if output is not None and output.looks_at == "first":
        return "a protocol with +skip=N leaves out the N frames that predictions were given"
    return _SHARED


def _feature_labels(features: Float[np.ndarray, "n v d"]) -> list[int]:
    """Labels of clips, equal for those whose features are equal up to rounding.

    Equal clips are neighbours in the order of a random projection.
    """
    rows = features.reshape(len(features), -1)
    direction = np.random.default_rng(0).normal(size=rows.shape[1])
    direction /= np.linalg.norm(direction)
    places = np.array([row.astype(np.float64) @ direction for row in rows])
    centre = rows.mean(axis=0, dtype=np.float64)
    spread, size = (
        np.sqrt(np.mean([np.sum((r.astype(np.float64) - c) ** 2) for r in rows]))
        for c in (centre, 0)
    )
    tolerance = max(_ROUNDING * spread, 16 * np.finfo(np.float32).eps * size)
    order = np.argsort(places).tolist()
    labels = list(range(len(rows)))
    for i, one in enumerate(order):
        for other in order[i + 1 : i + 9]:
            if places[other] - places[one] > tolerance:
                break
            if np.linalg.norm(rows[one] - rows[other]) <= tolerance:
                labels[other] = labels[one]
                break
    return labels


def _file_labels(videos: Sequence[Video]) -> list[Hashable]:
    """Labels of videos, equal for the same files and for small files with the same content."""
    states = {path: _state(path) for path in {file.path for v in videos for file in v.files}}
    labels: list[Hashable] = [
        (video.row, *((states[file.path][0], file.member) for file in video.files))
        if video.files
        else number
        for number, video in enumerate(videos)
    ]
    small = {
        label: video
        for label, video in zip(labels, videos, strict=True)
        if video.files and all(f.member is None and states[f.path][1] for f in video.files)
    }
    content: dict[Hashable, tuple[Hashable, ...]] = {label: (v.row,) for label, v in small.items()}
    # Of the files of one size most differ in the middle, so few are read as a whole.
    parts: list[Callable[[str], Hashable]] = [lambda path: states[path][1], _middle, _sha256]
    for part in parts:
        for label in content:
            content[label] += tuple(part(file.path) for file in small[label].files)
        counts = Counter(content.values())
        content = {label: key for label, key in content.items() if counts[key] > 1}
    return [content.get(label, label) for label in labels]


def _state(path: str) -> tuple[Hashable, int]:
    """The identity of a file, and its size if it is small, else 0."""
    try:
        state = os.stat(path)
    except OSError:  # reading the video raises the error
        return path, 0
    is_small = stat.S_ISREG(state.st_mode) and state.st_size <= _SMALL_FILE
    return (state.st_dev, state.st_ino), state.st_size if is_small else 0


def _middle(path: str) -> bytes:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        file.seek(os.path.getsize(path) // 2)
        return file.read(_CHUNK)
    return path.encode()


def _sha256(path: str) -> bytes:
    with contextlib.suppress(OSError):
        return hashlib.sha256(Path(path).read_bytes()).digest()
    return path.encode()


def _is_readable(array: jax.Array) -> bool:
    return not isinstance(array, jax.core.Tracer) and len(array.devices()) == 1


def _part(
    clips: Shaped[AnyArray, "n t h w c"], n: int, start: int, end: int
) -> Shaped[np.ndarray, "k s h w c"]:
    if isinstance(clips, jax.Array) and not on_host(clips):  # only the part leaves the device
        clips = jax.lax.slice(clips, (0, start, 0, 0, 0), (n, end, *clips.shape[2:]))
        start, end = 0, end - start
    return np.asarray(values(clips))[:n, start:end]
