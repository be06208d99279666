r"""The Fréchet distance between Gaussians, evaluated as a sum of squares.

For N(m₁, C₁) and N(m₂, C₂) the squared Fréchet (2-Wasserstein) distance is (Dowson & Landau 1982)

    FD = ‖m₁ − m₂‖² + Tr(C₁ + C₂ − 2 (C₁ C₂)^½).

The terms of this trace cancel: for close sets only rounding errors of either sign remain. With
factors A, B such that AᵀA = C₁ and BᵀB = C₂, the same quantity is an orthogonal Procrustes problem,

    FD = ‖m₁ − m₂‖² + min over orthogonal Q of ‖A − Q B‖²_F,   Q = U Vᵀ where A Bᵀ = U S Vᵀ,

since ‖A − Q B‖² = Tr C₁ + Tr C₂ − 2 Tr(Qᵀ A Bᵀ), and the last trace is at most the sum of the
singular values of A Bᵀ, which is Tr (C₁ C₂)^½. This form is never negative. Q is a minimiser, so an
error in Q has only a second-order effect, and float32 is enough. By the envelope theorem the
gradient is exact with Q held constant, so it is finite even for singular covariances.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import ClassVar, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from srvp_fd_jax.devices import AnyArray, values
from srvp_fd_jax.distances.base import Kind, check_counts, check_finite, check_ranges
from srvp_fd_jax.distances.factors import (
    covariance_factor,
    matmul,
    one_at_full_rank,
    solve_sylvester,
    tolerance,
)
from srvp_fd_jax.distances.provenance import check_comparable
from srvp_fd_jax.distances.statistics import FeatureStatistics, divided_factor
from srvp_fd_jax.files.inputs import as_array, as_count, not_allowed

Method = Literal["procrustes", "eigh"]


@dataclasses.dataclass(frozen=True)
class Frechet:
    """The squared Fréchet distance between Gaussians fitted to two sets of features.

    Attributes:
        method: Method of evaluation, see `frechet_distance_from_factors`.
    """

    method: Method = "procrustes"

    least = 2  # a covariance needs two samples
    kind: ClassVar[Kind] = "distance"
    size: ClassVar[int] = 0

    def __post_init__(self) -> None:
        """Raises a `ValueError` if `method` is unknown."""
        check_method(self.method)

    def caution(self, count: int, dim: int) -> str | None:
        """Warning text if the covariance is singular, else None."""
        if count > dim:
            return None
        return (
            f"{count} samples for {dim} feature dimensions leave the covariance singular and the "
            "distance strongly biased"
        )

    def between(
        self, named: Mapping[str, FeatureStatistics], ddof: int | None = None
    ) -> Float[Array, ""]:
        """See `Distance.between`, and `frechet_distance_from_statistics` for `ddof`."""
        s1, s2 = named.values()
        check_comparable(s1, s2)
        divisor = _common_ddof(named, ddof)
        for name, s in named.items():
            s.check_divisor(divisor, None if ddof is not None else name)
        distance = _distance(s1.bare(), s2.bare(), self.method, divisor)
        check_finite(distance, named, "frechet")
        return distance


@functools.partial(jax.jit, static_argnames="method")
def frechet_distance_from_factors(
    mean_difference: Float[Array, " d"],
    factor1: Float[Array, "d d"],
    factor2: Float[Array, "d d"],
    method: Method = "procrustes",
) -> Float[Array, ""]:
    """Squared Fréchet distance between two Gaussians given by factors of their covariances.

    Dowson & Landau 1982, J. Multivariate Anal. 12. The module's docstring derives the formula.

    Args:
        mean_difference: Difference of the means, m₁ − m₂.
        factor1: Factor A of the first covariance, AᵀA = C₁.
        factor2: Factor B of the second covariance, BᵀB = C₂.
        method: "procrustes" minimises ‖A − Q B‖² over orthogonal Q. "eigh" is the textbook formula:
            the square root of C₁ by eigendecomposition, then the eigenvalues of C₁^½ C₂ C₁^½. It
            loses digits by cancellation, and its gradient is not finite at singular covariances.

    Returns:
        Non-negative scalar of the inputs' dtype.

    Raises:
        ValueError: If `method` is unknown.

    Example:
        The distance between N(0, I) and N(0, 4 I) in three dimensions is 3 · (1 − 2)², also if a
        factor is rotated.

        >>> import jax.numpy as jnp
        >>> from srvp_fd_jax.distances.frechet import frechet_distance_from_factors
        >>> turned = jnp.eye(3)[jnp.array([1, 2, 0])]
        >>> round(float(frechet_distance_from_factors(jnp.zeros(3), jnp.eye(3), 2 * turned)), 4)
        3.0
    """
    check_method(method)
    covariance_term = _procrustes_residual if method == "procrustes" else _trace_formula
    return jnp.sum(mean_difference**2) + covariance_term(factor1, factor2)


def check_method(method: str) -> None:
    """Raises a `ValueError` unless `method` is one of `Method`."""
    if method not in get_args(Method):
        raise not_allowed("method", method, get_args(Method))


@jax.custom_jvp
def _procrustes_residual(a: Float[Array, "d d"], b: Float[Array, "d d"]) -> Float[Array, ""]:
    return jnp.sum((a - matmul(_procrustes_rotation(a, b), b)) ** 2)


@_procrustes_residual.defjvp
def _procrustes_residual_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    # By the envelope theorem the derivative of the minimiser Q does not contribute.
    (a, b), (da, db) = primals, tangents
    q = _procrustes_rotation(a, b)
    residual = a - matmul(q, b)
    return jnp.sum(residual**2), 2 * jnp.sum(residual * (da - matmul(q, db)))


@jax.custom_jvp
def _procrustes_rotation(a: Float[Array, "d d"], b: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Finds the orthogonal Q that minimises ‖A − Q B‖.

    The error of an SVD is proportional to the largest singular value, so the singular vectors of
    far smaller ones are arbitrary. For features with decaying spectra, this would contribute up to
    a hundredth of the distance between close sets. Rotated by U and V, these directions are small
    rows of A and B, whose product has full relative precision, so a second SVD of that product
    resolves them. It has half the size if at most half of the directions are unresolved.
    """
    d = a.shape[0]
    u, s, vt = jnp.linalg.svd(matmul(a, b.T))
    unresolved = s < 5e-5 * s[0]

    def resolve(start: int) -> Float[Array, "d d"]:
        rows = unresolved[start:, None]
        block = matmul(
            jnp.where(rows, matmul(u[:, start:].T, a), 0),
            jnp.where(rows, matmul(vt[start:], b), 0).T,
        )
        # A multiple of the identity in place of the resolved directions keeps their rotation.
        settled = jnp.where(unresolved[start:], 0, jnp.max(jnp.abs(block)))
        u2, _, vt2 = jnp.linalg.svd(block + jnp.diag(settled))
        vt_resolved = vt.at[start:].set(matmul(matmul(u2, vt2), vt[start:]))
        return matmul(u, vt_resolved)

    half = d // 2
    case = jnp.where(unresolved[half - 1], 2, jnp.where(unresolved[-1], 1, 0))
    branches = [lambda: matmul(u, vt), lambda: resolve(half), lambda: resolve(0)]
    return jax.lax.switch(case, branches)


