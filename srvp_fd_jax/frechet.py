r"""The Fréchet distance between Gaussians, evaluated as a sum of squares.

For N(m₁, C₁) and N(m₂, C₂) the squared Fréchet (2-Wasserstein) distance is (Dowson & Landau 1982)

    FD = ‖m₁ − m₂‖² + Tr(C₁ + C₂ − 2 (C₁ C₂)^½).

Evaluated as it stands the trace cancels: close sets leave nothing but rounding errors, of either
sign. With factors A, B such that AᵀA = C₁ and BᵀB = C₂ the same quantity is an orthogonal
Procrustes problem,

    FD = ‖m₁ − m₂‖² + min over orthogonal Q of ‖A − Q B‖²_F,   Q = U Vᵀ where A Bᵀ = U S Vᵀ,

since ‖A − Q B‖² = Tr C₁ + Tr C₂ − 2 Tr(Qᵀ A Bᵀ), whose last trace is at most the sum of the
singular values of A Bᵀ, which is Tr (C₁ C₂)^½. This form is never negative; Q is a minimiser, so an
error in Q enters to second order only and float32 is enough; and by the envelope theorem the
gradient is exact with Q held constant, so it stays finite where the covariances are singular.

A factor is defined up to an orthogonal matrix on its left. Nothing here depends on which one is
used, and the derivative rules below give one of the tangents that make dC = dAᵀA + AᵀdA right. The
rules can be differentiated again: second derivatives are right where the covariances have full
rank, and nan where they do not, since the distance has none there.
"""

import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from srvp_fd_jax.devices import AnyArray, values
from srvp_fd_jax.inputs import as_array

Method = Literal["procrustes", "eigh"]

# TPUs multiply float32 matrices in bfloat16 and recent GPUs in TF32 unless told otherwise.
_matmul = functools.partial(jnp.matmul, precision="highest")


@jax.custom_jvp
def triangular_factor(rows: Float[Array, "n d"]) -> Float[Array, "d d"]:
    """Reduces a factor of any height to a triangular one: R with RᵀR = rowsᵀ rows.

    By QR, so that the product, whose condition number is the square, is never formed.

    Args:
        rows: Factor of a covariance or scatter matrix, with any number of rows.

    Returns:
        Upper triangular factor, padded with zero rows where n < d. Its derivative is exact for
        every function of RᵀR, whatever the rank.
    """
    n, d = rows.shape
    return jnp.pad(jnp.linalg.qr(rows, mode="r"), ((0, max(0, d - n)), (0, 0)))


@triangular_factor.defjvp
def _triangular_factor_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    # With rows = P R and P's columns orthonormal, PᵀdZ is a tangent of R that gives the right
    # d(RᵀR) = dZᵀZ + ZᵀdZ. The derivative of QR itself would divide by R.
    (rows,), (d_rows,) = primals, tangents
    n, d = rows.shape
    p, r = jnp.linalg.qr(rows)
    padding = ((0, max(0, d - n)), (0, 0))
    return jnp.pad(r, padding), jnp.pad(_matmul(p.T, d_rows), padding)


@jax.custom_jvp
def add_diagonal(factor: Float[Array, "d d"], variances: Float[Array, " d"]) -> Float[Array, "d d"]:
    """Factor of AᵀA + diag(v), which is not formed.

    Args:
        factor: A.
        variances: v, not negative.

    Returns:
        Upper triangular factor. Its derivative is exact at variances of zero too, where that of
        their root is infinite, as long as AᵀA + diag(v) has full rank.
    """
    return triangular_factor(_with_diagonal(factor, variances))


@add_diagonal.defjvp
def _add_diagonal_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    # As for triangular_factor in A, with the rows of P that belong to it; ½ T⁻ᵀ diag(dv) in v.
    (factor, variances), (d_factor, d_variances) = primals, tangents
    p, t = jnp.linalg.qr(_with_diagonal(factor, variances))
    pivots = jnp.abs(jnp.diagonal(t))
    singular = pivots <= len(pivots) * jnp.finfo(t.dtype).eps * jnp.max(pivots)
    invertible = jnp.where(jnp.diag(singular), 1, t)
    of_variances = jax.scipy.linalg.solve_triangular(invertible, jnp.diag(d_variances), trans=1)
    return t, _matmul(p[: len(factor)].T, d_factor) + of_variances / 2


