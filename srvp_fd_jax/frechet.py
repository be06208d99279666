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
used, and the derivative rules below give one of the tangents that make dC = dAᵀA + AᵀdA right.
"""

import functools
from typing import Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

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
def covariance_factor(covariance: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Factor of a covariance by eigendecomposition, A = Λ^½ Uᵀ where C = U Λ Uᵀ.

    Args:
        covariance: Symmetric positive semi-definite matrix. Eigenvalues that rounding made
            negative count as zero.

    Returns:
        A with AᵀA = C. Its derivative is exact for changes of C within its range (repeated
        eigenvalues included); the directions that C does not span contribute nothing.
    """
    return _eigh_factor(covariance)[0]


@covariance_factor.defjvp
def _covariance_factor_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    # dA = ½ A⁻ᵀ dC solves AᵀdA + dAᵀA = dC; A⁻ᵀ = Λ^-½ Uᵀ, as a pseudo-inverse.
    (covariance,), (d_covariance,) = primals, tangents
    factor, eigenvalues, u = _eigh_factor(covariance)
    d = eigenvalues.shape[0]
    span = eigenvalues > d * jnp.finfo(eigenvalues.dtype).eps * eigenvalues[-1]
    inverse_root = jnp.where(span, jax.lax.rsqrt(jnp.where(span, eigenvalues, 1)), 0)
    symmetric = (d_covariance + d_covariance.T) / 2
    return factor, _matmul(inverse_root[:, None] * u.T, symmetric) / 2


def _eigh_factor(
    covariance: Float[Array, "d d"],
) -> tuple[Float[Array, "d d"], Float[Array, " d"], Float[Array, "d d"]]:
    eigenvalues, u = jnp.linalg.eigh(covariance)
    eigenvalues = jnp.maximum(eigenvalues, 0)
    return jnp.sqrt(eigenvalues)[:, None] * u.T, eigenvalues, u


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
    covariance_term = {"procrustes": _procrustes_residual, "eigh": _trace_formula}[method]
    return jnp.sum(mean_difference**2) + covariance_term(factor1, factor2)


def check_method(method: str) -> None:
    """Raises `ValueError` unless `method` is one of `Method`."""
    if method not in get_args(Method):
        allowed = ", ".join(map(repr, get_args(Method)))
        raise ValueError(f"method: got {method!r}, allowed are {allowed}")


def _procrustes_residual(a: Float[Array, "d d"], b: Float[Array, "d d"]) -> Float[Array, ""]:
    q = jax.lax.stop_gradient(_procrustes_rotation(a, b))
    return jnp.sum((a - _matmul(q, b)) ** 2)


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


def _trace_formula(a: Float[Array, "d d"], b: Float[Array, "d d"]) -> Float[Array, ""]:
    c1, c2 = _matmul(a.T, a), _matmul(b.T, b)
    eigenvalues, u = jnp.linalg.eigh(c1)
    root = _matmul(u * jnp.sqrt(jnp.maximum(eigenvalues, 0)), u.T)
    eigenvalues = jnp.linalg.eigvalsh(_matmul(_matmul(root, c2), root))
    trace_of_root = jnp.sum(jnp.sqrt(jnp.maximum(eigenvalues, 0)))
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
    d = np.shape(mu1)[0] if np.ndim(mu1) == 1 else None
    named = {"mu1": mu1, "sigma1": sigma1, "mu2": mu2, "sigma2": sigma2}
    for name, value in named.items():
        if d is None or np.shape(value) != (shape := (d,) if name.startswith("mu") else (d, d)):
            expected = shape if d is not None else "[d]"
            raise ValueError(f"{name}: got shape {np.shape(value)}, expected {expected}")
        if not isinstance(value, jax.core.Tracer):
            _check_moment(name, np.asarray(value))
    m1, c1, m2, c2 = (jnp.asarray(v, jnp.result_type(float)) for v in named.values())
    return _distance_from_moments(m1, c1, m2, c2, method)


def _check_moment(name: str, value: np.ndarray) -> None:
    if not np.isfinite(value).all():
        raise ValueError(f"{name}: got values that are not finite")
    if value.ndim == 2 and not np.allclose(value, value.T, rtol=1e-3, atol=1e-3 * value.max()):
        raise ValueError(f"{name}: got a matrix that is not symmetric, expected a covariance")


@functools.partial(jax.jit, static_argnames="method")
def _distance_from_moments(
    m1: Float[Array, " d"],
    c1: Float[Array, "d d"],
    m2: Float[Array, " d"],
    c2: Float[Array, "d d"],
    method: Method,
) -> Float[Array, ""]:
    factors = covariance_factor(c1), covariance_factor(c2)
    return frechet_distance_from_factors(m1 - m2, *factors, method)