@_procrustes_rotation.defjvp
def _procrustes_rotation_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    # Used by second derivatives only. Q is the orthogonal factor of A Bᵀ = M = Q H with a symmetric
    # H, so dQ = Q X with an antisymmetric X and H X + X H = Qᵀ dM − dMᵀ Q.
    (a, b), (da, db) = primals, tangents
    q = _procrustes_rotation(a, b)
    h = matmul(q.T, matmul(a, b.T))
    change = matmul(q.T, matmul(da, b.T) + matmul(a, db.T))
    h = (h + h.T) / 2
    x = solve_sylvester(h, change - change.T)
    return q, one_at_full_rank(h) * matmul(q, x)


def _trace_formula(a: Float[Array, "d d"], b: Float[Array, "d d"]) -> Float[Array, ""]:
    c1, c2 = matmul(a.T, a), matmul(b.T, b)
    root = covariance_factor(c1)
    trace_of_root = jnp.trace(covariance_factor(matmul(matmul(root, c2), root)))
    return jnp.maximum(jnp.trace(c1) + jnp.trace(c2) - 2 * trace_of_root, 0)


def frechet_distance_from_statistics(
    s1: FeatureStatistics,
    s2: FeatureStatistics,
    method: Method = "procrustes",
    *,
    ddof: int | None = None,
) -> Float[Array, ""]:
    """Squared Fréchet distance between Gaussians fitted to two sets of features.

    Heusel et al. 2017, arXiv 1706.08500, with the distance of Dowson & Landau 1982. The function
    works under `jit` and `grad`. With the method "procrustes" the gradient is exact and finite,
    also for rank-deficient covariances and for s1 = s2. Outside of `jit` the call waits for the
    values of the statistics and checks them.

    Args:
        s1: Statistics of the first set.
        s2: Statistics of the second set.
        method: "procrustes" or "eigh", see `frechet_distance_from_factors`.
        ddof: Scatter matrices are divided by count − ddof: 1 for unbiased covariances, 0 for those
            of StyleGAN-V's FVD. None takes the value in the statistics' `source`, or else 1.

    Returns:
        Non-negative scalar of the statistics' dtype; nan under `jit` if a count is below 2.

    Raises:
        ValueError: If the dimensions, sources or divisors disagree, if only one set is a mixture,
            or (outside of `jit`) if a set has fewer than two samples or values that are not finite.

    Example:
        The distance between features and the same features moved by (3, 4) is 25:

        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> features = np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32)
        >>> moved = features + np.array([3, 4], np.float32)
        >>> s1, s2 = map(srvp_fd_jax.FeatureStatistics.from_features, (features, moved))
        >>> round(float(srvp_fd_jax.frechet_distance_from_statistics(s1, s2)), 3)
        25.0
    """
    named = {"s1": s1, "s2": s2}
    for name, s in named.items():
        if not isinstance(s, FeatureStatistics):
            raise ValueError(f"{name}: got a {type(s).__name__}, expected FeatureStatistics")
    check_comparable(s1, s2)
    distance = Frechet(method)
    check_counts(distance, {name: s.count for name, s in named.items()}, s1.dim)
    check_ranges(named)
    return distance.between(named, ddof)


