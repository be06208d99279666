"""Convolutions without bias, which use Winograd's minimal filtering on the CPU.

For a tile of 2×2 outputs, XLA's convolution with an r×r kernel does (2r)² multiplications on the
CPU. Minimal filtering needs (r + 1)² (Winograd 1980; Lavin & Gray 2016, arXiv 1509.09308). It
transforms the tile X and the kernel K, multiplies them pointwise, which for many tiles and channels
is one matrix product per point, and transforms the products to the outputs:

    Y = A [(G K Gᵀ) ⊙ (B X Bᵀ)] Aᵀ.

For r = 2 and r = 3 the transforms are sums of a few terms with coefficients 1 and ½, so the results
are as accurate as those of direct convolution. Larger tiles would save more and lose digits.

Along one axis, such as time, m outputs of r taps take m + r − 1 multiplications instead of m r:
`winograd_in_time` turns a 3-D convolution into 2-D ones of combinations of frames. XLA's 2-D
convolutions are much faster on the CPU than its 3-D ones.
"""

import functools
import operator
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Precision = Literal["float32", "bfloat16"]
"""Type to which a convolution's inputs and kernel are rounded; sums are always float32."""

XLA_PRECISION: dict[Precision, str] = {"float32": "highest", "bfloat16": "default"}
"""XLA's name of each precision; "default" is a backend's fastest one for float32 arrays."""

# A, B and G for each number of outputs and taps along an axis. F(2, 2) and F(2, 3) are those of
# Lavin & Gray. F(4, 3) has the points 0, ±1, 2, −½ and ∞. Those of Lavin & Gray, 0, ±1, ±2 and ∞,
# lose more digits: in I3D the error of a layer is 1.3 times as large.
_Matrix = tuple[tuple[float, ...], ...]
_TRANSFORMS: dict[tuple[int, int], tuple[_Matrix, _Matrix, _Matrix]] = {
    (2, 2): (
        ((1.0, 1.0, 0.0), (0.0, 1.0, 1.0)),
        ((1.0, -1.0, 0.0), (0.0, 1.0, 0.0), (0.0, -1.0, 1.0)),
        ((1.0, 0.0), (1.0, 1.0), (0.0, 1.0)),
    ),
    (2, 3): (
        ((1.0, 1.0, 1.0, 0.0), (0.0, 1.0, -1.0, -1.0)),
        ((1.0, 0.0, -1.0, 0.0), (0.0, 1.0, 1.0, 0.0), (0.0, -1.0, 1.0, 0.0), (0.0, 1.0, 0.0, -1.0)),
        ((1.0, 0.0, 0.0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.0, 0.0, 1.0)),
    ),
    (4, 3): (
        (
            (1.0, 1.0, 1.0, 1.0, 1.0, 0.0),
            (0.0, 1.0, -1.0, 2.0, -1 / 2, 0.0),
            (0.0, 1.0, 1.0, 4.0, 1 / 4, 0.0),
            (0.0, 1.0, -1.0, 8.0, -1 / 8, 1.0),
        ),
        (
            (1.0, 3 / 2, -2.0, -3 / 2, 1.0, 0.0),
            (0.0, -1.0, -5 / 2, -1 / 2, 1.0, 0.0),
            (0.0, 1.0, 1 / 2, -5 / 2, 1.0, 0.0),
            (0.0, -1 / 2, -1.0, 1 / 2, 1.0, 0.0),
            (0.0, 2.0, -1.0, -2.0, 1.0, 0.0),
            (0.0, 1.0, 3 / 2, -2.0, -3 / 2, 1.0),
        ),
        (
            (1.0, 0.0, 0.0),
            (-1 / 3, -1 / 3, -1 / 3),
            (1 / 3, -1 / 3, 1 / 3),
            (1 / 15, 2 / 15, 4 / 15),
            (-16 / 15, 8 / 15, -4 / 15),
            (0.0, 0.0, 1.0),
        ),
    ),
}

# With fewer multiplications per kernel tap, the transforms and the longer compilation cost more
# than they save. This is reached by 16 frames in a layer of the published DCGAN64.
_MIN_WORK = 2**27

FILTERED = ((3, 1, 1), (4, 2, 1))
"""Sizes, strides and paddings of the kernels that `winograd` takes."""

_Grid = list[list[Array]]


