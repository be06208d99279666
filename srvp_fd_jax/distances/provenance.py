"""Where statistics come from, and whether two of them can be compared.

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
