"""Labels of videos that depend on each other, from their names or from the user."""

import os
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from srvp_fd_jax.distances.sample import FeatureSample, name_keys
from srvp_fd_jax.files.inputs import warn
from srvp_fd_jax.protocols import Side
from srvp_fd_jax.significance.units import Units, find_units
from srvp_fd_jax.videos.sources import Video, clip_names, local_names

Groups = Callable[[str], Hashable] | Sequence[Any]
"""Label of the group of each video, see `evaluate.compute`."""

Key = tuple[int, int]
"""Key of a clip in a sample, see `distances.sample.name_keys`."""

KeyLabels = Mapping[Side, Mapping[Key, Hashable]]
"""Labels of the videos of both sets by the keys of their clips."""


def labels_of_videos(
    videos: Mapping[Side, Sequence[Video]], paired: bool = False, groups: Groups | None = None
) -> dict[Side, dict[Key, Hashable]]:
    """Labels of videos: those with equal ones depend on each other, also those of both sets.

    For the arguments see `evaluate.compute`.

    Raises:
        ValueError: If `paired` or `groups` do not fit the videos.
    """
    if (paired or groups is not None) and len(videos) < 2:
        name = "paired" if paired else "groups"
        raise ValueError(f"{name}: got statistics, which hold no names, expected videos")
    if paired and groups is not None:
        raise ValueError("paired: got groups too, of which the same label in both sets is a pair")
    if paired and len({len(of_side) for of_side in videos.values()}) > 1:
        found = " and ".join(f"{len(of_side)} {side}" for side, of_side in videos.items())
        raise ValueError(f"paired: got {found} videos, expected as many of both")
    labels = {}
    for side, of_side in videos.items():
        keys = keys_of(of_side, side, paired)
        given = keys if groups is None else group_labels(of_side, side, groups)
        labels[side] = dict(zip(keys, given, strict=True))
    return labels


def keys_of(videos: Sequence[Video], side: Side, paired: bool = False) -> list[Any]:
    """Keys of the videos' clips in a sample."""
    return list(map(tuple, name_keys(clip_names(videos, side, paired)).tolist()))


def group_labels(videos: Sequence[Video], side: Side, groups: Groups) -> list[Hashable]:
    """Labels of the groups of the videos of one set, see `evaluate.compute`.

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


def labels_in(sample: FeatureSample, labels: Mapping[Key, Hashable] | None) -> list[Hashable]:
    """Labels of the clips in a sample, in its order; without any, their keys."""
    keys = map(tuple, np.asarray(sample.keys)[: min(sample.size, int(sample.count))].tolist())
    return [labels[key] if labels else key for key in keys]


def units_of(real: FeatureSample, fake: FeatureSample, labels: KeyLabels, grouped: bool) -> Units:
    """Units of two samples by the labels of their clips; `grouped` if these are of groups."""
    return find_units(
        labels_in(real, labels.get("real")), labels_in(fake, labels.get("fake")), grouped=grouped
    )
