"""Factors of covariances: matrices A with AᵀA = C, which carry twice as many digits as C.

A factor is unique only up to an orthogonal matrix on its left, and the distance does not depend on
that matrix. The derivative rules therefore give any tangent with dC = dAᵀA + AᵀdA. Second
derivatives are exact for covariances of full rank. For others they are nan, because the distance
has none there.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from srvp_fd_jax.devices import AnyArray

# By default TPUs multiply float32 matrices in bfloat16, and recent GPUs in TF32.
matmul = functools.partial(jnp.matmul, precision="highest")


@jax.custom_jvp
def triangular_factor(rows: Float[Array, "n d"]) -> Float[Array, "d d"]:
    """Reduces a factor with any number of rows to a triangular one: R with RᵀR = rowsᵀ rows.

    R comes from a QR decomposition. The product, which has the square of the condition number, is
    never formed.

    Args:
        rows: Factor of a covariance or scatter matrix.

    Returns:
        Upper triangular factor, padded with zero rows if n < d. The derivative of any function of
        RᵀR is exact, whatever the rank.
    """
    n, d = rows.shape
    return jnp.pad(jnp.linalg.qr(rows, mode="r"), ((0, max(0, d - n)), (0, 0)))


@triangular_factor.defjvp
def _triangular_factor_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    # For rows Z = P R with orthonormal columns of P, the tangent dR = PᵀdZ gives the right
    # d(RᵀR) = dZᵀZ + ZᵀdZ. The derivative of the QR decomposition itself would divide by R.
    (rows,), (d_rows,) = primals, tangents
    n, d = rows.shape
    p, r = jnp.linalg.qr(rows)
    padding = ((0, max(0, d - n)), (0, 0))
    return jnp.pad(r, padding), jnp.pad(matmul(p.T, d_rows), padding)


@jax.custom_jvp
def add_diagonal(factor: Float[Array, "d d"], variances: Float[Array, " d"]) -> Float[Array, "d d"]:
    """Upper triangular factor of AᵀA + diag(v), for a `factor` A and non-negative `variances` v.

    As long as AᵀA + diag(v) has full rank, the derivative is exact also at variances of zero, where
    the derivative of their square root is infinite.
    """
    return triangular_factor(_with_diagonal(factor, variances))


@add_diagonal.defjvp
def _add_diagonal_jvp(
    primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    # With [A; diag(v)^½] = P T, dT = P₁ᵀ dA + ½ T⁻ᵀ diag(dv), where P₁ are the rows of P for A.
    (factor, variances), (d_factor, d_variances) = primals, tangents
    p, t = jnp.linalg.qr(_with_diagonal(factor, variances))
    pivots = jnp.abs(jnp.diagonal(t))
    singular = pivots <= len(pivots) * jnp.finfo(t.dtype).eps * jnp.max(pivots)
    invertible = jnp.where(jnp.diag(singular), 1, t)
    of_variances = jax.scipy.linalg.solve_triangular(invertible, jnp.diag(d_variances), trans=1)
    return t, matmul(p[: len(factor)].T, d_factor) + of_variances / 2


def _with_diagonal(
    factor: Float[Array, "d d"], variances: Float[Array, " d"]
) -> Float[Array, "two_d d"]:
    return jnp.vstack([factor, jnp.diag(jnp.sqrt(variances))])


@jax.custom_jvp
def covariance_factor(covariance: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Symmetric factor A = U Λ^½ Uᵀ of a covariance C = U Λ Uᵀ, by eigendecomposition.

    Args:
        covariance: Symmetric positive semi-definite matrix C. Eigenvalues that are negative by
            rounding count as zero.

    Returns:
        Factor A with AᵀA = C, or nan if an eigenvalue is too negative for a rounding error. The
        derivative is exact for changes of C within its range, also for repeated eigenvalues.
        Directions outside the range of C do not contribute to it.
    """
    eigenvalues, u = jnp.linalg.eigh(covariance)
    roots = jnp.sqrt(jnp.maximum(eigenvalues, 0))
    indefinite = eigenvalues[0] < -tolerance(covariance) * eigenvalues[-1]
    return matmul(u * jnp.where(indefinite, jnp.nan, roots)[None], u.T)


@covariance_factor.defjvp
def _covariance_factor_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    # A A = C, so A dA + dA A = dC.
    (covariance,), (d_covariance,) = primals, tangents
    factor = covariance_factor(covariance)
    change = (d_covariance + d_covariance.T) / 2
    return factor, solve_sylvester(_smooth_at_full_rank(factor), change)


def solve_sylvester(a: Float[Array, "d d"], k: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Solves A X + X A = K for X, with a symmetric positive semi-definite A.

    In the basis of A's eigenvectors, each entry of K is divided by the sum of two eigenvalues. The
    entry of X is 0 if that sum is 0 up to rounding.
    """

    def apply(x: Float[Array, "d d"]) -> Float[Array, "d d"]:
        return matmul(a, x) + matmul(x, a)

    def solve(_: Any, k: Float[Array, "d d"]) -> Float[Array, "d d"]:
        eigenvalues, u = jnp.linalg.eigh(a)
        sums = eigenvalues[:, None] + eigenvalues[None]
        solvable = sums > len(a) * jnp.finfo(a.dtype).eps * eigenvalues[-1]
        x = jnp.where(solvable, matmul(matmul(u.T, k), u) / jnp.where(solvable, sums, 1), 0)
        return matmul(matmul(u, x), u.T)

    return jax.lax.custom_linear_solve(apply, k, solve, symmetric=True)


@jax.custom_jvp
def _smooth_at_full_rank(a: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Returns `a`; if `a` is singular its derivative is nan, which makes second derivatives nan."""
    return a


@_smooth_at_full_rank.defjvp
def _smooth_at_full_rank_jvp(
    primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Float[Array, "d d"], Float[Array, "d d"]]:
    (a,), (da,) = primals, tangents
    return a, one_at_full_rank(a) * da


def one_at_full_rank(a: Float[Array, "d d"]) -> Float[Array, ""]:
    """Returns 1, or nan if the symmetric matrix `a` is singular."""
    eigenvalues = jnp.linalg.eigvalsh(a)
    full_rank = eigenvalues[0] > len(a) * jnp.finfo(a.dtype).eps * eigenvalues[-1]
    return jnp.where(full_rank, 1, jnp.nan).astype(a.dtype)


def tolerance(moment: Float[AnyArray, "d *d"]) -> float:
    """Allowance for rounding errors of a covariance's eigenvalues, relative to the largest one."""
    return max(1e-3, len(moment) * float(jnp.finfo(moment.dtype).eps))
