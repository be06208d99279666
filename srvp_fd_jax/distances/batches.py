"""A batch of features as it is added to statistics: checked, and relative to its own mean."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Shaped, UInt32

from srvp_fd_jax.devices import AnyArray
from srvp_fd_jax.distances.counts import limbs_of


def centred(
    dtype: DTypeLike,
    features: Float[Array, "n d"],
    mask: Bool[Array, " n"] | None,
    variances: Float[Array, "n d"] | None,
    offset: tuple[Float[Array, " d"], Float[Array, " d"]] | None,
) -> tuple[
    UInt32[Array, "2"],
    Float[Array, " d"],
    Float[Array, " d"],
    Float[Array, "n d"],
    Float[Array, " d"] | None,
]:
    """Arguments of `_fold` for a batch: count, mean and its error, centred rows, variance sum.

    The sum of the two parts of `offset` was subtracted from all samples before.
    """
    features = features.astype(dtype)
    counts = None if mask is None else mask[:, None]
    if mask is None:
        count = jnp.asarray(features.shape[0], jnp.uint32)
    else:
        count = jnp.sum(mask, dtype=jnp.uint32)
    divisor = jnp.maximum(count, 1).astype(features.dtype)

    def masked_mean(rows: Float[Array, "n d"]) -> Float[Array, " d"]:
        # XLA would repeat a division after the sum where the mean is subtracted, with a different
        # rounding, and the second mean would not correct the first mean that is returned.
        return jnp.sum(rows / divisor, axis=0, where=counts)

    # The second mean is the rounding error of the first, however large the mean is.
    mean = masked_mean(features)
    mean_error = masked_mean(features - mean[None])
    variance_sum = None
    if variances is not None:
        variances = variances.astype(features.dtype)
        allowed = jnp.where(variances >= 0, variances, jnp.nan)
        variance_sum = jnp.sum(allowed, axis=0, where=counts)
    rows = features - mean[None] - mean_error[None]
    if counts is not None:
        rows = jnp.where(counts, rows, 0)
    if offset is not None:
        mean, rounded = two_sum(offset[0], mean)
        mean_error = mean_error + offset[1] + rounded
    return limbs_of(count), mean, mean_error, rows, variance_sum


def check_floating(name: str, array: Shaped[AnyArray, "..."]) -> None:
    """Raises a `ValueError` unless an array has floats."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name}: got dtype {array.dtype}, expected floats")


def check_values(
    name: str, array: AnyArray, mask: Bool[AnyArray, " n"] | None, least: float = -np.inf
) -> None:
    """Checks that the unmasked values of a NumPy array are finite and at least `least`."""
    if isinstance(array, jax.Array) or isinstance(mask, jax.Array):
        return
    allowed = np.isfinite(array) & (array >= least)
    if not allowed.all(where=True if mask is None else mask[:, None]):
        or_negative = " or negative" if least == 0 else ""
        raise ValueError(f"{name}: got values that are not finite{or_negative}")


def two_sum(
    a: Float[Array, "*shape"], b: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """The rounded sum a + b and its exact rounding error (Knuth, TAOCP 2, 4.2.2)."""
    # XLA reassociates sums with constants, such as statistics that are closed over, and would find
    # the error to be zero.
    a, b = jax.lax.optimization_barrier((a, b))
    total = a + b
    b_part = total - a
    return total, (a - (total - b_part)) + (b - b_part)
