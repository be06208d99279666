r"""The cubic-kernel distance of KID and KVD, an unbiased estimate of a squared discrepancy.

Bińkowski et al. 2018, arXiv 1801.01401 (Kernel Inception Distance); on features of I3D it is the
Kernel Video Distance of Unterthiner et al. 2018, arXiv 1812.01717. With k(x, y) = (xᵀy / d + 1)³,

    KVD = Σ_{i≠j} k(xᵢ, xⱼ) / (n (n − 1)) + Σ_{i≠j} k(yᵢ, yⱼ) / (m (m − 1)) − 2 Σ k(xᵢ, yⱼ) / (n m).

Tools for KID average this over random subsets. Its mean over all subsets is the value for all
samples, which is computed here.

The three means are nearly equal for close sets, and cancel. The sum stays the same if f(x) + f(y)
is subtracted from k(x, y) for any f, so with the mean c of all samples as a reference, the kernel
is replaced by k(x, y) − k(x, c) − k(c, y) + k(c, c), which is small where x or y is near c. For
x = c + a and y = c + b it is a polynomial in p = 1 + cᵀc / d, u = cᵀa / d, v = cᵀb / d and
w = aᵀb / d in which nothing cancels:

    w (3 s² + 3 s w + w²) + 3 u v (s + p)   with s = p + u + v.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from numpy.typing import ArrayLike

from srvp_fd_jax.distances.factors import matmul
from srvp_fd_jax.files.inputs import as_point_sets


class KernelDistance(NamedTuple):
    """A kernel distance and its standard error, float32 scalars.

    Attributes:
        distance: Unbiased estimate of the squared discrepancy, which may be negative.
        standard_error: Standard error of `distance`; nan for fewer than three samples in a set.
    """

    distance: Float[Array, ""]
    standard_error: Float[Array, ""]


def kvd(
    x: ArrayLike,
    y: ArrayLike,
    x_counts: ArrayLike | None = None,
    y_counts: ArrayLike | None = None,
) -> Float[Array, ""]:
    """The distance of `kernel_distance` alone."""
    return kernel_distance(x, y, x_counts, y_counts).distance


def kernel_distance(
    x: ArrayLike,
    y: ArrayLike,
    x_counts: ArrayLike | None = None,
    y_counts: ArrayLike | None = None,
) -> KernelDistance:
    """Computes the cubic-kernel distance of KID and KVD between two sets of samples.

    The function is smooth in the samples, and its gradient is exact. It takes memory for n·m, n²
    and m² kernel values.

    The standard error is that of the delete-one jackknife on each side (Efron & Stein 1981, Ann.
    Stat. 9), which the row sums of the kernel give without further kernel values. It falls with the
    number of samples, unlike the standard deviation over subsets that tools for KID print. For sets
    of the same distribution, it is too large by a factor of up to √2.

    Args:
        x: Samples [n, d] of the first set, one per row, float; computed with in float32.
        y: Samples [m, d] of the second set.
        x_counts: False for rows of `x` to ignore, bool [n]. None counts all rows.
        y_counts: The same for `y`.

    Returns:
        The distance and its standard error; nan for fewer than two samples in a set, and if one is
        not finite.

    Raises:
        ValueError: If a shape or a type is wrong.

    Example:
        >>> import numpy as np
        >>> from srvp_fd_jax.distances.kvd import kernel_distance
        >>> x, y = np.random.default_rng(0).normal(size=(2, 500, 16)).astype(np.float32)
        >>> same, other = kernel_distance(x, y), kernel_distance(x, y + 0.5)
        >>> bool(abs(same.distance) < 3 * same.standard_error)
        True
        >>> bool(other.distance > 10 * other.standard_error)
        True
    """
    return _kernel_distance(*as_point_sets(x, y, x_counts, y_counts))


@jax.jit
def _kernel_distance(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    x_counts: Bool[Array, " n"] | None,
    y_counts: Bool[Array, " m"] | None,
) -> KernelDistance:
    a, n = _rows(x, x_counts)
    b, m = _rows(y, y_counts)
    # The result does not depend on the reference.
    reference = jax.lax.stop_gradient((jnp.sum(a, axis=0) + jnp.sum(b, axis=0)) / (n + m))
    a, b = _relative(a, x_counts, reference), _relative(b, y_counts, reference)
    across = _kernel(a, b, reference)
    sums_a = jnp.sum(_without_diagonal(_kernel(a, a, reference)), axis=1)
    sums_b = jnp.sum(_without_diagonal(_kernel(b, b, reference)), axis=1)
    across_a, across_b = jnp.sum(across, axis=1), jnp.sum(across, axis=0)
    within_a, within_b = jnp.sum(sums_a), jnp.sum(sums_b)
    between = jnp.sum(across_a)

    def distance(
        within_a: Float[Array, "*#k"],
        n: Float[Array, ""],
        within_b: Float[Array, "*#k"],
        m: Float[Array, ""],
        between: Float[Array, "*#k"],
    ) -> Float[Array, "*k"]:
        return within_a / (n * (n - 1)) + within_b / (m * (m - 1)) - 2 * between / (n * m)

    without_a = distance(within_a - 2 * sums_a, n - 1, within_b, m, between - across_a)
    without_b = distance(within_a, n, within_b - 2 * sums_b, m - 1, between - across_b)
    variance = _jackknife(without_a, x_counts, n) + _jackknife(without_b, y_counts, m)
    return KernelDistance(distance(within_a, n, within_b, m, between), jnp.sqrt(variance))


def _rows(
    x: Float[Array, "n d"], counts: Bool[Array, " n"] | None
) -> tuple[Float[Array, "n d"], Float[Array, ""]]:
    """Samples, zero where they do not count, and their number."""
    if counts is None:
        return x, jnp.asarray(len(x), x.dtype)
    return jnp.where(counts[:, None], x, 0), jnp.sum(counts).astype(x.dtype)


def _relative(
    x: Float[Array, "n d"], counts: Bool[Array, " n"] | None, reference: Float[Array, " d"]
) -> Float[Array, "n d"]:
    """Samples less a reference, zero where they do not count; the kernel of zero is zero."""
    moved = x - reference[None]
    return moved if counts is None else jnp.where(counts[:, None], moved, 0)


def _kernel(
    a: Float[Array, "n d"], b: Float[Array, "m d"], reference: Float[Array, " d"]
) -> Float[Array, "n m"]:
    """Kernel values of samples that are given relative to the reference."""
    d = len(reference)
    p = 1 + jnp.sum(reference**2) / d
    u = matmul(a, reference)[:, None] / d
    v = matmul(b, reference)[None] / d
    w = matmul(a, b.T) / d
    s = p + u + v
    return w * (3 * s**2 + 3 * s * w + w**2) + 3 * u * v * (s + p)


def _without_diagonal(kernel: Float[Array, "n n"]) -> Float[Array, "n n"]:
    return jnp.where(jnp.eye(len(kernel), dtype=bool), 0, kernel)


def _jackknife(
    without: Float[Array, " n"], counts: Bool[Array, " n"] | None, n: Float[Array, ""]
) -> Float[Array, ""]:
    """Variance of a statistic from its values without each sample."""
    deviations = without - jnp.sum(without, where=counts) / n
    return (n - 1) / n * jnp.sum(deviations**2, where=counts)
