"""Mean and covariance of features, held so that they stream, merge and keep every digit.

The state is not the sum of outer products, which squares the condition number and cancels where
the mean is large, but a triangular factor R of the scatter matrix, RᵀR = Σ (xᵢ − m)(xᵢ − m)ᵀ. A
batch Z of k rows with mean z is folded in by one QR decomposition (Chan, Golub & LeVeque 1983 for
the means, tall-skinny QR of Demmel et al. 2012 for the factor):

    R ← qr([R; Z − z; √(n k / (n + k)) (z − m)]),  m ← m + (z − m) k / (n + k),  n ← n + k.

Two statistics merge by the same formula with the other's R in place of Z − z: batches, devices,
hosts and files are all the same operation.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from srvp_fd_jax import frechet

AnyArray = Array | np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """First two moments of a set of features; a pytree, so it can be jitted, scanned and carried.

    For a mixture of diagonal Gaussians N(μᵢ, σᵢ²), one a sample, the features are the means μᵢ and
    the variances σᵢ² are summed beside them: the mixture has mean μ̄ and covariance
    cov(μᵢ) + diag(mean σᵢ²).

    Attributes:
        count: Number of samples, int32 scalar.
        mean: Their mean [d].
        mean_error: What rounding took from the mean [d]: `mean + mean_error` has twice the digits
            (Dekker 1971), so that a common offset costs the difference of two means nothing.
        factor: Upper triangular R [d, d] with RᵀR the scatter matrix about the mean.
        variance_sum: Sum of the component variances [d] of a mixture, else None.
    """

    count: Int[Array, ""]
    mean: Float[Array, " d"]
    mean_error: Float[Array, " d"]
    factor: Float[Array, "d d"]
    variance_sum: Float[Array, " d"] | None = None

    @classmethod
    def empty(
        cls, dim: int, *, mixture: bool = False, dtype: DTypeLike = jnp.float32
    ) -> "FeatureStatistics":
        """Statistics of no samples.

        Args:
            dim: Feature dimension d.
            mixture: Whether the samples are diagonal Gaussians, with variances.
            dtype: Floating type of the state.
        """
        zeros = jnp.zeros(dim, dtype)
        return cls(
            count=jnp.zeros((), jnp.int32),
            mean=zeros,
            mean_error=zeros,
            factor=jnp.zeros((dim, dim), dtype),
            variance_sum=zeros if mixture else None,
        )

    @classmethod
    def from_features(
        cls,
        features: Float[AnyArray, "n d"],
        mask: Bool[AnyArray, " n"] | None = None,
        variances: Float[AnyArray, "n d"] | None = None,
    ) -> "FeatureStatistics":
        """Statistics of one batch of features; the arguments are those of `update`."""
        empty = cls.empty(features.shape[1], mixture=variances is not None, dtype=features.dtype)
        return empty.update(features, mask, variances)

    @jax.jit
    def update(
        self,
        features: Float[AnyArray, "n d"],
        mask: Bool[AnyArray, " n"] | None = None,
        variances: Float[AnyArray, "n d"] | None = None,
    ) -> "FeatureStatistics":
        """Folds a batch in. It costs about 2(d + n)d² operations: fold batches of d or more.

        Args:
            features: One sample a row.
            mask: False for rows that do not count, such as the padding of a last batch.
            variances: Component variances σᵢ², for the statistics of a mixture only.

        Returns:
            New statistics; the old ones are unchanged.

        Raises:
            ValueError: If the dimensions disagree, or one of the two is a mixture and the other
                is not.
        """
        if features.ndim != 2 or features.shape[1] != self.mean.shape[0]:
            expected = f"[n, {self.mean.shape[0]}]"
            raise ValueError(f"features: got shape {features.shape}, expected {expected}")
        if (variances is None) != (self.variance_sum is None):
            got, expected = ("no ", "some") if variances is None else ("", "none")
            raise ValueError(f"variances: got {got}variances, expected {expected}")
        x = jnp.asarray(features)
        if mask is None:
            mask = jnp.ones(x.shape[0], bool)
        count = jnp.sum(mask, dtype=jnp.int32)

        def masked_mean(rows: Float[Array, "n d"]) -> Float[Array, " d"]:
            return jnp.sum(rows, axis=0, where=mask[:, None]) / jnp.maximum(count, 1)

        # The second mean corrects the rounding of the first, whatever the features' offset.
        mean = masked_mean(x)
        mean_error = masked_mean(x - mean)
        rows = jnp.where(mask[:, None], x - mean - mean_error, 0)
        variance_sum = None
        if variances is not None:
            variance_sum = jnp.sum(variances, axis=0, where=mask[:, None])
        return self._fold(count, mean, mean_error, rows, variance_sum)

    @jax.jit
    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Statistics of both sets of samples together; commutative up to rounding.

        Raises:
            ValueError: If the dimensions disagree, or one of the two is a mixture and the other
                is not.
        """
        _check_comparable(self, other)
        return self._fold(
            other.count, other.mean, other.mean_error, other.factor, other.variance_sum
        )

    def _fold(
        self,
        count: Int[Array, ""],
        mean: Float[Array, " d"],
        mean_error: Float[Array, " d"],
        rows: Float[Array, "n d"],
        variance_sum: Float[Array, " d"] | None,
    ) -> "FeatureStatistics":
        total = self.count + count
        share = (count / jnp.maximum(total, 1)).astype(rows.dtype)
        step, step_error = _two_sum(mean, -self.mean)
        step_error += mean_error - self.mean_error
        between = jnp.sqrt(self.count * share) * (step + step_error)
        new_mean, new_error = _two_sum(self.mean, step * share)
        return dataclasses.replace(
            self,
            count=total,
            mean=new_mean,
            mean_error=self.mean_error + step_error * share + new_error,
            factor=frechet.triangular_factor(jnp.vstack([self.factor, rows, between])),
            variance_sum=jax.tree.map(jnp.add, self.variance_sum, variance_sum),
        )

    def covariance(self, ddof: int = 1) -> Float[Array, "d d"]:
        """Covariance of the samples, the mean component variances of a mixture included.

        Args:
            ddof: The scatter matrix is divided by count − ddof.
        """
        scatter = jnp.matmul(self.factor.T, self.factor, precision="highest")
        covariance = scatter / (self.count - ddof)
        if self.variance_sum is None:
            return covariance
        return covariance + jnp.diag(self.variance_sum / self.count)

    def covariance_factor(self) -> Float[Array, "d d"]:
        """Factor A of the unbiased covariance, AᵀA = covariance(ddof=1), not formed from it."""
        factor = self.factor / jnp.sqrt(self.count - 1).astype(self.factor.dtype)
        if self.variance_sum is None:
            return factor
        spread = jnp.diag(jnp.sqrt(self.variance_sum / self.count))
        return frechet.triangular_factor(jnp.vstack([factor, spread]))


