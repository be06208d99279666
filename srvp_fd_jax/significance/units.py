"""What is exchangeable: videos, pairs of videos, or groups of videos.

A permutation test is right only for units whose exchange leaves the joint distribution of all
features as it is, if real and generated videos have one distribution. Every video has a label.
The videos of one label in one set are a *part*, which always moves as a whole.

- A label in both sets, such as the name of a real video and of its prediction, or one person: its
  two parts may change places. That is right for independent parts too.
- A label in one set only: its part may take the place of any other such part of its size.

Parts change places with parts of their size only, so that every permutation has the sizes of the
sets. Where sizes differ, the larger parts lose videos: parts of one label are cut to the smaller of
both, and the parts of labels in one set are matched by rank of size and cut to the smallest of
their match. A test that let unequal parts change places would compare sets of other sizes, whose
distances have another bias.
"""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

PERMUTATIONS = 199
"""Number of random permutations, with which the smallest p-value is 0.005."""

_MOST_DELETIONS = 40
_FEWEST_UNITS = 4


class Units(NamedTuple):
    """The units of two sets of clips; arrays over clips have the real ones first.

    Attributes:
        unit: Kind of the units: "video", "pair" or "group". Pairs may come with single videos.
        real: Indices of the real clips that take part.
        fake: Indices of the generated clips that take part.
        labels: Number of the label of each clip that takes part.
        strata: Number of the stratum of each of these clips: parts of one stratum change places.
    """

    unit: str
    real: Int[np.ndarray, " n"]
    fake: Int[np.ndarray, " m"]
    labels: Int[np.ndarray, " clips"]
    strata: Int[np.ndarray, " clips"]

    @property
    def parts(self) -> Int[np.ndarray, " clips"]:
        """Number of the part of each clip: 2·label of real and 2·label + 1 of generated clips."""
        return 2 * self.labels + (np.arange(len(self.labels)) >= len(self.real))

    @property
    def number(self) -> int:
        """Number of units of the kind: videos, groups, or pairs without single videos."""
        if self.unit != "pair":
            return len(np.unique(self.labels))
        n = len(self.real)
        return len(np.intersect1d(self.labels[:n], self.labels[n:]))

    @property
    def singles(self) -> int:
        """Number of videos beside pairs, which are exchanged among themselves."""
        return len(np.unique(self.labels)) - self.number

    def smallest_p(self, symmetric: bool) -> float:
        """Smallest p-value that the test can give; `symmetric` distances count sets twice."""
        parts, first = np.unique(self.parts, return_index=True)
        side, strata = parts % 2, self.strata[first]
        real, fake = (np.bincount(strata[side == s], minlength=strata.max() + 1) for s in (0, 1))
        both = zip((real + fake).tolist(), real.tolist(), strict=True)
        divisions = math.prod(math.comb(n, k) for n, k in both)
        same = 2 if symmetric and (real == fake).all() else 1
        return max(1 / (1 + PERMUTATIONS), same / divisions)


def find_units(
    real: Sequence[Hashable], fake: Sequence[Hashable], *, grouped: bool = False
) -> Units:
    """Finds what is exchangeable between two sets of clips from their labels.

    Args:
        real: Label of each real clip. Equal labels, also of both sets, mean clips that depend on
            each other.
        fake: Label of each generated clip.
        grouped: Whether labels are those of groups, and not names of single videos.

    Raises:
        ValueError: If a set has fewer than four labels.
    """
    for name, given in (("real", real), ("fake", fake)):
        if (found := len(set(given))) < _FEWEST_UNITS:
            got = f"groups: got {found} groups of {name}" if grouped else f"{name}: got {found}"
            raise ValueError(
                f"{got} clips, expected at least {_FEWEST_UNITS} for a floor or an interval"
            )
    numbers: dict[Hashable, int] = {}
    of_clips = [[numbers.setdefault(label, len(numbers)) for label in of] for of in (real, fake)]
    sizes = np.stack([np.bincount(of, minlength=len(numbers)) for of in of_clips])
    cut, strata = np.minimum(*sizes), np.arange(len(numbers))
    apart = cut == 0
    cut[apart] = _matched(sizes[:, apart])
    strata[apart] = len(numbers) + cut[apart]
    taken = [np.flatnonzero(_rank(np.array(of)) < cut[of]) for of in of_clips]
    labels = np.concatenate([np.array(of)[kept] for of, kept in zip(of_clips, taken, strict=True)])
    unit = "group" if grouped else "video" if apart.all() else "pair"
    strata = np.unique(strata[labels], return_inverse=True)[1]
    return Units(unit, taken[0], taken[1], labels, strata)


def videos(n: int, m: int) -> Units:
    """Units of n real and m generated clips, none of which belong together."""
    return find_units(range(n), range(n, n + m))


def orders(units: Units) -> Int[np.ndarray, "orders clips"]:
    """The clips in their order, and in `PERMUTATIONS` random ones, in which units change places."""
    clips = np.arange(len(units.labels))
    _, first, part = np.unique(units.parts, return_index=True, return_inverse=True)
    strata, rank = units.strata[first], _rank(part)
    by_part = np.argsort(part, kind="stable")
    begins = np.searchsorted(part[by_part], np.arange(len(first)))
    random = np.random.default_rng(0).random((PERMUTATIONS, len(first)))
    shuffled = np.lexsort((random, np.broadcast_to(strata, random.shape)))
    comes = np.empty_like(shuffled)
    comes[:, np.argsort(strata, kind="stable")] = shuffled
    return np.concatenate([clips[None], by_part[begins[comes[:, part]] + rank]])


def shuffled(
    units: Units, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " m"]]:
    """Random orders of the clips of both sets, in each of which units come in the same order."""
    n, place = len(units.real), rng.permutation(units.labels.max() + 1)[units.labels]
    return np.argsort(place[:n], kind="stable"), np.argsort(place[n:], kind="stable")


def deletions(units: Units, rng: np.random.Generator) -> list[list[Int[np.ndarray, " deleted"]]]:
    """Divides the clips into at most 40 random groups of whole units, for each kind of unit.

    The kinds are units with clips in the real set only, in the generated set only, and in both. A
    kind of fewer than four units is joined to the largest kind, as its variance is not known.
    """
    n = len(units.real)
    held = [np.isin(np.unique(units.labels), side) for side in (units.labels[:n], units.labels[n:])]
    of_units, kind = np.unique(units.labels), held[0] + 2 * held[1]
    counts = np.bincount(kind, minlength=4)
    kind[counts[kind] < _FEWEST_UNITS] = counts.argmax()
    return [
        [
            np.flatnonzero(np.isin(units.labels, group))
            for group in np.array_split(rng.permutation(own), min(_MOST_DELETIONS, len(own)))
        ]
        for own in (of_units[kind == k] for k in np.unique(kind))
    ]


def _rank(labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The number of earlier elements with the same label."""
    order = np.argsort(labels, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])
    return rank


def _matched(sizes: Int[np.ndarray, "2 labels"]) -> Int[np.ndarray, " labels"]:
    """Sizes of parts cut to those of the other set with the same rank; each label has one set."""
    found = sizes.sum(axis=0)
    sets = [np.flatnonzero(of)[np.argsort(-of[of > 0], kind="stable")] for of in sizes]
    few, many = sorted(sets, key=len)
    if len(few):
        match = np.arange(len(many)) * len(few) // len(many)
        cut = found[few]
        np.minimum.at(cut, match, found[many])
        found[few], found[many] = cut, cut[match]
    return found
