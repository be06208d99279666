"""Distances between sets of clips whose features are at hand, for draws of clips from them.

The functions draw clips, not samples, because the frames of a clip depend on each other.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from srvp_fd_jax.devices import AnyArray
from srvp_fd_jax.distances import DISTANCES
from srvp_fd_jax.distances.states import Kind, State, mark
from srvp_fd_jax.encoding import rows

ClipFeatures = Mapping[str, Float[AnyArray, "_ _ d"]]
"""Features [clips, vectors per clip, d] under "features"; mixtures also have "variances"."""


class Measure(NamedTuple):
    """What is computed from two sets of features.

    Attributes:
        distance: Name of the distance, one of `DISTANCES`.
        ddof: Covariances of n samples are divided by n - ddof.
    """

    distance: str
    ddof: int

    @property
    def kind(self) -> Kind:
        """How values are read, see `distances.states.Kind`."""
        return DISTANCES[self.distance].kind

    @property
    def sign(self) -> int:
        """Factor of values that makes larger ones those of sets that differ more."""
        return -1 if self.kind == "similarity" else 1


def drawn(features: ClipFeatures, clips: Int[AnyArray, " n"]) -> dict[str, Float[Array, "n v d"]]:
    """The features of the clips with these indices."""
    return {name: jnp.asarray(f)[clips] for name, f in features.items()}


def state_of(
    features: ClipFeatures, measure: Measure, counting: Bool[Array, " n"] | None = None
) -> State:
    """Statistics of clips for the distance of a measure, of those where `counting` is True."""
    clips, vectors, dim = features["features"].shape
    distance = DISTANCES[measure.distance]
    empty = distance.empty(dim, "variances" in features, most=clips * vectors)
    empty = mark(empty, ddof=measure.ddof)
    arrays = {name: jnp.asarray(f) for name, f in features.items()}
    return empty.fold(**rows(arrays, counting), division=1)


@functools.partial(jax.jit, static_argnames="measure")
def state_of_first(
    features: ClipFeatures,
    order: Int[AnyArray, " n"],
    size: int | Int[Array, ""],
    measure: Measure,
) -> State:
    """Statistics of the first `size` clips in an order, by one program for all sizes."""
    return state_of(drawn(features, order), measure, jnp.arange(len(order)) < size)


def between(real: State, fake: State, measure: Measure) -> Float[Array, ""]:
    """Distance of a measure between two states."""
    return DISTANCES[measure.distance].between({"real": real, "fake": fake})