def _with_diagonal(
    factor: Float[Array, "d d"], variances: Float[Array, " d"]
) -> Float[Array, "two_d d"]:
    return jnp.vstack([factor, jnp.diag(jnp.sqrt(variances))])


@jax.custom_jvp
def covariance_factor(covariance: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Symmetric factor of a covariance by eigendecomposition, U Λ^½ Uᵀ where C = U Λ Uᵀ.

    Args:
        covariance: Symmetric positive semi-definite matrix. Eigenvalues that rounding made
            negative count as zero.

    Returns:
        A with AᵀA = C; nan where an eigenvalue is further below zero than rounding takes it. The
        derivative is exact for changes of C within its range (repeated eigenvalues included); the
        directions that C does not span contribute nothing.
    """
    eigenvalues, u = jnp.linalg.eigh(covariance)
    roots = jnp.sqrt(jnp.maximum(eigenvalues, 0))
    indefinite = eigenvalues[0] < -_tolerance(covariance) * eigenvalues[-1]
    return _matmul(u * jnp.where(indefinite, jnp.nan, roots)[None], u.T)


@covariance_factor.defjvp
def _covariance_factor_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    # A A = C, so A dA + dA A = dC.
    (covariance,), (d_covariance,) = primals, tangents
    factor = covariance_factor(covariance)
    change = (d_covariance + d_covariance.T) / 2
    return factor, _solve_sylvester(_smooth_at_full_rank(factor), change)


def _solve_sylvester(a: Float[Array, "d d"], k: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The X that solves A X + X A = K, for a symmetric positive semi-definite A.

    In the eigenvectors of A every entry is divided by the sum of two eigenvalues; what belongs to
    two that are zero but for rounding is left out.
    """

    def apply(x: Float[Array, "d d"]) -> Float[Array, "d d"]:
        return _matmul(a, x) + _matmul(x, a)

    def solve(_: Any, k: Float[Array, "d d"]) -> Float[Array, "d d"]:
        eigenvalues, u = jnp.linalg.eigh(a)
        sums = eigenvalues[:, None] + eigenvalues[None]
        solvable = sums > len(a) * jnp.finfo(a.dtype).eps * eigenvalues[-1]
        x = jnp.where(solvable, _matmul(_matmul(u.T, k), u) / jnp.where(solvable, sums, 1), 0)
        return _matmul(_matmul(u, x), u.T)

    return jax.lax.custom_linear_solve(apply, k, solve, symmetric=True)


@jax.custom_jvp
def _smooth_at_full_rank(a: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """A itself, whose derivative is nan where it is singular: there second derivatives end."""
    return a


@_smooth_at_full_rank.defjvp
def _smooth_at_full_rank_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    (a,), (da,) = primals, tangents
    return a, _one_at_full_rank(a) * da


def _one_at_full_rank(a: Float[Array, "d d"]) -> Float[Array, ""]:
    """1, or nan for a symmetric matrix that is singular."""
    eigenvalues = jnp.linalg.eigvalsh(a)
    full_rank = eigenvalues[0] > len(a) * jnp.finfo(a.dtype).eps * eigenvalues[-1]
    return jnp.where(full_rank, 1, jnp.nan).astype(a.dtype)


@functools.partial(jax.jit, static_argnames="method")
def frechet_distance_from_factors(
    mean_difference: Float[Array, " d"],
    factor1: Float[Array, "d d"],
    factor2: Float[Array, "d d"],
    method: Method = "procrustes",
) -> Float[Array, ""]:
    """Squared Fréchet distance between two Gaussians given by factors of their covariances.

    Dowson & Landau 1982, J. Multivariate Anal. 12; for the form see this module's head.

    Args:
        mean_difference: m₁ − m₂.
        factor1: A with AᵀA = C₁.
        factor2: B with BᵀB = C₂.
        method: "procrustes" evaluates the sum of squares of this module's head. "eigh" is the
            textbook form: the square root of C₁ by eigendecomposition, then the eigenvalues of
            C₁^½ C₂ C₁^½; it cancels digits and has no finite gradient at singular covariances.

    Returns:
        Non-negative scalar of the inputs' dtype.

    Raises:
        ValueError: If `method` is unknown.

    Example:
        Of N(0, I) and N(0, 4 I), turned, in three dimensions: 3 · (1 − 2)².

        >>> import jax.numpy as jnp
        >>> from srvp_fd_jax.frechet import frechet_distance_from_factors
        >>> turned = jnp.eye(3)[jnp.array([1, 2, 0])]
        >>> round(float(frechet_distance_from_factors(jnp.zeros(3), jnp.eye(3), 2 * turned)), 4)
        3.0
    """
    check_method(method)
    covariance_term = _procrustes_residual if method == "procrustes" else _trace_formula
    return jnp.sum(mean_difference**2) + covariance_term(factor1, factor2)


def check_method(method: str) -> None:
    """Raises `ValueError` unless `method` is one of `Method`."""
    if method not in get_args(Method):
        allowed = ", ".join(map(repr, get_args(Method)))
        raise ValueError(f"method: got {method!r}, allowed are {allowed}")


@jax.custom_jvp
def _procrustes_residual(a: Float[Array, "d d"], b: Float[Array, "d d"]) -> Float[Array, ""]:
    return jnp.sum((a - _matmul(_procrustes_rotation(a, b), b)) ** 2)


@_procrustes_residual.defjvp
def _procrustes_residual_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    # The envelope theorem: Q is a minimiser, so its own change does not count.
    (a, b), (da, db) = primals, tangents
    q = _procrustes_rotation(a, b)
    residual = a - _matmul(q, b)
    return jnp.sum(residual**2), 2 * jnp.sum(residual * (da - _matmul(q, db)))


@jax.custom_jvp
def _procrustes_rotation(a: Float[Array, "d d"], b: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The orthogonal Q that minimises ‖A − Q B‖.

    An SVD has an error of rounding times the largest singular value: the vectors of far smaller
    ones are arbitrary, which for features with decaying spectra leaves up to a hundredth of the
    distance between close sets. Turned by U and V those directions are small rows of A and B,
    whose own product holds them to full relative precision: one more SVD settles them. Where they
    are few, it is of half the size.
    """
    d = a.shape[0]
    u, s, vt = jnp.linalg.svd(_matmul(a, b.T))
    unresolved = s < 5e-5 * s[0]

    def resolve(start: int) -> Float[Array, "d d"]:
        rows = unresolved[start:, None]
        block = _matmul(
            jnp.where(rows, _matmul(u[:, start:].T, a), 0),
            jnp.where(rows, _matmul(vt[start:], b), 0).T,
        )
        # The settled directions keep their rotation: a multiple of the identity in their place.
        settled = jnp.where(unresolved[start:], 0, jnp.max(jnp.abs(block)))
        u2, _, vt2 = jnp.linalg.svd(block + jnp.diag(settled))
        vt_resolved = vt.at[start:].set(_matmul(_matmul(u2, vt2), vt[start:]))
        return _matmul(u, vt_resolved)

    half = d // 2
    case = jnp.where(unresolved[half - 1], 2, jnp.where(unresolved[-1], 1, 0))
    branches = [lambda: _matmul(u, vt), lambda: resolve(half), lambda: resolve(0)]
    return jax.lax.switch(case, branches)


@_procrustes_rotation.defjvp
def _procrustes_rotation_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    # Only second derivatives come here. Q is the orthogonal factor of A Bᵀ = M = Q H with H
    # symmetric, so dQ = Q X with X antisymmetric and H X + X H = Qᵀ dM − dMᵀ Q.
    (a, b), (da, db) = primals, tangents
    q = _procrustes_rotation(a, b)
    h = _matmul(q.T, _matmul(a, b.T))
    change = _matmul(q.T, _matmul(da, b.T) + _matmul(a, db.T))
    h = (h + h.T) / 2
    x = _solve_sylvester(h, change - change.T)
    return q, _one_at_full_rank(h) * _matmul(q, x)


def _trace_formula(a: Float[Array, "d d"], b: Float[Array, "d d"]) -> Float[Array, ""]:
    c1, c2 = _matmul(a.T, a), _matmul(b.T, b)
    root = covariance_factor(c1)
    trace_of_root = jnp.trace(covariance_factor(_matmul(_matmul(root, c2), root)))
    return jnp.maximum(jnp.trace(c1) + jnp.trace(c2) - 2 * trace_of_root, 0)


def frechet_distance_from_moments(
    mu1: ArrayLike,
    sigma1: ArrayLike,
    mu2: ArrayLike,
    sigma2: ArrayLike,
    method: Method = "procrustes",
) -> Float[Array, ""]:
    """Squared Fréchet distance between two Gaussians given by means and covariances.

    Dowson & Landau 1982, J. Multivariate Anal. 12. A covariance holds the square of what a factor
    holds: in float32 the standard deviations below 3e-4 of the largest are rounding. Where the
    features are at hand, use `FeatureStatistics`.

    Args:
        mu1: Mean [d] of the first Gaussian, float.
        sigma1: Covariance [d, d] of the first Gaussian, symmetric positive semi-definite.
        mu2: Mean [d] of the second Gaussian.
        sigma2: Covariance [d, d] of the second Gaussian.
        method: "procrustes" or "eigh", see `frechet_distance_from_factors`.

    Returns:
        Non-negative scalar, float32 (float64 where the inputs are and JAX has x64 enabled).

    Raises:
        ValueError: If `method` is unknown, shapes disagree, or a value is not finite or a
            covariance not symmetric (on concrete arrays).

    Example:
        Means that are 5 apart, and standard deviations of 1 and 2 in two dimensions: 25 + 2.

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
        difference: AnyArray = np.subtract(
            m1, m2
        )  # in float64, where they are, before that is cast
    else:
        difference = m1 - m2
    in_jax = (jnp.asarray(x, jnp.result_type(float)) for x in (difference, c1, c2))
    return _distance_from_moments(*in_jax, method)


def _check_moment(name: str, value: np.ndarray) -> None:
    tolerance = _tolerance(value)
    value = value.astype(np.float64)
    if not np.isfinite(value).all():
        raise ValueError(f"{name}: got values that are not finite")
    if value.ndim == 1:
        return
    # Scaled to correlations, so that no large variance hides what is wrong beside small ones.
    variances = np.diagonal(value)
    scales = np.sqrt(np.where(variances > 0, variances, 1))
    correlations = value / scales[:, None] / scales
    if np.abs(correlations - correlations.T).max() > tolerance:
        raise ValueError(f"{name}: got a matrix that is not symmetric, expected a covariance")
    try:
        np.linalg.cholesky(correlations + 2 * tolerance * np.eye(len(value)))
        semidefinite = variances.min() >= -1e-6 * variances.max()
    except np.linalg.LinAlgError:
        semidefinite = False
    if not semidefinite:
        raise ValueError(
            f"{name}: got a matrix with negative eigenvalues, expected a covariance, which has none"
        )


def _tolerance(moment: Float[AnyArray, "d *d"]) -> float:
    """What rounding may add to a covariance's eigenvalues, relative to the largest."""
    return max(1e-3, len(moment) * float(jnp.finfo(moment.dtype).eps))


@functools.partial(jax.jit, static_argnames="method")
def _distance_from_moments(
    mean_difference: Float[Array, " d"],
    c1: Float[Array, "d d"],
    c2: Float[Array, "d d"],
    method: Method,
) -> Float[Array, ""]:
    factors = covariance_factor(c1), covariance_factor(c2)
    return frechet_distance_from_factors(mean_difference, *factors, method)
