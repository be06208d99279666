"""The null distribution of a distance, by a permutation test.

If real and generated clips have one distribution, then any exchange of units between both sets is
as likely as the sets as they are (see `units` for what is exchanged). The distances of random
exchanges are therefore those expected under the null hypothesis with these clips, however many
dimensions the features have and whatever their distribution is (two-sample permutation test;
Lehmann & Romano 2005, Testing Statistical Hypotheses, 15.2). The distance of a perfect generator,
whose clips are like the real ones, is one of them: above their mean about every other time, and
above 97.5 % of them in 2.5 % of sets.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from srvp_fd_jax.devices import AnyArray
from srvp_fd_jax.distances.provenance import check_comparable
from srvp_fd_jax.distances.sample import FeatureSample
from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.significance.draws import ClipFeatures, Measure, between, drawn, state_of
from srvp_fd_jax.significance.units import PERMUTATIONS, Units, orders, videos


class Floor(NamedTuple):
    """The null distribution of a distance, and whether the observed distance differs from it.

    Attributes:
        mean: Mean distance of the random exchanges.
        low: Distance that 2.5 % of the exchanges fall below.
        high: Distance that 97.5 % of the exchanges fall below.
        p_value: Probability of a distance as large as `distance` under the null hypothesis, or of a
            similarity as small.
        distance: Distance between the real and the generated clips of the test.
        real: Number of real clips in the test.
        fake: Number of generated clips in the test.
        unit: What is exchanged: "video", "pair", for both videos of a pair, or "group".
        units: Number of the videos, pairs or groups.
        singles: Number of videos beside pairs, which are exchanged among themselves.
        smallest_p: Smallest p-value that the test can give.
    """

    mean: float
    low: float
    high: float
    p_value: float
    distance: float
    real: int
    fake: int
    unit: str = "video"
    units: int = 0
    singles: int = 0
    smallest_p: float = 0.005

    def described(self) -> str:
        """Describes the null distribution in one line."""
        text = (
            f"{self.mean:.4g} ({self.low:.4g} to {self.high:.4g}) beside {self.distance:.4g} "
            f"between {self.real} real and {self.fake} generated clips, p = {self.p_value:.3g}"
        )
        if self.unit != "video":
            text += f"; exchanged: {self.exchanged()}"
        if self.smallest_p > 1 / (1 + PERMUTATIONS):
            text += f"; smallest possible p = {self.smallest_p:.3g}"
        return text

    def exchanged(self) -> str:
        """Names what the test exchanges between both sets."""
        if self.unit == "video":
            return "single videos"
        if self.unit == "group":
            return f"{self.units} groups of videos"
        others = f" and {self.singles} single videos" if self.singles else ""
        return f"the two videos of each of {self.units} pairs{others}"


def floor_of_samples(
    real: FeatureStatistics, fake: FeatureStatistics, measure: Measure, units: Units | None = None
) -> Floor:
    """Computes the null distribution for the samples of two statistics, see `find_floor`.

    Raises:
        ValueError: If the statistics are not comparable, lack a sample, or one sample has fewer
            than four clips.
    """
    check_comparable(real, fake)
    of_real, of_fake = sample_of(real, "real").moments(), sample_of(fake, "fake").moments()
    return find_floor(of_real, of_fake, measure, units)


def sample_of(statistics: FeatureStatistics, name: str) -> FeatureSample:
    """The sample of statistics, which messages call `name`; an error if there is none."""
    if statistics.sample is None:
        raise ValueError(
            f"{name}: got statistics without a sample of clips, which a permutation test needs: "
            "make them with sample= or with `srvp-fd-jax statistics`"
        )
    return statistics.sample


def find_floor(
    real: ClipFeatures, fake: ClipFeatures, measure: Measure, units: Units | None = None
) -> Floor:
    """Computes the null distribution and the p-value of the distance between two sets of clips.

    The p-value is (1 + k) / (1 + n), where k of n random exchanges have at least the observed
    distance, or at most the similarity. It holds at any number of clips (Phipson & Smyth 2010,
    arXiv 1603.05766). The null distribution is that of both sets mixed: if generated clips vary
    more from clip to clip than real ones, it has larger distances than two sets of real clips.

    Args:
        real: Features of the real clips.
        fake: Features of the generated clips.
        measure: The distance and the divisor of covariances.
        units: What is exchanged, see `units.find_units`; by default single clips. It may leave
            clips out, and all numbers are those of the others.

    Raises:
        ValueError: If one side has fewer than four clips.
    """
    units = units or videos(len(real["features"]), len(fake["features"]))
    n, m = len(units.real), len(units.fake)
    permuted = _divided(pooled(real, fake, units), n, orders(units), measure)
    distance, *others = jax.device_get(permuted)
    low, high = np.quantile(others, [0.025, 0.975])
    smallest = units.smallest_p(symmetric=measure.kind != "similarity")
    p_value = p_values(distance, np.array(others), measure)
    return Floor(
        mean=float(np.mean(others)),
        low=float(low),
        high=float(high),
        p_value=max(float(p_value), smallest),
        distance=float(distance),
        real=n,
        fake=m,
        unit=units.unit,
        units=units.number,
        singles=units.singles,
        smallest_p=smallest,
    )


def pooled(
    real: ClipFeatures, fake: ClipFeatures, units: Units
) -> dict[str, Float[Array, "clips v d"]]:
    """Features of the clips that take part in a test, the real ones first."""
    both = drawn(real, units.real), drawn(fake, units.fake)
    return {name: jnp.concatenate([side[name] for side in both]) for name in real}


def p_values(
    distance: Float[np.ndarray | np.float32, "*shape"],
    permuted: Float[np.ndarray, "n *shape"],
    measure: Measure,
) -> Float[np.ndarray | np.float64, "*shape"]:
    """Shares of the distances, the observed one among them, that are as far as the observed one.

    These are the distances that are at least as large, and at least as small for a similarity.
    """
    # A division that is the same but for the order of its clips differs by rounding.
    as_far = measure.sign * (permuted - distance) >= -1e-6 * np.abs(distance)
    return (1 + as_far.sum(axis=0)) / (1 + len(permuted))


@functools.partial(jax.jit, static_argnames=("n", "measure"))
def _divided(
    clips: ClipFeatures, n: int, orders: Int[AnyArray, "orders clips"], measure: Measure
) -> Float[Array, " orders"]:
    """Distances between the first `n` clips in an order and the others."""

    def of_order(order: Int[Array, " clips"]) -> Float[Array, ""]:
        real, fake = (state_of(drawn(clips, part), measure) for part in (order[:n], order[n:]))
        return between(real, fake, measure)

    return jax.lax.map(of_order, orders)
