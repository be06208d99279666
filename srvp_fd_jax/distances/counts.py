"""Exact counts beyond 32 bits, as pairs of uint32 limbs, since JAX has no int64 by default."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt32

from srvp_fd_jax.devices import values


def add_counts(limbs: UInt32[Array, "k 2"]) -> UInt32[Array, "2"]:
    """Sums up to 2¹⁶ counts, 16 bits at a time, so that the sums fit into 32 bits."""
    low = jnp.sum(limbs[:, 0] & 0xFFFF, dtype=jnp.uint32)
    middle = jnp.sum(limbs[:, 0] >> 16, dtype=jnp.uint32) + (low >> 16)
    high = jnp.sum(limbs[:, 1], dtype=jnp.uint32) + (middle >> 16)
    return jnp.stack([(middle << 16) | (low & 0xFFFF), high])


def limbs_of(count: UInt32[Array, ""]) -> UInt32[Array, "2"]:
    """Limbs of a count below 2³²."""
    return jnp.stack([count, jnp.zeros_like(count)])


def as_float(limbs: UInt32[Array, "*stack 2"], dtype: DTypeLike) -> Float[Array, "*stack"]:
    """The counts as floats, exact up to 2²⁴ in float32."""
    return limbs[..., 1].astype(dtype) * 2.0**32 + limbs[..., 0].astype(dtype)


def exact(limbs: Any) -> Int[np.ndarray | np.int64, "*stack"] | None:
    """The counts as int64, for which the call waits for the device; None while tracing."""
    found = values(limbs)
    if found is None:
        return None
    return found[..., 0].astype(np.int64) + (found[..., 1].astype(np.int64) << 32)
