"""Distances along the clips: at each frame, or at each window of consecutive frames."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from srvp_fd_jax.devices import AnyArray
from srvp_fd_jax.significance.draws import ClipFeatures, Measure, between, state_of
from srvp_fd_jax.significance.null_distribution import pooled
from srvp_fd_jax.significance.units import Units, orders, videos

MOST_PLACES = 16
"""Largest number of places along clips, evenly spaced, at which distances are computed."""


class Along(NamedTuple):
    """Distances at places along the clips, beside their null distributions.

    Attributes:
        places: Indices of the frames at which the windows begin, in the clips of the measure.
        distances: Distance at each place.
        floor: Mean distance of random exchanges at each place.
        edge: Distance that 97.5 % of the exchanges fall below at each place; of a similarity, that
            as many exceed.
        p_values: p-value of the distance at each place, corrected for the number of places: if real
            and generated clips have one distribution at some places, then the smallest of their
            p-values is at most .01 with a probability of at most .01, for .01 and any other level.
    """

    places: Int[np.ndarray, " places"]
    distances: Float[np.ndarray, " places"]
    floor: Float[np.ndarray, " places"]
    edge: Float[np.ndarray, " places"]
    p_values: Float[np.ndarray, " places"]


def distances_along(
    real: ClipFeatures, fake: ClipFeatures, measure: Measure, units: Units | None = None
) -> Along:
    """Computes distances at up to `MOST_PLACES` places along the clips, and their p-values.

    Args:
        real: Features of the real clips, one vector per place.
        fake: Features of the generated clips, at the same places.
        measure: The distance and the divisor of covariances.
        units: What is exchanged, as in `floor.find_floor`; the exchanges are the same.

    Raises:
        ValueError: If one side has fewer than four clips, or the numbers of places differ.
    """
    units = units or videos(len(real["features"]), len(fake["features"]))
    most, other = real["features"].shape[1], fake["features"].shape[1]
    if most != other:
        raise ValueError(f"fake: got vectors at {other} places along the clips, expected {most}")
    places = np.unique(np.linspace(0, most - 1, min(most, MOST_PLACES)).round().astype(int))
    clips = {name: f[:, places] for name, f in pooled(real, fake, units).items()}
    found = jax.device_get(_divided(clips, len(units.real), orders(units), measure))
    permuted, sign = found[1:], measure.sign
    return Along(
        places=places,
        distances=found[0],
        floor=permuted.mean(axis=0),
        edge=sign * np.quantile(sign * permuted, 0.975, axis=0).astype(np.float32),
        p_values=corrected(sign * found),
    )


def corrected(values: Float[np.ndarray, "orders places"]) -> Float[np.ndarray, " places"]:
    """p-values of the first row among all rows, corrected for the number of places.

    The step-down maximum of Westfall & Young 1993 (Resampling-Based Multiple Testing, algorithm
    2.8): the value at a place is compared with the largest values of the permutations at this place
    and all places where the observed values are smaller. Values are standardised at each place by
    the mean and the standard deviation of all rows, the observed one among them, which keeps the
    rows exchangeable. (The minimum of p-values would need no such scale, but many more
    permutations: of 199 ones most are the largest at one of 16 places.)
    """
    values = values.astype(float)
    spread = values.std(axis=0)
    # Equal frames, such as those that a prediction was given, differ by rounding.
    spread[spread <= 1e-6 * np.abs(values).max()] = np.inf
    scores = (values - values.mean(axis=0)) / spread
    observed = scores[0] - 1e-6 * np.abs(values[0]) / spread  # less rounding, as in `p_values`
    rising = np.argsort(scores[0], kind="stable")
    largest = np.maximum.accumulate(scores[:, rising], axis=1)
    shares = (largest >= observed[rising]).mean(axis=0)
    found = np.empty(len(rising))
    found[rising] = np.maximum.accumulate(shares[::-1])[::-1]
    return found


@functools.partial(jax.jit, static_argnames=("n", "measure"))
def _divided(
    clips: ClipFeatures, n: int, orders: Int[AnyArray, "orders clips"], measure: Measure
) -> Float[Array, "orders places"]:
    """Distances at each place between the first `n` clips in an order and the others."""
    at_places = {name: jnp.swapaxes(f, 0, 1) for name, f in clips.items()}

    def of_order(order: Int[Array, " clips"]) -> Float[Array, " places"]:
        def at_place(features: dict[str, Float[Array, "clips d"]]) -> Float[Array, ""]:
            real, fake = (
                state_of({name: f[part][:, None] for name, f in features.items()}, measure)
                for part in (order[:n], order[n:])
            )
            return between(real, fake, measure)

        return jax.lax.map(at_place, at_places)

    return jax.lax.map(of_order, orders)