def convolution(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "r r c d"],
    *,
    strides: int,
    padding: int,
    precision: Precision = "float32",
) -> Float[Array, "n h2 w2 d"]:
    """Cross-correlation of float32 images with square kernels.

    `strides` are equal in both directions, and `padding` zeros are added on each of the four sides.
    """
    x, kernel = rounded(precision, x, kernel)
    if x.shape[1:3] == kernel.shape[:2] and padding == 0:
        # On a CPU a matrix product takes a quarter of the time of XLA's convolution.
        product = jnp.tensordot(x, kernel, 3, precision=XLA_PRECISION[precision])
        return product[:, None, None]
    default = functools.partial(
        direct, strides=strides, padding=padding, precision=XLA_PRECISION[precision]
    )
    n, h, w, c = x.shape
    tiles = n * (h // strides // 2) * (w // strides // 2)
    # With few tiles, the transforms of the kernel take more time and memory than the products.
    worth_it = x.size * kernel.shape[-1] >= _MIN_WORK and 2 * tiles >= c
    if worth_it and (kernel.shape[0], strides, padding) in FILTERED:
        return jax.lax.platform_dependent(x, kernel, cpu=winograd, default=default)
    return default(x, kernel)


def transposed_convolution(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "r r d c"],
    *,
    strides: int,
    padding: int,
    precision: Precision = "float32",
) -> Float[Array, "n h2 w2 d"]:
    """Transpose, as a linear map, of `convolution` with the same arguments from d to c channels.

    A side of n pixels becomes (n − 1)·strides − 2·padding + r pixels long.
    """
    x, kernel = rounded(precision, x, kernel)
    if x.shape[1:3] == (1, 1) and padding == 0:
        return jnp.einsum("nijc,hwdc->nhwd", x, kernel, precision=XLA_PRECISION[precision])
    around = kernel.shape[0] - 1 - padding
    return jax.lax.conv_transpose(
        x,
        kernel,
        (strides, strides),
        [(around, around)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        transpose_kernel=True,
        precision=XLA_PRECISION[precision],
    )


def convolution_3d(
    x: Float[Array, "n t h w c"],
    kernel: Float[Array, "kt kh kw c c2"],
    stride: int,
    precision: Precision = "float32",
) -> Float[Array, "n t2 h2 w2 c2"]:
    """3-D convolution with TensorFlow's "SAME" padding, by the fastest method of each backend."""
    x, kernel = rounded(precision, x, kernel)
    default = functools.partial(
        direct, strides=stride, padding="SAME", precision=XLA_PRECISION[precision]
    )
    if kernel.shape[0] == 1:
        return default(x, kernel)
    # With fewer channels, compilation costs more time and memory than the products would save.
    filtered = kernel.shape[0] == 3 and stride == 1 and kernel.shape[3] >= 64
    on_cpu = winograd_in_time if filtered else functools.partial(_frames_as_channels, stride=stride)
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=default)


def _frames_as_channels(
    x: Float[Array, "n t h w c"], kernel: Float[Array, "kt kh kw c c2"], stride: int
) -> Float[Array, "n t2 h2 w2 c2"]:
    """2-D convolution whose channels are those of all frames that the kernel spans."""
    kt, kh, kw, c, c2 = kernel.shape
    n, t, h, w, _ = x.shape
    (padding,) = jax.lax.padtype_to_pads((t,), (kt,), (stride,), "SAME")
    x = jnp.pad(x, ((0, 0), padding, (0, 0), (0, 0), (0, 0)))
    starts = np.arange(0, t, stride)
    windows = jnp.moveaxis(x[:, starts[:, None] + np.arange(kt)], 2, 4)  # n t2 h w kt c
    frames = direct(
        windows.reshape(-1, h, w, kt * c),
        jnp.moveaxis(kernel, 0, 2).reshape(kh, kw, kt * c, c2),
        strides=stride,
        padding="SAME",
    )
    return frames.reshape(n, len(starts), *frames.shape[1:])


def rounded(precision: Precision, *arrays: Float[Array, "..."]) -> list[Float[Array, "..."]]:
    """Rounds arrays so that their products at `XLA_PRECISION[precision]` agree on all backends.

    Units that multiply in bfloat16 (TPU) or TF32 (GPU) round their inputs to 8 or 11 significant
    bits. Products of inputs with 8 significant bits are exact there.
    """
    if precision == "float32":
        return list(arrays)
    return [jax.lax.reduce_precision(a, exponent_bits=8, mantissa_bits=7) for a in arrays]


