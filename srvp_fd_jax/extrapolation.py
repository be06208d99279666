"""How far a distance can be trusted: its course with the number of clips, its interval, its limit.

Everything here draws clips, not samples: the frames of a clip depend on each other. A draw is an
order of all clips and how many of the first ones count: all draws run through one compiled
function.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from srvp_fd_jax.devices import AnyArray
from srvp_fd_jax.encoding import rows
from srvp_fd_jax.statistics import FeatureStatistics, distance_between

ClipFeatures = Mapping[str, Float[AnyArray, "_ _ d"]]
"""Features [clips, samples of one, d] under "features", of mixtures with "variances" beside."""

_SIZES, _SUBSETS = 10, 5
_GROUPS = 40

# The first term of the bias, in 1/N, needs many samples for the others to be small.
_FITTED_SHARE = 0.5


class Curve(NamedTuple):
    """Distances of random subsets of growing size.

    Attributes:
        sizes: Clips a side.
        distances: Of some random subsets of each size.
    """

    sizes: Int[np.ndarray, " sizes"]
    distances: Float[np.ndarray, "sizes subsets"]


class Limit(NamedTuple):
    """The line infinity + slope / N through the distances of many clips.

    Attributes:
        infinity: Distance of infinitely many clips, FD∞.
        slope: What one more in 1/N adds to it.
        fitted_from: Size of the smallest subsets that the line is fitted to.
    """

    infinity: float
    slope: float
    fitted_from: int


def distance_curve(
    real: ClipFeatures, fake: ClipFeatures, rng: np.random.Generator, *, ddof: int
) -> Curve:
    """Distances between random subsets of both sides, of evenly spaced sizes up to all clips.

    Args:
        real: Features of the real clips.
        fake: Features of the generated clips.
        rng: Chooses the subsets.
        ddof: Covariances are divided by the number of samples − ddof.

    Returns:
        Sizes up to the number of clips of the smaller side, all subsets of one without repetition.

    Raises:
        ValueError: If one side has fewer than four clips.
    """
    n, m = _clips(real, "real"), _clips(fake, "fake")
    most = min(n, m)
    sizes = np.unique(np.linspace(max(2, most / _SIZES), most, _SIZES).round().astype(int))

    def of_subsets(size: int) -> Float[Array, ""]:
        s1 = _statistics(real, rng.permutation(n), size)
        s2 = _statistics(fake, rng.permutation(m), size)
        return distance_between({"real": s1, "fake": s2}, ddof=ddof)

    distances = [[of_subsets(size) for _ in range(_SUBSETS)] for size in sizes.tolist()]
    return Curve(sizes, np.asarray(jax.device_get(distances)))


def extrapolate(curve: Curve) -> Limit:
    """Distance of infinitely many clips, FD∞ (Chong & Forsyth 2020, arXiv 1911.07023).

    A distance's bias falls as 1/N to first order: a straight line in 1/N, by least squares, meets
    the axis at the distance without bias. The authors vary the generated side only, from a tenth of
    50,000 images up; here both sides vary, so that the bias of both goes, and the line is fitted to
    the upper half of the sizes, since clips are few and the bias of fewer is not yet linear. FD∞
    scatters up to about twice as much as the distance, and around 0 for equal distributions.

    Args:
        curve: Of `distance_curve`.

    Returns:
        The line.
    """
    fitted = curve.sizes >= _FITTED_SHARE * curve.sizes[-1]
    means = curve.distances.mean(axis=1)
    slope, infinity = np.polyfit(1 / curve.sizes[fitted], means[fitted], 1)
    return Limit(float(infinity), float(slope), int(curve.sizes[fitted][0]))


def jackknife_interval(
    real: ClipFeatures, fake: ClipFeatures, rng: np.random.Generator, *, ddof: int
) -> tuple[float, float]:
    """95 % interval for the distance that these numbers of clips give on average.

    By the delete-a-group jackknife (Kott 2001, J. Off. Stat. 17) of each side by itself, whose
    variances add up, and a normal law. Not by the bootstrap: a resample repeats clips, which lowers
    the rank of its covariance, so that its distances are greater and scatter more; for 300 clips
    from one Gaussian in 128 dimensions against 300 from the same, its interval is more than three
    times too wide and this one, which is too wide only where the two distributions are nearly the
    same, one and a half times.

    The interval tells sampling noise at this number of clips, not the bias, for which see
    `extrapolate`.

    Args:
        real: Features of the real clips.
        fake: Features of the generated clips.
        rng: Chooses the groups.
        ddof: Covariances are divided by the number of samples − ddof.

    Returns:
        Ends of the interval.

    Raises:
        ValueError: If one side has fewer than four clips.
    """
    n, m = _clips(real, "real"), _clips(fake, "fake")
    s1, s2 = (_statistics(side, np.arange(k), k) for side, k in ((real, n), (fake, m)))

    def distance_of(s1: FeatureStatistics, s2: FeatureStatistics) -> Float[Array, ""]:
        return distance_between({"real": s1, "fake": s2}, ddof=ddof)

    without_groups = (
        [distance_of(_statistics(real, *draw), s2) for draw in _without_groups(n, rng)],
        [distance_of(s1, _statistics(fake, *draw)) for draw in _without_groups(m, rng)],
    )
    variance = sum((len(side) - 1) * np.var(jax.device_get(side)) for side in without_groups)
    distance = float(distance_of(s1, s2))
    margin = 1.96 * float(np.sqrt(variance))
    return max(0.0, distance - margin), distance + margin


def _without_groups(
    n: int, rng: np.random.Generator
) -> Iterator[tuple[Int[np.ndarray, " n"], int]]:
    """Draws of all clips with one random group at the end, and how many are before it."""
    for group in np.array_split(rng.permutation(n), min(_GROUPS, n)):
        yield np.concatenate([np.setdiff1d(np.arange(n), group), group]), n - len(group)


@functools.partial(jax.jit, static_argnames="ddof")
def distance_over_time(
    real: Float[AnyArray, "n t d"], fake: Float[AnyArray, "m t d"], *, ddof: int
) -> Float[Array, " t"]:
    """Distance between the frames of one time step, for each.

    Args:
        real: Features of the frames of real clips.
        fake: Features of the frames of generated clips, of the same length.
        ddof: Covariances are divided by the number of clips − ddof.

    Returns:
        Non-negative, float32.
    """

    def at_step(step: tuple[Float[Array, "n d"], Float[Array, "m d"]]) -> Float[Array, ""]:
        s1, s2 = map(FeatureStatistics.from_features, step)
        return distance_between({"real": s1, "fake": s2}, ddof=ddof)

    return jax.lax.map(at_step, (jnp.swapaxes(real, 0, 1), jnp.swapaxes(fake, 0, 1)))


def _clips(features: ClipFeatures, name: str) -> int:
    n = len(features["features"])
    if n < 4:
        raise ValueError(f"{name}: got {n} clips, expected at least 4 to draw from")
    return n


@jax.jit
def _statistics(
    features: ClipFeatures, clips: Int[AnyArray, " n"], size: int | Int[Array, ""]
) -> FeatureStatistics:
    """Statistics of the first clips of a draw."""
    drawn = {name: jnp.asarray(f)[clips] for name, f in features.items()}
    return FeatureStatistics.from_features(**rows(drawn, jnp.arange(len(clips)) < size))
