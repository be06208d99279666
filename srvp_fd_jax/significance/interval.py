"""The confidence interval of a distance at the observed number of clips."""

import math

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from srvp_fd_jax.distances.statistics import FeatureStatistics
from srvp_fd_jax.significance.draws import (
    ClipFeatures,
    Measure,
    between,
    drawn,
    state_of_first,
)
from srvp_fd_jax.significance.units import Units, deletions, videos


def distance_interval(
    real: ClipFeatures,
    fake: ClipFeatures,
    rng: np.random.Generator,
    measure: Measure,
    units: Units | None = None,
) -> tuple[float, float]:
    """95 % confidence interval of the mean distance at these numbers of clips.

    The delete-a-group jackknife (Kott 2001, J. Off. Stat. 17) gives the variance due to each set,
    with at most 40 groups per set, so that no number of clips needs more than 121 distances. Whole
    units are deleted, and a unit with clips in both sets, such as a pair, from both at once, so
    that the variance is that of the distance of dependent sets. The degrees of freedom are one less
    than the number of groups, and those of the sum of variances are Satterthwaite's
    (1946, Biometrics Bulletin 2). The standard error s, times the quantile t of Student's
    distribution, is the margin on the scale of the logarithm: a distance of d gives d exp(± t s /
    d). If t s exceeds d, the upper end is d + (e − 1) t s, as the exponential would
    grow beyond any meaning for a distance near zero.

    The logarithm is there because distances are skewed: a sample without rare, far clips has a
    small distance and a small standard error too, and an interval d ± t s would end below the mean.

    In the simulations of `benchmarks/coverage.py` (10 to 300 clips per side, 8 to 64 dimensions)
    it covers the mean at least 9 times in 10 for Gaussian features, and for independent features of
    Student's distribution with 4 degrees of freedom. It does not if whole clips are outliers, in
    all of their features at once, with as heavy a tail: there it covers as little as 7 times in 10,
    since the mean depends on clips so rare that most samples have none of them. With 8 degrees of
    freedom such outliers did no harm.

    It is too wide, by a factor of 1.4 to 1.9, for Gaussian features whose distributions are nearly
    the same, because the jackknife overestimates the variance there (Efron & Stein 1981, Ann. Stat.
    9). A bootstrap would be worse: it repeats clips, which lowers the rank of the covariance. The
    interval is about sampling noise, and not about the bias, for which see `extrapolate`.

    Args:
        real: Features of the real clips.
        fake: Features of the generated clips.
        rng: Source of randomness for the groups.
        measure: The distance and the divisor of covariances. Only if values are never negative is
            the interval on the scale of the logarithm, else it is d ± t s.
        units: What is deleted, see `units.find_units`; by default single clips. Clips that it
            leaves out do not count.

    Returns:
        Lower and upper end of the interval, with the distance of all clips between them.

    Raises:
        ValueError: If one side has fewer than four clips.
    """
    units = units or videos(len(real["features"]), len(fake["features"]))
    n, clips = len(units.real), np.arange(len(units.labels))
    sides = (drawn(real, units.real), clips[:n]), (drawn(fake, units.fake), clips[n:])

    def of_side(number: int, gone: Bool[np.ndarray, " clips"]) -> FeatureStatistics:
        features, own = sides[number]
        order = np.argsort(gone[own], kind="stable")
        return state_of_first(features, order, len(own) - int(gone[own].sum()), measure)

    whole = [of_side(i, clips < 0) for i in range(2)]

    def without(deleted: Int[np.ndarray, " deleted"]) -> Float[Array, ""]:
        gone = np.isin(clips, deleted)
        s1, s2 = (of_side(i, gone) if gone[sides[i][1]].any() else whole[i] for i in range(2))
        return between(s1, s2, measure)

    without_units = [
        np.array(jax.device_get([without(group) for group in groups]))
        for groups in deletions(units, rng)
    ]
    freedom = np.array([len(found) - 1 for found in without_units])
    variances = freedom * np.array([np.var(found) for found in without_units])
    distance = float(without(clips[:0]))
    margin = _margin(variances, freedom)
    if measure.kind != "distance":
        return distance - margin, distance + margin
    return _log_interval(distance, margin)


def _margin(variances: Float[np.ndarray, " sides"], freedom: Int[np.ndarray, " sides"]) -> float:
    """Margin t s of independent variances and their degrees of freedom."""
    from scipy.special import stdtrit  # slow to import

    variance = variances.sum()
    if variance == 0:
        return 0.0
    total_freedom = variance**2 / (variances**2 / freedom).sum()
    return float(stdtrit(total_freedom, 0.975) * np.sqrt(variance))


def _log_interval(distance: float, margin: float) -> tuple[float, float]:
    """Interval around a distance by a margin on the scale of its logarithm."""
    if margin == 0:
        return distance, distance
    ratio = margin / distance if distance > 0 else math.inf
    upper = distance * math.exp(ratio) if ratio < 1 else distance + (math.e - 1) * margin
    return distance * math.exp(-ratio), upper