def winograd(
    x: Float[Array, "n h w c"], kernel: Float[Array, "r r c d"]
) -> Float[Array, "n h2 w2 d"]:
    """Convolution with padding 1 and either 3×3 kernels and stride 1 or 4×4 kernels and stride 2.

    Height and width of the images `x`, divided by the stride, must be even.
    """
    n, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    if kernel.shape[0] == 3:
        return _outputs(_products(padded, kernel), 3)
    # The sum of two convolutions with stride 1 and 2×2 kernels, one on the even rows and one on the
    # odd rows, with pairs of columns as channels.
    rows = padded.reshape(n, h // 2 + 1, 2, w // 2 + 1, 2 * c)
    kernels = kernel.reshape(2, 2, 2, 2 * c, -1)
    even, odd = (_products(rows[:, :, i], kernels[:, i]) for i in (0, 1))
    return _outputs(jax.tree.map(operator.add, even, odd), 2)


def winograd_in_time(
    x: Float[Array, "n t h w c"], kernel: Float[Array, "3 3 3 c d"]
) -> Float[Array, "n t h w d"]:
    """3-D convolution with 3×3×3 kernels, stride 1 and padding 1, by minimal filtering along time.

    Four frames of the result take 6 2-D convolutions in place of 12, two frames 4 in place of 6.
    """
    n, t, h, w, c = x.shape
    outputs = 4 if t > 2 else 2
    a, b, g = _TRANSFORMS[outputs, 3]
    end = outputs * -(-t // outputs)
    padded = jnp.pad(x, ((0, 0), (1, end - t + 1), (0, 0), (0, 0), (0, 0)))
    tiles = tuple(padded[:, i : i + end : outputs] for i in range(outputs + 2))
    products = tuple(
        direct(v.reshape(-1, h, w, c), u, strides=1, padding=1)
        for v, u in zip(_combine(b, tiles), _combine(g, tuple(kernel)), strict=True)
    )
    of_tiles = [y.reshape(n, -1, h, w, y.shape[-1]) for y in _combine(a, products)]
    return jnp.stack(of_tiles, 2).reshape(n, end, h, w, -1)[:, :t]


def direct(
    x: Float[Array, "n *size c"],
    kernel: Float[Array, "*r c d"],
    *,
    strides: int,
    padding: int | Literal["SAME"],
    precision: str = "highest",
) -> Float[Array, "n *size2 d"]:
    """XLA's convolution of images or clips."""
    axes = "DHW"[3 - (x.ndim - 2) :]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (strides,) * len(axes),
        padding if isinstance(padding, str) else [(padding, padding)] * len(axes),
        dimension_numbers=(f"N{axes}C", f"{axes}IO", f"N{axes}C"),
        precision=precision,
    )


def _products(x: Array, kernel: Array) -> _Grid:
    """(G K Gᵀ) ⊙ (B X Bᵀ) as a grid of arrays [n, rows of tiles, columns of tiles, d]."""
    r = kernel.shape[0]
    _, b, g = _TRANSFORMS[2, r]
    h, w = x.shape[1] - r + 1, x.shape[2] - r + 1
    tiles = [[x[:, i : i + h : 2, j : j + w : 2] for j in range(r + 1)] for i in range(r + 1)]
    kernels = [[kernel[i, j] for j in range(r)] for i in range(r)]
    return [
        [jnp.dot(v, u, precision="highest") for v, u in zip(*rows, strict=True)]
        for rows in zip(_transform(b, tiles), _transform(g, kernels), strict=True)
    ]


def _outputs(products: _Grid, r: int) -> Array:
    """A M Aᵀ, with the tiles of outputs joined to images."""
    y = _transform(_TRANSFORMS[2, r][0], products)
    stacked = jnp.stack([jnp.stack(row, 3) for row in y], 2)
    n, down, _, across, _, d = stacked.shape
    return stacked.reshape(n, 2 * down, 2 * across, d)


def _transform(matrix: _Matrix, x: _Grid) -> _Grid:
    """M X Mᵀ for a grid X of arrays."""
    for _ in range(2):  # X ← (M X)ᵀ
        x = [_combine(matrix, column) for column in zip(*x, strict=True)]
    return x


def _combine(matrix: _Matrix, arrays: tuple[Array, ...]) -> list[Array]:
    """M X for a column X of arrays."""
    terms = [[c * x for c, x in zip(row, arrays, strict=True) if c] for row in matrix]
    return [functools.reduce(operator.add, of_row) for of_row in terms]