def _common_ddof(named: Mapping[str, FeatureStatistics], ddof: int | None) -> int:
    marked = {int(mark) for s in named.values() if (mark := dict(s.source).get("ddof")) is not None}
    if ddof is None:
        return marked.pop() if marked else 1  # comparable statistics have at most one mark
    if marked - {as_count(ddof, "ddof", least=0)}:
        raise ValueError(f"ddof: got {ddof}, the statistics are marked with {marked.pop()}")
    return ddof


@functools.partial(jax.jit, static_argnames=("method", "ddof"))
def _distance(
    s1: FeatureStatistics, s2: FeatureStatistics, method: Method, ddof: int
) -> Float[Array, ""]:
    mean_difference = (s1.mean - s2.mean) + (s1.mean_error - s2.mean_error)
    factors = divided_factor(s1, ddof), divided_factor(s2, ddof)
    return frechet_distance_from_factors(mean_difference, *factors, method)


def frechet_distance_from_moments(
    mu1: ArrayLike,
    sigma1: ArrayLike,
    mu2: ArrayLike,
    sigma2: ArrayLike,
    method: Method = "procrustes",
) -> Float[Array, ""]:
    """Squared Fréchet distance between two Gaussians given by means and covariances.

    Dowson & Landau 1982, J. Multivariate Anal. 12. A covariance in float32 cannot represent
    standard deviations below 3e-4 of the largest one, because it contains their squares. If you
    have the features, use `FeatureStatistics`.

    Args:
        mu1: Mean [d] of the first Gaussian, float.
        sigma1: Covariance [d, d] of the first Gaussian, symmetric positive semi-definite.
        mu2: Mean [d] of the second Gaussian.
        sigma2: Covariance [d, d] of the second Gaussian.
        method: "procrustes" or "eigh", see `frechet_distance_from_factors`.

    Returns:
        Non-negative scalar, float32 (float64 for float64 inputs if JAX has x64 enabled).

    Raises:
        ValueError: If `method` is unknown, shapes disagree, or (outside of `jit`) a value is not
            finite or a covariance is not symmetric positive semi-definite.

    Example:
        Means at a distance of 5 and standard deviations 1 and 2 in two dimensions give 25 + 2:

        >>> import numpy as np
        >>> import srvp_fd_jax
        >>> distance = srvp_fd_jax.frechet_distance_from_moments(
        ...     np.zeros(2), np.eye(2), np.array([3.0, 4.0]), 4 * np.eye(2)
        ... )
        >>> round(float(distance), 4)
        27.0
    """
    named = {"mu1": mu1, "sigma1": sigma1, "mu2": mu2, "sigma2": sigma2}
    m1, c1, m2, c2 = arrays = [as_array(value, name) for name, value in named.items()]
    for name, array in zip(named, arrays, strict=True):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise ValueError(f"{name}: got dtype {array.dtype}, expected floats")
    d = m1.shape[0] if m1.ndim == 1 else None
    for name, array in zip(named, arrays, strict=True):
        if d is None or array.shape != (shape := (d,) if name.startswith("mu") else (d, d)):
            expected = shape if d is not None else "[d]"
            raise ValueError(f"{name}: got shape {array.shape}, expected {expected}")
        if (concrete := values(array)) is not None:
            _check_moment(name, concrete)
    if isinstance(m1, np.ndarray) and isinstance(m2, np.ndarray):
        # Float64 means are subtracted before the cast to float32.
        difference: AnyArray = np.subtract(m1, m2)
    else:
        difference = m1 - m2
    in_jax = (jnp.asarray(x, jnp.result_type(float)) for x in (difference, c1, c2))
    distance = _distance_from_moments(*in_jax, method)
    check_finite(distance, dict(zip(named, arrays, strict=True)), "frechet")
    return distance


