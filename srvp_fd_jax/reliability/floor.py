"""The distance that chance gives, by a permutation test.

If real and generated clips have one distribution, then any division of all clips into two sets of
their numbers is as likely as the one at hand. The distances of random divisions are therefore what
chance gives with these clips, however many dimensions the features have and whatever their
distribution is (two-sample permutation test; Lehmann & Romano 2005, Testing Statistical Hypotheses,
15.2). A perfect generator, whose clips are like the real ones, gets no more.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from srvp_fd_jax.distances.sample import FeatureSample
from srvp_fd_jax.distances.states import check_comparable
from srvp_fd_jax.reliability.draws import (
    ClipFeatures,
    Measure,
    between,
    check_enough,
    drawn,
    state_of,
)

PERMUTATIONS = 199
"""Number of random divisions, with which the smallest p-value is 0.005."""


class Floor(NamedTuple):
    """Distances that chance gives, and whether the distance at hand differs from them.

    Attributes:
        mean: Mean distance of random divisions of the clips.
        low: Distance that 2.5 % of the divisions fall below.
        high: Distance that 97.5 % of the divisions fall below.
        p_value: Probability that chance gives a distance as large as `distance`, or a similarity as
            small.
        distance: Distance between the real and the generated clips of the test.
        real: Number of real clips in the test.
        fake: Number of generated clips in the test.
    """

    mean: float
    low: float
    high: float
    p_value: float
    distance: float
    real: int
    fake: int

    def described(self) -> str:
        """Describes the floor in one line."""
        return (
            f"{self.mean:.4g} ({self.low:.4g} to {self.high:.4g}) beside {self.distance:.4g} "
            f"between {self.real} real and {self.fake} generated clips, p = {self.p_value:.3g}"
        )


def floor_of_samples(real: FeatureSample, fake: FeatureSample, measure: Measure) -> Floor:
    """Computes the floor of two samples, see `find_floor`; distances are those of the samples.

    Raises:
        ValueError: If the samples are not comparable or one has fewer than four clips.
    """
    check_comparable(real, fake)
    return find_floor(real.moments(), fake.moments(), measure)


def find_floor(real: ClipFeatures, fake: ClipFeatures, measure: Measure) -> Floor:
    """Computes the floor and the p-value of the distance between two sets of clips.

    The p-value is (1 + k) / (1 + n), where k of n random divisions have at least the distance at
    hand, or at most the similarity. It holds at any number of clips (Phipson & Smyth 2010, arXiv
    1603.05766). The floor is that of both sets mixed: if generated clips vary more from clip to
    clip than real ones, it is larger than the floor of a perfect generator.

    Args:
        real: Features of the real clips.
        fake: Features of the generated clips.
        measure: The distance and the divisor of covariances.

    Raises:
        ValueError: If one side has fewer than four clips.
    """
    n, m = check_enough(real, "real"), check_enough(fake, "fake")
    pooled = {name: jnp.concatenate([real[name], fake[name]]) for name in real}
    found = jax.device_get(_divided(pooled, n, random_orders(n + m), measure))
    distance, permuted = found[0], found[1:]
    low, high = np.quantile(permuted, [0.025, 0.975])
    return Floor(
        mean=float(np.mean(permuted)),
        low=float(low),
        high=float(high),
        p_value=float(p_values(distance, permuted, measure)),
        distance=float(distance),
        real=n,
        fake=m,
    )


def random_orders(clips: int) -> Int[Array, "orders clips"]:
    """The order of the clips as they are, and `PERMUTATIONS` random ones."""
    places = jnp.arange(clips)
    keys = jax.random.split(jax.random.key(0), PERMUTATIONS)
    shuffled = jax.vmap(lambda key: jax.random.permutation(key, places))(keys)
    return jnp.concatenate([places[None], shuffled])


def p_values(
    distance: Float[np.ndarray | np.float32, "*shape"],
    permuted: Float[np.ndarray, "n *shape"],
    measure: Measure,
) -> Float[np.ndarray | np.float64, "*shape"]:
    """Shares of the distances, the one at hand among them, that are as far as the one at hand.

    These are the distances that are at least as large, and at least as small for a similarity.
    """
    # A division that is the same but for the order of its clips differs by rounding.
    as_far = measure.sign * (permuted - distance) >= -1e-6 * np.abs(distance)
    return (1 + as_far.sum(axis=0)) / (1 + len(permuted))


@functools.partial(jax.jit, static_argnames=("n", "measure"))
def _divided(
    pooled: ClipFeatures, n: int, orders: Int[Array, "orders clips"], measure: Measure
) -> Float[Array, " orders"]:
    """Distances between the first `n` clips in an order and the others."""

    def of_order(order: Int[Array, " clips"]) -> Float[Array, ""]:
        real, fake = (state_of(drawn(pooled, part), measure) for part in (order[:n], order[n:]))
        return between(real, fake, measure)

    return jax.lax.map(of_order, orders)
