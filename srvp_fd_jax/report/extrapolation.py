"""How reliable a distance is: its dependence on the number of clips, its interval and its limit.

The functions draw clips, not samples, because the frames of a clip depend on each other. A draw is
a permutation of all clips and the number of leading clips that count, so that all draws run through
one compiled function.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from srvp_fd_jax.devices import AnyArray
from srvp_fd_jax.distances import DISTANCES
from srvp_fd_jax.distances.states import State, mark
from srvp_fd_jax.encoding import rows
from srvp_fd_jax.protocols import Protocol

ClipFeatures = Mapping[str, Float[AnyArray, "_ _ d"]]
"""Features [clips, samples per clip, d] under "features"; mixtures also have "variances"."""

_SIZES, _SUBSETS = 10, 5
_GROUPS = 40

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
    real: ClipFeatures, fake: ClipFeatures, rng: np.random.Generator, protocol: Protocol
) -> Curve:
    """Distances between random subsets of both sides, for evenly spaced sizes.

    Args:
        real: Features of the real clips.
        fake: Features of the generated clips.
        rng: Source of randomness for the subsets.
        protocol: Protocol that names the distance and the divisor of covariances.

    Returns:
        Distances of subsets without repeated clips, up to the number of clips of the smaller side.

    Raises:
        ValueError: If one side has fewer than four clips.
    """
    n, m = _clips(real, "real"), _clips(fake, "fake")
    most = min(n, m)
    sizes = np.unique(np.linspace(max(2, most / _SIZES), most, _SIZES).round().astype(int))

    def of_subsets(size: int) -> Float[Array, ""]:
        s1 = _statistics(real, rng.permutation(n), size, protocol)
        s2 = _statistics(fake, rng.permutation(m), size, protocol)
        return _between(s1, s2, protocol)

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


def jackknife_interval(
    real: ClipFeatures, fake: ClipFeatures, rng: np.random.Generator, protocol: Protocol
) -> tuple[float, float]:
    """95 % confidence interval of the mean distance at these numbers of clips.

    The delete-a-group jackknife (Kott 2001, J. Off. Stat. 17) gives the variance due to each side.
    The interval assumes a normal distribution with the sum of both variances. It covers sampling
    noise, but not the bias, for which see `extrapolate`.

    A bootstrap would repeat clips, which lowers the rank of the covariance, so that distances are
    larger and scatter more. For 300 clips against 300 from the same Gaussian in 128 dimensions, its
    interval is more than three times too wide. The jackknife's is 1.5 times too wide there, and too
    wide only if the two distributions are nearly the same.

    Args:
        real: Features of the real clips.
        fake: Features of the generated clips.
        rng: Source of randomness for the groups.
        protocol: Protocol, see `distance_curve`.

    Returns:
        Lower and upper end of the interval.

    Raises:
        ValueError: If one side has fewer than four clips.
    """
    n, m = _clips(real, "real"), _clips(fake, "fake")
    s1, s2 = (_statistics(side, np.arange(k), k, protocol) for side, k in ((real, n), (fake, m)))
    without_groups = (
        [
            _between(_statistics(real, *draw, protocol), s2, protocol)
            for draw in _without_groups(n, rng)
        ],
        [
            _between(s1, _statistics(fake, *draw, protocol), protocol)
            for draw in _without_groups(m, rng)
        ],
    )
    variance = sum((len(side) - 1) * np.var(jax.device_get(side)) for side in without_groups)
    distance = float(_between(s1, s2, protocol))
    margin = 1.96 * float(np.sqrt(variance))
    return max(0.0, distance - margin), distance + margin


def _without_groups(
    n: int, rng: np.random.Generator
) -> Iterator[tuple[Int[np.ndarray, " n"], int]]:
    """Yields draws in which all clips count but those of one random group."""
    for group in np.array_split(rng.permutation(n), min(_GROUPS, n)):
        yield np.concatenate([np.setdiff1d(np.arange(n), group), group]), n - len(group)


@functools.partial(jax.jit, static_argnames="protocol")
def distance_over_time(
    real: Float[AnyArray, "n t d"], fake: Float[AnyArray, "m t d"], protocol: Protocol
) -> Float[Array, " t"]:
    """Distance between the frames at each time step.

    Args:
        real: Features of the frames of real clips.
        fake: Features of the frames of generated clips, which have the same length.
        protocol: Protocol that names the distance and the divisor of covariances.

    Returns:
        One non-negative distance per time step, in float32.
    """

    def at_step(step: tuple[Float[Array, "n d"], Float[Array, "m d"]]) -> Float[Array, ""]:
        s1, s2 = (_empty(f.shape[1], False, protocol).fold(f, None, None, 1) for f in step)
        return _between(s1, s2, protocol)

    return jax.lax.map(at_step, (jnp.swapaxes(real, 0, 1), jnp.swapaxes(fake, 0, 1)))


def _clips(features: ClipFeatures, name: str) -> int:
    n = len(features["features"])
    if n < 4:
        raise ValueError(f"{name}: got {n} clips, expected at least 4 to draw from")
    return n


@functools.partial(jax.jit, static_argnames="protocol")
def _statistics(
    features: ClipFeatures,
    clips: Int[AnyArray, " n"],
    size: int | Int[Array, ""],
    protocol: Protocol,
) -> State:
    """Statistics of the first `size` of the drawn clips."""
    drawn = {name: jnp.asarray(f)[clips] for name, f in features.items()}
    empty = _empty(drawn["features"].shape[-1], "variances" in drawn, protocol)
    return empty.fold(**rows(drawn, jnp.arange(len(clips)) < size), division=1)


def _empty(dim: int, mixture: bool, protocol: Protocol) -> State:
    return mark(DISTANCES[protocol.distance].empty(dim, mixture), ddof=protocol.ddof)


def _between(s1: State, s2: State, protocol: Protocol) -> Float[Array, ""]:
    return DISTANCES[protocol.distance].between({"real": s1, "fake": s2})
