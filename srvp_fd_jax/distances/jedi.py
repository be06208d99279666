r"""The distance of JEDi: a maximum mean discrepancy with the polynomial kernel (xᵀy / d)².

Luo et al. 2024, arXiv 2410.05203. The kernel's mean over two sets is a product of their second
moments M = 1/n Σ xᵢxᵢᵀ = C + μμᵀ, since (xᵀy)² = Tr(xxᵀ yyᵀ). The discrepancy is therefore

    MMD² = ‖M₁ − M₂‖²_F / d²,

which needs no kernel values: it streams and merges exactly, and is never negative. JEDi is 100
times that. With δ = μ₁ − μ₂ and μ̄ = (μ₁ + μ₂) / 2, the difference of the moments is

    M₁ − M₂ = C₁ − C₂ + δ μ̄ᵀ + μ̄ δᵀ,

in which an offset of both sets does not cancel.

The kernel of a sample with itself biases the discrepancy upwards. Without these terms, each set of
n samples adds − (q − ‖M‖²_F) / (n − 1), where q = 1/n Σ ‖xᵢ‖⁴.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from srvp_fd_jax.devices import AnyArray
from srvp_fd_jax.distances.base import Kind, check_finite
from srvp_fd_jax.distances.factors import matmul
from srvp_fd_jax.distances.points import sample_caution, single_vectors
from srvp_fd_jax.distances.provenance import check_comparable
from srvp_fd_jax.distances.sample import SAMPLE_SIZE, FeatureSample
from srvp_fd_jax.distances.statistics import FeatureStatistics, of_nothing


@dataclasses.dataclass(frozen=True)
class Jedi:
    """The distance of JEDi, 100 MMD², from second moments.

    Gaussian mixtures are compared by the second moments of the mixtures. Covariances have the
    divisor n, whatever that of a protocol is.
    """

    least = 2
    kind: ClassVar[Kind] = "distance"
    size: ClassVar[int] = 0

    def caution(self, count: int, dim: int) -> str | None:
        """See `Distance.caution`; there is none."""
        return None

    def between(self, named: Mapping[str, FeatureStatistics]) -> Float[Array, ""]:
        """See `Distance.between`."""
        s1, s2 = named.values()
        check_comparable(s1, s2)
        distance = jedi(s1.bare(), s2.bare())
        check_finite(distance, named, "jedi")
        return distance


@dataclasses.dataclass(frozen=True)
class UnbiasedJedi:
    """The unbiased form of JEDi's distance, on random samples of the features.

    The kernel of a sample with itself is left out. Of mixtures it is the mean kernel of two points
    of one component.
    """

    least = 2
    kind: ClassVar[Kind] = "estimate"
    size: ClassVar[int] = SAMPLE_SIZE

    def caution(self, count: int, dim: int) -> str | None:
        """Says that a random sample is compared, if it is one."""
        return sample_caution(count, self.size)

    def between(self, named: Mapping[str, FeatureStatistics]) -> Float[Array, ""]:
        """See `Distance.between`."""
        samples = single_vectors(named, self.size)
        distance = _unbiased(*samples)
        check_finite(distance, named, "jedi")
        return distance


@jax.jit
def jedi(s1: FeatureStatistics, s2: FeatureStatistics) -> Float[Array, ""]:
    """Computes the distance of JEDi from statistics of two sets; see the module for the equation.

    The function is smooth, and its gradient is exact.

    Args:
        s1: Statistics of the first set.
        s2: Statistics of the second set.

    Returns:
        Non-negative float32 scalar; nan for no samples.

    Example:
        The only example that JEDi's own code has, times 100:

        >>> import numpy as np
        >>> from srvp_fd_jax import FeatureStatistics
        >>> from srvp_fd_jax.distances.jedi import jedi
        >>> x = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
        >>> y = [[7, 6, 5], [4, 3, 2], [1, 1, 8], [0, 2, 5]]
        >>> s1, s2 = (FeatureStatistics.from_features(np.float32(f)) for f in (x, y))
        >>> round(float(jedi(s1, s2)) / 100, 1)
        270.7
    """
    middle = (s1.mean + s2.mean) / 2
    outer = ((s1.mean - s2.mean) + (s1.mean_error - s2.mean_error))[:, None] * middle
    difference = (_covariance(s1) - _covariance(s2)) + (outer + outer.T)
    return 100 * jnp.sum((difference / s1.dim) ** 2)


@jax.jit
def jedi_unbiased(
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "m d"],
    x_counts: Bool[AnyArray, " n"] | None = None,
    y_counts: Bool[AnyArray, " m"] | None = None,
    x_variances: Float[AnyArray, "n d"] | None = None,
    y_variances: Float[AnyArray, "m d"] | None = None,
) -> Float[Array, ""]:
    """Computes the unbiased form of JEDi's distance between two sets of samples, see `jedi`.

    Args:
        x: Samples of the first set.
        y: Samples of the second set.
        x_counts: False for rows of `x` to ignore. None counts all rows.
        y_counts: The same for `y`.
        x_variances: Variances of the samples, if they are diagonal Gaussians.
        y_variances: The same for `y`.

    Returns:
        Float32 scalar, which may be negative; nan for fewer than two samples in a set.

    Example:
        >>> import numpy as np
        >>> from srvp_fd_jax import FeatureStatistics
        >>> from srvp_fd_jax.distances.jedi import jedi, jedi_unbiased
        >>> x, y = np.random.default_rng(0).normal(size=(2, 20, 50)).astype(np.float32)
        >>> s1, s2 = map(FeatureStatistics.from_features, (x, y))
        >>> bool(jedi(s1, s2) > 10), bool(abs(jedi_unbiased(x, y)) < 1)
        (True, True)
    """
    sets = [(x, x_counts, x_variances), (y, y_counts, y_variances)]
    s1, s2 = (_of_rows(*rows) for rows in sets)
    biases = [_bias(s, _quartic_sum(*rows)) for s, rows in zip((s1, s2), sets, strict=True)]
    return jedi(s1, s2) - 100 * sum(biases) / s1.dim**2


def _unbiased(s1: FeatureSample, s2: FeatureSample) -> Float[Array, ""]:
    rows = [
        (s.features[:, 0], s.variances if s.variances is None else s.variances[:, 0])
        for s in (s1, s2)
    ]
    (x, of_x), (y, of_y) = rows
    return jedi_unbiased(x, y, s1.held, s2.held, of_x, of_y)


def _of_rows(
    features: Float[AnyArray, "n d"],
    mask: Bool[AnyArray, " n"] | None,
    variances: Float[AnyArray, "n d"] | None,
) -> FeatureStatistics:
    given = {"features": features} | ({} if variances is None else {"variances": variances})
    moments = {name: jnp.asarray(x, jnp.float32)[:, None] for name, x in given.items()}
    return of_nothing(features.shape[1], variances is not None).fold(moments, mask)


def _bias(s: FeatureStatistics, quartic_sum: Float[Array, ""]) -> Float[Array, ""]:
    count = s._count()
    moments = _covariance(s) + s.mean[:, None] * s.mean
    return (quartic_sum / count - jnp.sum(moments**2)) / (count - 1)


def _covariance(s: FeatureStatistics) -> Float[Array, "d d"]:
    """Covariance with the divisor n, without a factor of it."""
    covariance = matmul(s.factor.T, s.factor)
    if s.variance_sum is not None:
        covariance = covariance + jnp.diag(s.variance_sum)
    return covariance / s._count()


def _quartic_sum(
    features: Float[AnyArray, "n d"],
    mask: Bool[AnyArray, " n"] | None,
    variances: Float[AnyArray, "n d"] | None,
) -> Float[Array, ""]:
    """Σ ‖xᵢ‖⁴; of Gaussians Σ ‖μᵢμᵢᵀ + diag σᵢ²‖²_F, the mean kernel of points of one component."""
    squares = jnp.asarray(features, jnp.float32) ** 2
    quartic = jnp.sum(squares, axis=1) ** 2
    if variances is not None:
        own = jnp.asarray(variances, jnp.float32)
        quartic += jnp.sum(own * (2 * squares + own), axis=1)
    return jnp.sum(quartic, where=None if mask is None else jnp.asarray(mask))