def _two_sum(
    a: Float[Array, " d"], b: Float[Array, " d"]
) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """The rounded sum a + b and, exactly, what rounding took from it (Knuth, TAOCP 2, 4.2.2)."""
    total = a + b
    b_part = total - a
    return total, (a - (total - b_part)) + (b - b_part)


def _check_comparable(s1: FeatureStatistics, s2: FeatureStatistics) -> None:
    d1, d2 = s1.mean.shape[0], s2.mean.shape[0]
    if d1 != d2:
        raise ValueError(f"statistics: got feature dimensions {d1} and {d2}, which must be equal")
    if (s1.variance_sum is None) != (s2.variance_sum is None):
        raise ValueError("statistics: one is of a Gaussian mixture and the other is not")


def frechet_distance_from_statistics(
    s1: FeatureStatistics, s2: FeatureStatistics, method: frechet.Method = "procrustes"
) -> Float[Array, ""]:
    """Squared Fréchet distance between Gaussians fitted to two sets of features.

    Covariances are unbiased (divided by count − 1). Works under `jit` and `grad`; the gradient is
    exact and finite for rank-deficient covariances and for s1 = s2 (method "procrustes").

    Args:
        s1: Statistics of the first set.
        s2: Statistics of the second set.
        method: "procrustes" or "eigh", see `frechet.frechet_distance_from_factors`.

    Returns:
        Non-negative scalar of the statistics' dtype.

    Raises:
        ValueError: If the dimensions disagree, one is a mixture and the other is not, or (on
            concrete statistics) one has fewer than two samples.
    """
    _check_comparable(s1, s2)
    for name, s in (("s1", s1), ("s2", s2)):
        if not isinstance(s.count, jax.core.Tracer) and s.count < 2:
            raise ValueError(f"{name}: got {s.count} samples, a covariance needs at least 2")
    mean_difference = (s1.mean - s2.mean) + (s1.mean_error - s2.mean_error)
    factors = s1.covariance_factor(), s2.covariance_factor()
    return frechet.frechet_distance_from_factors(mean_difference, *factors, method)
