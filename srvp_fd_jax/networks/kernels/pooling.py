"""Max pooling that is fast on the CPU as well."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def max_pool_2x2(x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Computes the maxima of blocks of 2×2 pixels.

    The gradient goes to the first maximum of a block. That of `nnx.max_pool` does as well, and
    takes four times as long on the CPU.
    """
    rows = [_larger(x[:, i::2, ::2], x[:, i::2, 1::2]) for i in (0, 1)]
    return _larger(*rows)


def _larger(x: Array, y: Array) -> Array:
    return jnp.where((y > x) | jnp.isnan(y), y, x)


def max_pool_3d(
    x: Float[Array, "n t h w c"], window: tuple[int, int, int], strides: tuple[int, int, int]
) -> Float[Array, "n t2 h2 w2 c"]:
    """Max pooling with "SAME" padding, one axis at a time: 3 + 3 + 3 comparisons instead of 27."""
    for axis, (size, stride) in enumerate(zip(window, strides, strict=True)):
        if size > 1:
            w, s = [1, 1, 1], [1, 1, 1]
            w[axis], s[axis] = size, stride
            x = nnx.max_pool(x, tuple(w), tuple(s), "SAME")
    return x
