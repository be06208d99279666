"""Convolutions and normalisation for training, whose gradients are fast on the CPU.

The sum S(x, k, y) = Σ y ⊙ (x ⋆ k) is linear in the images x, in the kernel k and in y, which has
the shape of the convolution x ⋆ k. Its three partial derivatives

    ∂S/∂y = x ⋆ k,   the convolution,
    ∂S/∂x,           the transposed convolution of y by k, and
    ∂S/∂k,           products of y with the patches of x,

are all that a forward and a backward pass need: each is the gradient of the others. XLA computes
the latter two as dilated convolutions, which take up to 10 times as long on a CPU as these forms:

- A transposed convolution with 4×4 kernels and stride 2 is a convolution with 2×2 kernels and
  stride 1 to four times as many channels, those of blocks of 2×2 pixels.
- A transposed convolution with stride 1 is the convolution by the kernel turned by 180°.
- ∂S/∂k is a matrix product of y with the patches of x, a few images at a time, so that the patches
  stay in the cache. For stride 2 the patches consist of 2×2 blocks of pixels.

With several devices, XLA's own gradients are taken: the images may be sharded, and a few of them at
a time would not be on all devices.

Forward-mode differentiation is not possible through these functions, unlike those in `convolution`.
With a precision of "bfloat16", gradients are rounded where they are multiplied, as the images and
the kernel are.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from srvp_fd_jax.networks.kernels import convolution as plain
from srvp_fd_jax.networks.kernels.convolution import FILTERED, XLA_PRECISION, Precision, rounded

# About as many elements of images go through a convolution at a time.
_CACHED = 2**18

# With fewer channels, Winograd's transforms cost more than they save.
_MIN_WIDTH = 64


def convolution(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "r r c d"],
    *,
    strides: int,
    padding: int,
    precision: Precision = "float32",
) -> Float[Array, "n h2 w2 d"]:
    """Computes what `convolution.convolution` does, for differentiation in reverse mode."""
    divisible = x.shape[1] % strides == x.shape[2] % strides == 0
    if divisible and _is_fast(kernel, strides, padding):
        return _convolution(x, kernel, strides, precision)
    return plain.convolution(x, kernel, strides=strides, padding=padding, precision=precision)


def transposed_convolution(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "r r d c"],
    *,
    strides: int,
    padding: int,
    precision: Precision = "float32",
) -> Float[Array, "n h2 w2 d"]:
    """Computes what `convolution.transposed_convolution` does, for reverse mode."""
    if _is_fast(kernel, strides, padding):
        return _transposed(x, kernel, strides, precision)
    return plain.transposed_convolution(
        x, kernel, strides=strides, padding=padding, precision=precision
    )


@jax.custom_vjp
def normalise(
    x: Float[Array, "n h w c"],
    mean: Float[Array, " c"],
    deviation: Float[Array, " c"],
    scale: Float[Array, " c"],
    bias: Float[Array, " c"],
) -> Float[Array, "n h w c"]:
    """Normalises images to mean `bias` and standard deviation `scale`.

    `mean` and `deviation` are those of `x`; the gradient in `x` takes into account that they depend
    on it, and that in themselves is 0.
    """
    return (x - mean) * (scale / deviation) + bias


def _gradients_of_normalise(
    arrays: tuple[Array, Array, Array, Array], y: Array
) -> tuple[Array, Array, Array, Array, Array]:
    x, mean, deviation, scale = arrays
    count = x.size // x.shape[-1]
    of_bias = y.sum((0, 1, 2))
    # Σ y (x − mean) is also Σ (y − mean of y) x. XLA would hold x − mean in memory from the forward
    # pass on, where the variance needs it.
    y = y - of_bias / count
    of_x = (y * x).sum((0, 1, 2))
    gradient = (y - (x - mean) * (of_x / (count * deviation**2))) * (scale / deviation)
    zeros = jnp.zeros_like(mean)
    return gradient, zeros, zeros, of_x / deviation, of_bias


normalise.defvjp(
    lambda x, mean, deviation, scale, bias: (
        normalise(x, mean, deviation, scale, bias),
        (x, mean, deviation, scale),
    ),
    _gradients_of_normalise,
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(x: Array, kernel: Array, strides: int, precision: Precision) -> Array:
    """∂S/∂y."""
    fast = functools.partial(_convolution_on_cpu, strides=strides)
    direct = _direct(strides, precision)
    return jax.lax.platform_dependent(*rounded(precision, x, kernel), cpu=fast, default=direct)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _transposed(y: Array, kernel: Array, strides: int, precision: Precision) -> Array:
    """∂S/∂x."""
    default = functools.partial(
        plain.transposed_convolution, strides=strides, padding=1, precision=precision
    )
    fast = functools.partial(_transposed_on_cpu, strides=strides)
    return jax.lax.platform_dependent(*rounded(precision, y, kernel), cpu=fast, default=default)


def _products(x: Array, y: Array, kernel: Array, strides: int, precision: Precision) -> Array:
    """∂S/∂k, which has the shape of `kernel`."""
    direct = _direct(strides, precision)

    def default(x: Array, y: Array) -> Array:
        (kernel_of_y,) = jax.linear_transpose(lambda kernel: direct(x, kernel), kernel)(y)
        return kernel_of_y

    fast = functools.partial(_products_on_cpu, strides=strides)
    return jax.lax.platform_dependent(*rounded(precision, x, y), cpu=fast, default=default)


_convolution.defvjp(
    lambda x, kernel, *settings: (_convolution(x, kernel, *settings), (x, kernel)),
    lambda strides, precision, saved, y: (
        _transposed(y, saved[1], strides, precision),
        _products(saved[0], y, saved[1], strides, precision),
    ),
)
_transposed.defvjp(
    lambda y, kernel, *settings: (_transposed(y, kernel, *settings), (y, kernel)),
    lambda strides, precision, saved, x: (
        _convolution(x, saved[1], strides, precision),
        _products(x, saved[0], saved[1], strides, precision),
    ),
)


def _is_fast(kernel: Array, strides: int, padding: int) -> bool:
    # On meshes of several devices the loops over parts of the images would have to communicate.
    return (kernel.shape[0], strides, padding) in FILTERED and jax.device_count() == 1


def _direct(strides: int, precision: Precision = "float32") -> Callable[[Array, Array], Array]:
    return functools.partial(
        plain.direct, strides=strides, padding=1, precision=XLA_PRECISION[precision]
    )


def _convolution_on_cpu(x: Array, kernel: Array, *, strides: int) -> Array:
    tiled = x.shape[1] % (2 * strides) == x.shape[2] % (2 * strides) == 0
    if not tiled or min(kernel.shape[2:]) < _MIN_WIDTH:
        return _direct(strides)(x, kernel)
    y = jax.lax.map(lambda part: plain.winograd(part, kernel), _parts(x, _number_of_parts(x)))
    return y.reshape(-1, *y.shape[2:])


def _transposed_on_cpu(y: Array, kernel: Array, *, strides: int) -> Array:
    if strides == 1:
        return _convolution_on_cpu(y, kernel[::-1, ::-1].swapaxes(2, 3), strides=1)
    c, d = kernel.shape[2:]
    of_blocks = kernel.reshape(2, 2, 2, 2, c, d).swapaxes(1, 2).reshape(2, 2, 4 * c, d)
    x = _direct(1)(y, of_blocks[::-1, ::-1].swapaxes(2, 3))
    n, h, w, _ = x.shape
    x = x.reshape(n, h, w, 2, 2, c).swapaxes(2, 3).reshape(n, 2 * h, 2 * w, c)
    return x[:, 1:-1, 1:-1]


def _products_on_cpu(x: Array, y: Array, *, strides: int) -> Array:
    (_, h, w, d), c = y.shape, x.shape[-1]
    blocks = strides * strides * c
    taps = range(3 if strides == 1 else 2)

    def add(total: Array, part: tuple[Array, ...]) -> tuple[Array, None]:
        x, y = part
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        n, down, across = (
            size // s for size, s in zip(x.shape, (1, strides, strides), strict=False)
        )
        x = x.reshape(n, down, strides, across, strides, c).swapaxes(2, 3)
        x = x.reshape(n, down, across, blocks)
        patches = jnp.concatenate([x[:, i : i + h, j : j + w] for i in taps for j in taps], -1)
        patches = patches.reshape(-1, patches.shape[-1])
        # The other order of the factors takes three times as long.
        return total + jnp.dot(y.reshape(-1, d).T, patches, precision="highest"), None

    parts = _number_of_parts(x)
    zero = jnp.zeros((d, len(taps) ** 2 * blocks), x.dtype)
    total, _ = jax.lax.scan(add, zero, (_parts(x, parts), _parts(y, parts)))
    kernel = total.T.reshape(len(taps), len(taps), strides, strides, c, d).swapaxes(1, 2)
    return kernel.reshape(len(taps) * strides, len(taps) * strides, c, d)


def _parts(x: Array, parts: int) -> Array:
    return x.reshape(parts, -1, *x.shape[1:])


def _number_of_parts(x: Array) -> int:
    """The smallest number of equal parts of the images with at most about `_CACHED` elements."""
    n = max(1, x.shape[0])
    smallest = min(n, max(1, math.ceil(x.size / _CACHED)))
    return next(parts for parts in range(smallest, n + 1) if n % parts == 0)
