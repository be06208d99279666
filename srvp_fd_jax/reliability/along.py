"""Distances along the clips: at each frame, or at each window of consecutive frames."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from srvp_fd_jax.reliability.draws import ClipFeatures, Measure, between, check_enough, state_of
from srvp_fd_jax.reliability.floor import p_values, random_orders

MOST_PLACES = 16
"""Largest number of places along clips, evenly spaced, at which distances are computed."""


class Along(NamedTuple):
    """Distances at places along the clips, beside those that chance gives there.

    Attributes:
        places: Indices of the frames at which the windows begin, in the clips of the measure.
        distances: Distance at each place.
        floor: Mean distance of random divisions of the clips at each place.
        edge: Distance that 97.5 % of the divisions fall below at each place; of a similarity, that
            as many exceed.
        p_values: Probability that chance gives as large a distance at each place, or as small a
            similarity.
    """

    places: Int[np.ndarray, " places"]
    distances: Float[np.ndarray, " places"]
    floor: Float[np.ndarray, " places"]
    edge: Float[np.ndarray, " places"]
    p_values: Float[np.ndarray, " places"]


def distances_along(real: ClipFeatures, fake: ClipFeatures, measure: Measure) -> Along:
    """Computes distances at up to `MOST_PLACES` places along the clips, and their floors.

    Args:
        real: Features of the real clips, one vector per place.
        fake: Features of the generated clips, at the same places.
        measure: The distance and the divisor of covariances.

    Raises:
        ValueError: If one side has fewer than four clips, or the numbers of places differ.
    """
    n, m = check_enough(real, "real"), check_enough(fake, "fake")
    most, other = real["features"].shape[1], fake["features"].shape[1]
    if most != other:
        raise ValueError(f"fake: got vectors at {other} places along the clips, expected {most}")
    places = np.unique(np.linspace(0, most - 1, min(most, MOST_PLACES)).round().astype(int))
    pooled = {name: jnp.concatenate([real[name], fake[name]])[:, places] for name in real}
    found = jax.device_get(_divided(pooled, n, random_orders(n + m), measure))
    distances, permuted, sign = found[0], found[1:], measure.sign
    return Along(
        places=places,
        distances=distances,
        floor=permuted.mean(axis=0),
        edge=sign * np.quantile(sign * permuted, 0.975, axis=0).astype(np.float32),
        p_values=np.asarray(p_values(distances, permuted, measure)),
    )


@functools.partial(jax.jit, static_argnames=("n", "measure"))
def _divided(
    pooled: ClipFeatures, n: int, orders: Int[Array, "orders clips"], measure: Measure
) -> Float[Array, "orders places"]:
    """Distances at each place between the first `n` clips in an order and the others."""
    at_places = {name: jnp.swapaxes(f, 0, 1) for name, f in pooled.items()}

    def of_order(order: Int[Array, " clips"]) -> Float[Array, " places"]:
        def at_place(features: dict[str, Float[Array, "clips d"]]) -> Float[Array, ""]:
            real, fake = (
                state_of({name: f[part][:, None] for name, f in features.items()}, measure)
                for part in (order[:n], order[n:])
            )
            return between(real, fake, measure)

        return jax.lax.map(at_place, at_places)

    return jax.lax.map(of_order, orders)
