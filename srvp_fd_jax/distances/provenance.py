"""Where statistics come from, what became of their videos, and which can be compared.

`FeatureStatistics` imports this module.
"""

import dataclasses
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_S = TypeVar("_S")

Source = tuple[tuple[str, str], ...]
"""Where features come from, as (name, value) pairs such as ("network", "kth")."""


@dataclasses.dataclass(frozen=True)
class VideoCounts:
    """What became of the videos of a set.

    Attributes:
        found: Number of videos.
        used: Number of videos that gave a clip.
        too_short: Names of videos that were too short.
        unreadable: Names of videos that could not be read, each with the reason.
        cached: Whether all statistics came from a cache. It is not saved.
    """

    found: int = 0
    used: int = 0
    too_short: tuple[str, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    cached: bool = False

    def __add__(self, other: "VideoCounts") -> "VideoCounts":
        """The counts of two sets together."""
        return VideoCounts(
            self.found + other.found,
            self.used + other.used,
            self.too_short + other.too_short,
            self.unreadable + other.unreadable,
            self.cached and other.cached,
        )


def mark(statistics: _S, **source: object) -> _S:
    """Adds entries to the `source` of statistics, except those with the value None."""
    known = {name: str(value) for name, value in source.items() if value is not None}
    given: Any = statistics
    both = dict(given.source) | known
    return dataclasses.replace(given, source=tuple(sorted(both.items())))


def check_comparable(s1: Any, s2: Any, *, same_side: bool = False) -> None:
    """Raises a `ValueError` unless dimensions and common entries of the sources agree.

    A mixture agrees only with another mixture. The entries "side" ("real" or "fake") must agree
    only with `same_side`, which is for merging.
    """
    dims = s1.dim, s2.dim
    source1, source2 = dict(s1.source), dict(s2.source)
    both = source1.keys() & source2.keys()
    for name in sorted(both if same_side else both - {"side"}):
        if source1[name] != source2[name]:
            raise ValueError(
                f"statistics: {name} is {source1[name]!r} of one and {source2[name]!r} of the other"
            )
    if (s1.variance_sum is None) != (s2.variance_sum is None):
        raise ValueError("statistics: one is of a Gaussian mixture and the other is not")
    if dims[0] != dims[1]:
        raise ValueError(
            f"statistics: got feature dimensions {dims[0]} and {dims[1]}, which must be equal"
        )


_MOST = float(np.finfo(np.float32).max)


@jax.jit
def unseen() -> Float[Array, "2"]:
    """The range of no values: finite, as JAX can be set to refuse others, and least to merge."""
    return jnp.array([_MOST, -_MOST], jnp.float32)


def join_ranges(ranges: Float[Array, "k 2"]) -> Float[Array, "2"]:
    """The smallest range that contains others."""
    low, high = jnp.min(ranges[:, 0], initial=_MOST), jnp.max(ranges[:, 1], initial=-_MOST)
    return jnp.stack([low, high])
