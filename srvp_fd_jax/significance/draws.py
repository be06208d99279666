"""Distances between sets of clips whose features are at hand, for draws of clips from them.

The functions draw clips, not samples, because the frames of a clip depend on each other.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from srvp_fd_jax.devices import AnyArray
from srvp_fd_jax.distances import DISTANCES
from srvp_fd_jax.distances.base import Distance, Kind
from srvp_fd_jax.distances.provenance import mark
from srvp_fd_jax.distances.sample import in_order
from srvp_fd_jax.distances.statistics import FeatureStatistics, of_nothing

ClipFeatures = Mapping[str, Float[AnyArray, "_ _ d"]]
"""Features [clips, vectors per clip, d] under "features"; mixtures also have "variances"."""


@dataclasses.dataclass(frozen=True)
class Measure:
    """What is computed from two sets of features.

    Attributes:
        distance: Name of the distance, one of `DISTANCES`.
        ddof: Covariances of n samples are divided by n - ddof.
        of: The distance itself, since jitted functions must not take one for another of its name.
    """

    distance: str
    ddof: int
    of: Distance = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Looks the distance up."""
        object.__setattr__(self, "of", DISTANCES[self.distance])

    @property
    def kind(self) -> Kind:
        """How values are read, see `distances.base.Kind`."""
        return self.of.kind

    @property
    def sign(self) -> int:
        """Factor of values that makes larger ones those of sets that differ more."""
        return -1 if self.kind == "similarity" else 1


def drawn(features: ClipFeatures, clips: Int[AnyArray, " n"]) -> dict[str, Float[Array, "n v d"]]:
    """The features of the clips with these indices."""
    return {name: jnp.asarray(f)[clips] for name, f in features.items()}


def state_of(
    features: ClipFeatures, measure: Measure, counting: Bool[Array, " n"] | None = None
) -> FeatureStatistics:
    """Statistics of clips for the distance of a measure, of those where `counting` is True."""
    arrays = {name: jnp.asarray(f) for name, f in features.items()}
    statistics = of_nothing(arrays["features"].shape[-1], "variances" in arrays)
    statistics = mark(statistics.fold(arrays, counting), ddof=measure.ddof)
    if not measure.of.size:
        return statistics
    return dataclasses.replace(statistics, sample=in_order(arrays, counting))


@functools.partial(jax.jit, static_argnames="measure")
def state_of_first(
    features: ClipFeatures,
    order: Int[AnyArray, " n"],
    size: int | Int[Array, ""],
    measure: Measure,
) -> FeatureStatistics:
    """Statistics of the first `size` clips in an order, by one program for all sizes."""
    return state_of(drawn(features, order), measure, jnp.arange(len(order)) < size)


def between(real: FeatureStatistics, fake: FeatureStatistics, measure: Measure) -> Float[Array, ""]:
    """Distance of a measure between two states."""
    return measure.of.between({"real": real, "fake": fake})
