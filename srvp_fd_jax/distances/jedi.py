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
import os
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from srvp_fd_jax.devices import AnyArray, Division, zeros
from srvp_fd_jax.distances.factors import matmul
from srvp_fd_jax.distances.states import (
    Kind,
    Source,
    check_comparable,
    check_finite,
    gather,
    mark,
    save,
)
from srvp_fd_jax.distances.statistics import FeatureStatistics, nothing


@dataclasses.dataclass(frozen=True)
class Jedi:
    """The distance of JEDi, 100 MMD², from second moments.

    Gaussian mixtures are compared by the second moments of the mixtures. Covariances have the
    divisor n, whatever that of a protocol is.

    Attributes:
        unbiased: Whether the kernel of a sample with itself is left out.
    """

    unbiased: bool = False

    least = 2

    @property
    def kind(self) -> Kind:
        """See `Distance.kind`."""
        return "estimate" if self.unbiased else "distance"

    def empty(self, dim: int, mixture: bool, most: int | None = None) -> Any:
        """See `Distance.empty`."""
        statistics = nothing(dim, mixture)
        return (
            QuarticStatistics(statistics, zeros((), jnp.float32)) if self.unbiased else statistics
        )

    def caution(self, count: int, dim: int) -> str | None:
        """See `Distance.caution`; there is none."""
        return None

    def between(self, named: Mapping[str, Any]) -> Float[Array, ""]:
        """See `Distance.between`."""
        check_comparable(*named.values())
        distance = (jedi_unbiased if self.unbiased else jedi)(*named.values())
        check_finite(distance, named, "jedi")
        return distance


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QuarticStatistics:
    """Statistics of features, and the sum of the fourth powers of their norms; a pytree.

    Attributes:
        statistics: Mean and covariance.
        quartic_sum: Σ ‖xᵢ‖⁴; of Gaussians with means μᵢ and variances σᵢ², Σ ‖μᵢμᵢᵀ + diag σᵢ²‖²_F,
            the mean kernel of two points of one component.
        source: Where the features come from, see `FeatureStatistics`.
    """

    statistics: FeatureStatistics
    quartic_sum: Float[Array, "*stack"]
    source: Source = dataclasses.field(default=(), metadata={"static": True})

    @property
    def count(self) -> Any:
        """Number of samples, see `FeatureStatistics.count`."""
        return self.statistics.count

    @property
    def dim(self) -> int:
        """Feature dimension d."""
        return self.statistics.dim

    def fold(
        self,
        features: Float[AnyArray, "n d"],
        mask: Bool[AnyArray, " n"] | None,
        variances: Float[AnyArray, "n d"] | None,
        division: Division,
    ) -> "QuarticStatistics":
        """See `State.fold`."""
        return dataclasses.replace(
            self,
            statistics=self.statistics.fold(features, mask, variances, division),
            quartic_sum=self.quartic_sum + _quartic_sum(features, mask, variances),
        )

    def merge(self, other: "QuarticStatistics") -> "QuarticStatistics":
        """See `State.merge`."""
        check_comparable(self, other, same_side=True)
        both = dataclasses.replace(
            self,
            statistics=self.statistics.merge(other.statistics),
            quartic_sum=self.quartic_sum + other.quartic_sum,
        )
        return mark(both, **dict(other.source))

    def reduce(self) -> "QuarticStatistics":
        """See `State.reduce`."""
        return dataclasses.replace(
            self, statistics=self.statistics.reduce(), quartic_sum=jnp.sum(self.quartic_sum, axis=0)
        )

    def all_reduce(self, axis_name: Hashable | tuple[Hashable, ...]) -> "QuarticStatistics":
        """Merges the statistics of all devices, see `FeatureStatistics.all_reduce`."""
        return gather(self, axis_name).reduce()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes unstacked statistics to a file that `load_statistics` reads."""
        save(self, Path(path))


nnx.register_data_type(QuarticStatistics)


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
def jedi_unbiased(s1: QuarticStatistics, s2: QuarticStatistics) -> Float[Array, ""]:
    """Computes the unbiased form of JEDi's distance, see `jedi`.

    Returns:
        Float32 scalar, which may be negative; nan for fewer than two samples in a set.

    Example:
        >>> import numpy as np
        >>> from srvp_fd_jax.distances.jedi import Jedi, jedi, jedi_unbiased
        >>> x, y = np.random.default_rng(0).normal(size=(2, 20, 50)).astype(np.float32)
        >>> empty = Jedi(unbiased=True).empty(50, False)
        >>> s1, s2 = (empty.fold(f, None, None, 1) for f in (x, y))
        >>> bool(jedi(s1.statistics, s2.statistics) > 10), bool(abs(jedi_unbiased(s1, s2)) < 1)
        (True, True)
    """
    bias = (_bias(s1) + _bias(s2)) / s1.dim**2
    return jedi(s1.statistics, s2.statistics) - 100 * bias


def _bias(s: QuarticStatistics) -> Float[Array, ""]:
    count, mean = s.statistics._count(), s.statistics.mean
    moments = _covariance(s.statistics) + mean[:, None] * mean
    return (s.quartic_sum / count - jnp.sum(moments**2)) / (count - 1)


def _covariance(s: FeatureStatistics) -> Float[Array, "d d"]:
    """Covariance with the divisor n, without a factor of it."""
    covariance = matmul(s.factor.T, s.factor)
    if s.variance_sum is not None:
        covariance = covariance + jnp.diag(s.variance_sum)
    return covariance / s._count()


@jax.jit
def _quartic_sum(
    features: Float[AnyArray, "n d"],
    mask: Bool[AnyArray, " n"] | None,
    variances: Float[AnyArray, "n d"] | None,
) -> Float[Array, ""]:
    squares = jnp.asarray(features, jnp.float32) ** 2
    quartic = jnp.sum(squares, axis=1) ** 2
    if variances is not None:
        own = jnp.asarray(variances, jnp.float32)
        quartic += jnp.sum(own * (2 * squares + own), axis=1)
    return jnp.sum(quartic, where=None if mask is None else jnp.asarray(mask))
