"""The dependence of a distance on the number of clips, and its limit for infinitely many."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from srvp_fd_jax.significance.draws import (
    ClipFeatures,
    Measure,
    between,
    drawn,
    state_of_first,
)
from srvp_fd_jax.significance.units import Units, shuffled, videos

_SIZES, _SUBSETS = 10, 5

# The term in 1/N dominates the bias only for many samples.
_FITTED_SHARE = 0.5


class Curve(NamedTuple):
    """Distances of random subsets of growing size.

    Attributes:
        sizes: Number of clips per side.
        distances: Distances of several random subsets of each size.
    """

    sizes: Int[np.ndarray, " sizes"]
    distances: Float[np.ndarray, "sizes subsets"]


class Limit(NamedTuple):
    """The line infinity + slope / N, fitted to distances of subsets of N clips per side.

    Attributes:
        infinity: Distance of infinitely many clips, FD∞.
        slope: Slope of the line in 1/N.
        fitted_from: N of the smallest subsets in the fit.
    """

    infinity: float
    slope: float
    fitted_from: int


def distance_curve(
    real: ClipFeatures,
    fake: ClipFeatures,
    rng: np.random.Generator,
    measure: Measure,
    units: Units | None = None,
) -> Curve:
    """Distances between random subsets of both sides, for evenly spaced sizes.

    Args:
        real: Features of the real clips.
        fake: Features of the generated clips.
        rng: Source of randomness for the subsets.
        measure: The distance and the divisor of covariances.
        units: What is drawn, see `units.find_units`, from both sides at once; by default single
            clips. Clips that it leaves out do not count.

    Returns:
        Distances of subsets without repeated clips, up to the number of clips of the smaller side.

    Raises:
        ValueError: If one side has fewer than four clips.
    """
    units = units or videos(len(real["features"]), len(fake["features"]))
    real, fake = drawn(real, units.real), drawn(fake, units.fake)
    most = min(len(units.real), len(units.fake))
    sizes = np.unique(np.linspace(max(2, most / _SIZES), most, _SIZES).round().astype(int))

    def of_subsets(size: int) -> Float[Array, ""]:
        orders = zip((real, fake), shuffled(units, rng), strict=True)
        s1, s2 = (state_of_first(side, order, size, measure) for side, order in orders)
        return between(s1, s2, measure)

    distances = [[of_subsets(size) for _ in range(_SUBSETS)] for size in sizes.tolist()]
    return Curve(sizes, np.asarray(jax.device_get(distances)))


def extrapolate(curve: Curve) -> Limit:
    """Distance of infinitely many clips, FD∞ (Chong & Forsyth 2020, arXiv 1911.07023).

    The bias of a distance falls as 1/N to first order, so a least-squares line in 1/N has the
    distance without bias as its intercept. The authors vary only the generated side, from a tenth
    of 50,000 images up. Here both sides vary, which removes the bias of both, and the line is
    fitted to the upper half of the sizes, because the bias of few clips is not linear in 1/N. FD∞
    scatters up to about twice as much as the distance, and around 0 for equal distributions.
    """
    fitted = curve.sizes >= _FITTED_SHARE * curve.sizes[-1]
    means = curve.distances.mean(axis=1)
    slope, infinity = np.polyfit(1 / curve.sizes[fitted], means[fitted], 1)
    return Limit(float(infinity), float(slope), int(curve.sizes[fitted][0]))
