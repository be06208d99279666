"""The interface of distances, and the checks of the statistics that they compare."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from srvp_fd_jax.devices import values
from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.files.inputs import check_range, dark_caution, range_caution, warn

Kind = Literal["distance", "estimate", "similarity"]
"""How values of a distance are read.

A "distance" is never negative, and larger for sets that differ more. An "estimate" is an unbiased
one of such a distance, and may be negative for close sets. A "similarity" is larger for closer
sets, as precision is.
"""


@runtime_checkable
class Distance(Protocol):
    """A distance between the statistics of two sets. Instances are hashable and compare by value.

    Attributes:
        least: Smallest number of feature vectors in each set.
        kind: How values are read, see `Kind`.
        size: Largest number of feature vectors of a sample that are compared; 0 if the distance
            reads the moments, which hold all vectors.
    """

    @property
    def least(self) -> int: ...  # noqa: D102

    @property
    def kind(self) -> Kind: ...  # noqa: D102

    @property
    def size(self) -> int: ...  # noqa: D102

    def caution(self, count: int, dim: int) -> str | None:
        """Warning text if `count` samples are too few for an accurate distance, else None."""

    def between(self, named: Mapping[str, FeatureStatistics]) -> Float[Array, ""]:
        """Computes the distance between two sets.

        Args:
            named: Two statistics under the names that error messages use.

        Raises:
            ValueError: If the statistics are not comparable, lack a sample, or (outside of `jit`)
                have too few samples or values that are not finite.
        """


def check_finite(distance: Float[Array, ""], named: Mapping[str, Any], of: str) -> None:
    """Raises a `ValueError` if a distance is known and not finite.

    Args:
        distance: The distance, which is ignored if it is traced.
        named: Pytrees of what it was computed from, under the names that the message uses.
        of: Name of the distance.
    """
    found = values(distance)
    if found is None or np.isfinite(found):
        return
    largest = 0.0
    for name, given in named.items():
        for leaf in jax.tree.leaves(given):
            if (array := values(leaf)) is None:
                continue
            if not np.isfinite(array).all():
                raise ValueError(f"{name}: holds values that are not finite")
            if jnp.issubdtype(array.dtype, jnp.floating) and array.size:
                largest = max(largest, float(np.abs(array).max()))
    raise ValueError(
        f"{of}: got {found} from values of up to {largest:.3g}, whose distance {distance.dtype} "
        "does not hold; scale the features of both sets by one number"
    )


def check_counts(distance: Distance, counts: Mapping[str, Any], dim: int | None = None) -> None:
    """Raises a `ValueError` for too few samples, and warns if the distance has a caution.

    `counts` are numbers of samples under the names of the arguments. Traced numbers are ignored.
    Without the feature dimension `dim` there is no warning.
    """
    for name, count in counts.items():
        known = values(count)
        if known is None:
            continue
        if known < distance.least:
            raise ValueError(
                f"{name}: got {known} samples, a distance needs at least {distance.least}"
            )
        if dim is not None and (caution := distance.caution(int(known), dim)):
            warn(f"{name}: {caution}")


def range_cautions(name: str, statistics: FeatureStatistics, *, checked: bool = False) -> list[str]:
    """Warning texts about the values of a set of clips, which messages call `name`.

    `checked` says that its arrays were checked one by one.

    Raises:
        ValueError: If they cannot be values of clips, see `inputs.as_clips`.
    """
    found = values(statistics.value_range)
    if found is None or found.shape != (2,) or found[0] > found[1]:
        return []
    low, high = map(float, found)
    check_range(low, high, name)
    texts = [dark_caution(high)] if checked else [range_caution(low, high), dark_caution(high)]
    return [f"{name}: {text}" for text in texts if text]


def check_ranges(named: Mapping[str, FeatureStatistics], *, checked: bool = False) -> None:
    """Gives the warnings of `range_cautions` for statistics under the names of the arguments."""
    for name, statistics in named.items():
        for text in range_cautions(name, statistics, checked=checked):
            warn(text)