def _check_moment(name: str, value: np.ndarray) -> None:
    relative = tolerance(value)
    value = value.astype(np.float64)
    if not np.isfinite(value).all():
        raise ValueError(f"{name}: got values that are not finite")
    if value.ndim == 1:
        return
    # Correlations are checked, because large variances would hide errors beside small ones.
    variances = np.diagonal(value)
    scales = np.sqrt(np.where(variances > 0, variances, 1))
    correlations = value / scales[:, None] / scales
    if np.abs(correlations - correlations.T).max() > relative:
        raise ValueError(f"{name}: got a matrix that is not symmetric, expected a covariance")
    try:
        np.linalg.cholesky(correlations + 2 * relative * np.eye(len(value)))
        semidefinite = variances.min() >= -1e-6 * variances.max()
    except np.linalg.LinAlgError:
        semidefinite = False
    if not semidefinite:
        raise ValueError(
            f"{name}: got a matrix with negative eigenvalues, expected a covariance, which has none"
        )


@functools.partial(jax.jit, static_argnames="method")
def _distance_from_moments(
    mean_difference: Float[Array, " d"],
    c1: Float[Array, "d d"],
    c2: Float[Array, "d d"],
    method: Method,
) -> Float[Array, ""]:
    factors = covariance_factor(c1), covariance_factor(c2)
    return frechet_distance_from_factors(mean_difference, *factors, method)
